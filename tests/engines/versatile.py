#!/usr/bin/env python3
"""A server with everything that OpenAI-style engines do, in their true shapes; what it says follows from the request.

It has the HTTP and the quirks of quirky.py, and serves chat completions, completions, responses, Anthropic's messages,
embeddings, rerank, moderations, tokens, sound and images: the modules of apis/. What is asked for decides the answer:

  a text                    is repeated: "You said: ..."; images, sounds and files beside it are named with their hash
  a tool's name in it       calls that tool, with arguments that its schema allows; `city=Oslo` in the text sets one
  results of tools          are repeated
  a schema for the answer   gets an example of it

Quirks (see quirky.py for how to ask, and for more of them; in forms they are asked for in `prompt`, and everywhere by
text, since a gateway may not pass headers on):

  echo         the answer's text is the request's body as it was received; a form's parts are named with their hashes
  tokens=N     the answer has N tokens
  delay=MS     between tokens
  status=N     an error with this status, which names the field `quirk`
  flaky=NAME   429 to every first of two requests with this name
  refuse       a refusal
  reset, stall, break-sse, error-event, 429, 500, ... as there

GET /_seen tells what was received. `--without speech,rerank` leaves kinds out, `--key KEY` demands one. `--port 0` prints
`PORT n`.
"""

import argparse
import asyncio
import collections
import json
import sys

import quirky
from apis import chat, completions, messages, pictures, responses, sounds, texts
from apis.asking import Refused, Request
from apis.speaking import digest

CREATED = quirky.CREATED
FLAKY_KEPT = 1024
FAMILIES = (chat, completions, responses, messages, texts, sounds, pictures)
KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
         409: "conflict_error", 413: "request_too_large", 422: "invalid_request_error", 429: "rate_limit_error",
         503: "overloaded_error", 529: "overloaded_error"}
quirky.STATUS_TEXT.update({403: "Forbidden", 409: "Conflict", 422: "Unprocessable Entity", 529: "Overloaded"})


class State(quirky.State):
    def __init__(self, model, key, without):
        self.key, self.without = key, without
        self.flaky = collections.OrderedDict()
        super().__init__(model)

    def fails_now(self, name):
        """Whether this is an odd request with this name."""
        count = self.flaky[name] = self.flaky.pop(name, 0) + 1
        if len(self.flaky) > FLAKY_KEPT:
            self.flaky.popitem(last=False)
        return count % 2 == 1

    def view(self):
        return {name: value for name, value in super().view().items() if name != "key"}


class Answer(quirky.Answer):
    """What the modules of apis/ use to answer."""

    def __init__(self, connection, request):
        super().__init__(connection, request)
        self.ask = request.json if isinstance(request.json, dict) else None
        self.anthropic = request.path.startswith("/v1/messages")

    async def run(self):
        r, q, state = self.r, self.q, self.c.state
        await self.c.wait(int(q.get("first", 0)) / 1000)
        if state.key and state.key not in (r.header("x-api-key"), (r.header("authorization") or "")[len("Bearer "):]):
            await self.refuse(Refused("the key is wrong", code="invalid_api_key", status=401))
        elif await self.failed_early():
            return
        elif r.path in ("/health", "/", "/version"):
            await self.reply_json(200, {"status": "ok"})
        elif r.path == "/v1/models" or r.path.startswith("/v1/models/"):
            await self.models()
        else:
            await self.route()

    async def route(self):
        r = self.r
        known = {path: handler for family in FAMILIES for path, handler in family.ROUTES.items()}
        if r.path not in known or any(name in r.path for name in self.c.state.without):
            await self.refuse(Refused(f"no such path: {r.path}", code="not_found", status=404))
        elif r.method != "POST":
            await self.refuse(Refused("use POST", status=405))
        else:
            try:
                await known[r.path](self)
            except Refused as refused:
                await self.refuse(refused)

    async def models(self):
        model = self.c.state.model
        entry = {"id": model, "object": "model", "created": CREATED, "owned_by": "versatile", "max_model_len": 131072}
        if self.r.path == "/v1/models":
            await self.reply_json(200, {"object": "list", "data": [entry]})
        elif self.r.path == f"/v1/models/{model}":
            await self.reply_json(200, entry)
        else:
            await self.refuse(Refused("the model does not exist", "model", "model_not_found", 404))

    # What a request must have.

    def need(self, *names):
        """The JSON of the request, with these fields and a model that is served here."""
        if self.ask is None:
            raise Refused("the body is not a JSON object")
        for name in ("model", *names):
            if self.ask.get(name) is None:
                raise Refused(f"{name} is required", name)
        self.need_model(self.ask["model"])
        return self.ask

    def need_form(self, *files):
        """The request, which is a form with these files."""
        if self.r.parts is None:
            raise Refused("the body is not a form")
        if self.r.field("model") is None:
            raise Refused("model is required", "model")
        self.need_model(self.r.field("model"))
        for name in files:
            if not self.r.files(name):
                raise Refused(f"{name} is required", name)
        return self.r

    def need_model(self, name):
        if str(name).partition("+")[0] != self.c.state.model:
            raise Refused(f"the model {name} does not exist", "model", "model_not_found", 404)

    def name(self, prefix, *more):
        """An identifier that follows from what was asked."""
        asked = self.ask and {key: self.ask.get(key) for key in ("messages", "input", "prompt", "query", "tools")}
        # Some paths have a second name, which a gateway may replace by the first.
        return prefix + digest([self.r.path.removeprefix("/v1"), asked, *more], 24)

    # Errors.

    async def failed_early(self):
        q = self.q
        status = q.get("status")
        if isinstance(status, int) and 400 <= status <= 599:
            await self.refuse(Refused(f"quirk says {status}", "quirk", f"quirk_{status}", status))
            return True
        if "flaky" in q and self.c.state.fails_now(str(q["flaky"])):
            await self.refuse(Refused("try again", "quirk", "rate_limit_exceeded", 429))
            return True
        return await super().failed_early()

    async def refuse(self, refused):
        extra = []
        if refused.status in (429, 503):
            extra = [("Retry-After", "1"), ("X-RateLimit-Limit-Requests", "1"), ("X-RateLimit-Remaining-Requests", "0")]
        kind = KINDS.get(refused.status, "api_error" if self.anthropic else "server_error")
        await self.reply_error(refused.status, str(refused), kind, refused.code, refused.param, extra)

    async def reply_error(self, status, message, kind, code=None, param=None, extra=()):
        if self.anthropic:
            error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": self.name("req_")}
            await self.reply_json(status, error, extra)
        else:
            await super().reply_error(status, message, kind, code, param, extra)

    # Streams.

    def event(self, value, name=None):
        line_end = "\r\n" if "crlf-sse" in self.q else "\n"
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        named = f"event: {name}{line_end}" if name else ""
        return f"{named}data: {data}{line_end}{line_end}".encode("utf-8", "surrogatepass")

    async def stream_events(self, events, done=b"data: [DONE]\n\n", content_type="text/event-stream"):
        """Sends events: (tokens that it brings, its name or None, its value); then `done`."""
        events = list(events)
        total = sum(tokens for tokens, _, _ in events)
        await self.head(200, content_type, extra=[("Cache-Control", "no-cache")])
        delay_s, written = int(self.q.get("delay", 0)) / 1000, 0
        for tokens, name, value in events:
            if tokens and delay_s:
                await self.c.wait(delay_s)
            await self.body(self.event(value, name))
            self.c.state.tokens_written += tokens
            if written < (total + 1) // 2 <= written + tokens:
                await self.fail_midway(bytearray())
            written += tokens
        await self.body(done)
        await self.end()

    async def fail_midway(self, held):
        if "error-event" not in self.q:
            await super().fail_midway(held)
            return
        message = "the engine broke down"
        if self.anthropic:
            event = self.event({"type": "error", "error": {"type": "overloaded_error", "message": message}}, "error")
        elif self.r.path == "/v1/responses":
            value = {"type": "error", "code": "server_error", "message": message, "param": None, "sequence_number": 999}
            event = self.event(value, "error")
        else:
            event = self.event({"error": {"message": message, "type": "server_error", "param": None, "code": 500}})
        await self.body(event)
        await self.end()
        raise quirky.Cut("error-event")


async def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--model", default="versatile", help="the one model that is served")
    parser.add_argument("--key", default="", help="the key that callers must show")
    parser.add_argument("--without", default="", help="parts of paths that are not served, with commas between")
    arguments = parser.parse_args()
    without = [name for name in arguments.without.split(",") if name]
    state = State(arguments.model, arguments.key, without)
    await quirky.serve(arguments.port, lambda reader, writer: quirky.Connection(state, reader, writer, Request, Answer))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(0)
