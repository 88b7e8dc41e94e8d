#!/usr/bin/env python3
"""An OpenAI-style server with the habits, good and bad, of servers in the field.

It is written on raw sockets with the Python standard library alone, so that nothing in it agrees with our HTTP code by
construction. Each request chooses its own behaviour by a list of quirks, taken together from
  - the last message (or the prompt):  "... quirk:http10,tokens=5 ..."
  - the model's name after a plus:     "quirky+http10"
  - the header                         X-Quirk: http10,tokens=5
  - the query                          /v1/chat/completions?quirk=http10

Framing    upper lower (header names; else Title-Case), chunked, length, http10, close, chunk-ext, trailers, split-head,
           one-byte, coalesced, crlf-sse, comments, ndjson, bom
Timing     slow-first (1.5 s before the head), slow-body (1.5 s after the head), first=MS, delay=MS (between tokens)
Failures   500 503 400 401 429, html, invalid-json, empty, reset, garbage, break-head, break-length, break-chunk,
           break-sse, error-event, no-done, stall (answers half, then says nothing more until the caller leaves)
Size       tokens=N (default 8), huge (16 MiB) or huge=BYTES, huge-head (200 headers of 1 KiB), ignore-limit
Usage      no-usage, running-usage, usage-unasked, usage-negative, usage-huge, usage-float, usage-string, usage-null,
           reasoning, cached
Content    tools, unicode

An answer is "tok0 tok1 tok2 ..."; prompt tokens are the whitespace-separated words of all messages.
GET /_seen tells what was received and how requests ended; POST /_reset forgets it. `--port 0` prints `PORT n`.
"""

import argparse
import asyncio
import collections
import json
import re
import sys
import urllib.parse

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_TOKENS = 200_000
SEEN_KEPT = 256
POLL_S = 0.02
STALL_LIMIT_S = 60.0
CREATED = 1_700_000_000
STATUS_TEXT = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
               413: "Payload Too Large", 429: "Too Many Requests", 500: "Internal Server Error",
               503: "Service Unavailable"}


class CallerLeft(Exception):
    """The caller closed the connection before its answer was complete."""


class Cut(Exception):
    """A quirk asks for the connection to be cut here."""


class State:
    """What the server has seen, for tests to read back."""

    def __init__(self, model):
        self.model = model
        self.reset()

    def reset(self):
        self.requests = collections.deque(maxlen=SEEN_KEPT)
        self.total = 0
        self.finished = 0
        self.cancelled = 0
        self.cut = 0
        self.active = 0
        self.peak_active = 0
        self.connections = 0
        self.tokens_written = 0

    def view(self):
        numbers = {k: v for k, v in vars(self).items() if isinstance(v, int)}
        return {**numbers, "model": self.model, "requests": list(self.requests)}


def parse_quirks(text):
    """{"http10": True, "tokens": 5} from "http10,tokens=5"; numbers are non-negative integers."""
    quirks = {}
    for item in text.split(","):
        name, _, value = item.strip().partition("=")
        if name:
            quirks[name] = int(value) if value.isdigit() else (value or True)
    return quirks


class Request:
    def __init__(self, method, target, version, headers, body):
        self.method, self.version, self.headers, self.body = method, version, headers, body
        split = urllib.parse.urlsplit(target)
        self.target, self.path = target, split.path
        self.json, self.text = None, ""
        try:
            self.json = json.loads(body) if body else None
        except ValueError:
            pass
        self.quirks = {}
        for value in urllib.parse.parse_qs(split.query).get("quirk", []):
            self.quirks.update(parse_quirks(value))
        self.quirks.update(parse_quirks(self.header("x-quirk") or ""))
        if isinstance(self.json, dict):
            self.quirks.update(parse_quirks(str(self.json.get("model", "")).partition("+")[2]))
            self.text = self.prompt_text()
            for found in re.findall(r"quirk:(\S+)", self.last_text()):
                self.quirks.update(parse_quirks(found))

    def header(self, name):
        return next((v for n, v in self.headers if n.lower() == name), None)

    def messages(self):
        found = self.json.get("messages")
        return [m for m in found if isinstance(m, dict)] if isinstance(found, list) else []

    @staticmethod
    def content_text(content):
        if isinstance(content, str):
            return content
        parts = content if isinstance(content, list) else []
        return " ".join(str(p.get("text", "")) if isinstance(p, dict) else str(p) for p in parts)

    def prompt_text(self):
        if self.path.endswith("/chat/completions"):
            return " ".join(self.content_text(m.get("content")) for m in self.messages())
        return self.content_text(self.json.get("prompt"))

    def last_text(self):
        messages = self.messages()
        return self.content_text(messages[-1].get("content")) if messages else self.text

    def seen(self):
        shown = self.json if self.json is not None else self.body[:4096].decode("latin-1")
        return {"method": self.method, "target": self.target, "version": self.version, "headers": self.headers,
                "body": shown, "body_bytes": len(self.body)}


class Connection:
    """One connection; `request` and `answer` are the classes that read and serve what comes over it."""

    def __init__(self, state, reader, writer, request=None, answer=None):
        self.state, self.reader, self.writer = state, reader, writer
        self.request_class, self.answer_class = request or Request, answer or Answer
        self.keep = True

    # Reading.

    async def read_request(self):
        """The next request, or None where the caller closed between requests."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            return None
        lines = head.decode("latin-1").split("\r\n")
        first = lines[0].split(" ")
        if len(first) != 3:
            return None
        headers = [[n.strip(), v.strip()] for n, _, v in (line.partition(":") for line in lines[1:] if line)]
        lower = {n.lower(): v for n, v in headers}
        if lower.get("expect", "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in lower.get("transfer-encoding", "").lower():
            body = await self.read_chunked()
        else:
            length = int(lower.get("content-length") or 0)
            if length > MAX_BODY_BYTES:
                return None
            body = await self.reader.readexactly(length)
        connection = lower.get("connection", "").lower()
        self.keep = "close" not in connection if first[2] == "HTTP/1.1" else "keep-alive" in connection
        return self.request_class(first[0], first[1], first[2], headers, body)

    async def read_chunked(self):
        body = bytearray()
        while True:
            size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
            if len(body) + size > MAX_BODY_BYTES:
                raise Cut("request body over the limit")
            if size == 0:
                while (await self.reader.readuntil(b"\r\n")) != b"\r\n":
                    pass
                return bytes(body)
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)

    # Writing.

    def check_caller(self):
        if self.reader.at_eof() or self.writer.transport.is_closing():
            raise CallerLeft()

    async def wait(self, seconds):
        """Waits, but notices within POLL_S that the caller has left."""
        end = asyncio.get_running_loop().time() + seconds
        while True:
            self.check_caller()
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.sleep(min(left, POLL_S))

    async def write(self, data):
        self.check_caller()
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError as error:
            raise CallerLeft() from error

    async def serve(self):
        self.state.connections += 1
        try:
            while self.keep:
                request = await self.read_request()
                if request is None or not await self.serve_one(request):
                    return
        except (Cut, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            self.writer.close()

    async def serve_one(self, request):
        """Answers one request; False where the connection must close."""
        if request.path == "/_seen":
            await Answer(self, request).reply_json(200, self.state.view())
            return True
        if request.path == "/_reset":
            self.state.reset()
            await Answer(self, request).reply_json(200, {})
            return True
        state = self.state
        if request.method == "POST":
            state.total += 1
            state.requests.append(request.seen())
        state.active += 1
        state.peak_active = max(state.peak_active, state.active)
        try:
            await self.answer_class(self, request).run()
            state.finished += 1
            return self.keep
        except CallerLeft:
            state.cancelled += 1
        except Cut:
            state.cut += 1
        finally:
            state.active -= 1
        return False


class Answer:
    """One answer: the framing of HTTP below, the meaning of OpenAI's API above."""

    def __init__(self, connection, request):
        self.c, self.r, self.q = connection, request, request.quirks
        self.framing = None
        self.number = connection.state.total

    # Framing.

    def header_name(self, name):
        if "upper" in self.q:
            return name.upper()
        return name.lower() if "lower" in self.q else name

    async def head(self, status, content_type, length=None, extra=()):
        """Sends the head; picks the framing by quirk, else Content-Length where known, else chunked."""
        q = self.q
        if "http10" in q or self.r.version == "HTTP/1.0":
            self.framing = "close"
        elif "close" in q:
            self.framing = "close"
        elif length is not None and "chunked" not in q:
            self.framing = "length"
        else:
            self.framing = "chunked"
        headers = [("Content-Type", content_type), ("Server", "quirky"), *extra]
        if "huge-head" in q:
            headers += [(f"X-Padding-{i}", "x" * 1024) for i in range(200)]
        if self.framing == "length":
            longer = 10_000 if "break-length" in q else 0
            headers.append(("Content-Length", str(length + longer)))
        elif self.framing == "chunked":
            headers.append(("Transfer-Encoding", "chunked"))
            if "trailers" in q:
                headers.append(("Trailer", "X-Checksum"))
        if self.framing == "close":
            self.c.keep = False
            if "http10" not in q:
                headers.append(("Connection", "close"))
        version = "HTTP/1.0" if "http10" in q else "HTTP/1.1"
        lines = [f"{version} {status} {STATUS_TEXT.get(status, 'Odd')}"]
        lines += [f"{self.header_name(n)}: {v}" for n, v in headers]
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if "break-head" in q:
            await self.c.write(data[: len(data) // 2])
            raise Cut("break-head")
        if "split-head" in q:
            for i in range(0, len(data), 7):
                await self.c.write(data[i:i + 7])
                await self.c.wait(0.001)
        else:
            await self.c.write(data)
        if "slow-body" in q:
            await self.c.wait(1.5)

    async def body(self, data):
        if not data:
            return
        if "one-byte" in self.q and len(data) > 1:
            for i in range(len(data)):
                await self.piece(data[i:i + 1])
                await asyncio.sleep(0)
        else:
            await self.piece(data)

    async def piece(self, data):
        if self.framing != "chunked":
            await self.c.write(data)
            return
        extension = b";note=\"quirk\"" if "chunk-ext" in self.q else b""
        await self.c.write(b"%X%s\r\n%s\r\n" % (len(data), extension, data))

    async def end(self):
        if self.framing == "chunked":
            trailer = f"{self.header_name('X-Checksum')}: 0\r\n".encode() if "trailers" in self.q else b""
            await self.c.write(b"0\r\n" + trailer + b"\r\n")

    async def break_off(self):
        """Cuts the body in the middle of a chunk, or of what was promised."""
        if self.framing == "chunked":
            await self.c.write(b"400\r\ndata: {\"choices\":[{\"del")
        raise Cut("break")

    async def reply(self, status, content_type, data, extra=()):
        await self.head(status, content_type, len(data), extra)
        if "break-chunk" in self.q:
            await self.body(data[: len(data) // 2])
            await self.break_off()
        step = 64 * 1024
        for i in range(0, len(data), step):
            await self.body(data[i:i + step])
        if "break-length" in self.q and self.framing == "length":
            raise Cut("break-length")
        await self.end()

    async def reply_json(self, status, value, extra=()):
        await self.reply(status, "application/json", json.dumps(value).encode(), extra)

    async def reply_error(self, status, message, kind, code=None, param=None, extra=()):
        error = {"message": message, "type": kind, "param": param, "code": code}
        await self.reply_json(status, {"error": error}, extra)

    # Meaning.

    async def run(self):
        q, r = self.q, self.r
        first_ms = 1500 if "slow-first" in q else int(q.get("first", 0))
        await self.c.wait(first_ms / 1000)
        if await self.failed_early():
            return
        if r.path in ("/v1/models", "/models"):
            entry = {"id": self.c.state.model, "object": "model", "created": CREATED, "owned_by": "quirky"}
            await self.reply_json(200, {"object": "list", "data": [entry]})
        elif r.path in ("/health", "/"):
            await self.reply_json(200, {"status": "ok"})
        elif r.path in ("/v1/chat/completions", "/v1/completions"):
            await self.completion(r.path.endswith("/chat/completions"))
        else:
            await self.reply_error(404, f"no such path: {r.path}", "invalid_request_error", "not_found")

    async def failed_early(self):
        q = self.q
        if "reset" in q:
            raise Cut("reset")
        if "garbage" in q:
            await self.c.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            raise Cut("garbage")
        for status, kind, code in ((500, "server_error", "quirk"), (503, "overloaded_error", "overloaded"),
                                   (400, "invalid_request_error", "quirk"), (401, "authentication_error", "bad_key"),
                                   (429, "rate_limit_error", "rate_limit_exceeded")):
            if str(status) in q:
                extra = [("Retry-After", "7")] if status == 429 else []
                await self.reply_error(status, f"quirky says {status}", kind, code, extra=extra)
                return True
        if "html" in q:
            await self.reply(200, "text/html", b"<html><body>It works!</body></html>")
        elif "invalid-json" in q:
            await self.reply(200, "application/json", b'{"id": "x", "choices": [{"message": {"content": "un')
        elif "empty" in q:
            await self.reply(200, "application/json", b"")
        else:
            return False
        return True

    async def completion(self, chat):
        r = self.r
        if r.method != "POST":
            await self.reply_error(405, "use POST", "invalid_request_error")
            return
        if not isinstance(r.json, dict):
            await self.reply_error(400, "the body is not a JSON object", "invalid_request_error")
            return
        needed = "messages" if chat else "prompt"
        for field in ("model", needed):
            if field not in r.json:
                await self.reply_error(400, f"{field} is required", "invalid_request_error", None, field)
                return
        if str(r.json["model"]).partition("+")[0] != self.c.state.model:
            await self.reply_error(404, f"the model {r.json['model']} does not exist", "invalid_request_error",
                                   "model_not_found", "model")
            return
        if r.json.get("stream") is True:
            await self.stream(chat)
        else:
            await self.whole(chat)

    def pieces(self):
        """The tokens to write and the finish reason, under the caller's own limit."""
        wanted = min(int(self.q.get("tokens", 8)), MAX_TOKENS)
        limit = self.r.json.get("max_completion_tokens") or self.r.json.get("max_tokens")
        reason = "stop"
        if isinstance(limit, int) and limit < wanted and "ignore-limit" not in self.q:
            wanted, reason = limit, "length"
        word = "жетон\U0001F36C{}" if "unicode" in self.q else "tok{}"
        return [(" " if i else "") + word.format(i) for i in range(wanted)], reason

    def usage(self, completion):
        q = self.q
        if "usage-null" in q:
            return None
        prompt = len(self.r.text.split())
        if "usage-negative" in q:
            return {"prompt_tokens": -5, "completion_tokens": -1_000_000, "total_tokens": -1_000_005}
        if "usage-huge" in q:
            return {"prompt_tokens": 10**18, "completion_tokens": 2**63, "total_tokens": 2**64 + 10**18}
        if "usage-float" in q:
            return {"prompt_tokens": prompt + 0.5, "completion_tokens": completion * 1.5, "total_tokens": 1e300}
        if "usage-string" in q:
            return {"prompt_tokens": str(prompt), "completion_tokens": "many", "total_tokens": None}
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        if "cached" in q:
            usage["prompt_tokens_details"] = {"cached_tokens": prompt // 2}
        if "reasoning" in q:
            usage["completion_tokens_details"] = {"reasoning_tokens": completion // 2}
        return usage

    def envelope(self, chat, stream):
        kind = ("chat.completion.chunk" if stream else "chat.completion") if chat else "text_completion"
        return {"id": f"quirky-{self.number}", "object": kind, "created": CREATED,
                "model": self.r.json["model"], "system_fingerprint": "fp_quirky"}

    def tool_call(self):
        return {"id": "call_0", "type": "function", "function": {"name": "lookup", "arguments": '{"word": "tok"}'}}

    async def whole(self, chat):
        pieces, reason = self.pieces()
        delay_s = int(self.q.get("delay", 0)) / 1000
        await self.c.wait(delay_s * len(pieces))
        text = "".join(pieces)
        if "huge" in self.q:
            size = self.q["huge"] if isinstance(self.q["huge"], int) else 16 * 1024 * 1024
            text = "x" * min(size, MAX_BODY_BYTES)
        answer = self.envelope(chat, False)
        if not chat:
            answer["choices"] = [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]
        else:
            message = {"role": "assistant", "content": text}
            if "reasoning" in self.q:
                message["reasoning_content"] = "let me think"
            if "tools" in self.q:
                message, reason = {"role": "assistant", "content": None, "tool_calls": [self.tool_call()]}, "tool_calls"
            answer["choices"] = [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}]
        if "no-usage" not in self.q:
            answer["usage"] = self.usage(len(pieces))
        self.c.state.tokens_written += len(pieces)
        data = json.dumps(answer, ensure_ascii=False).encode()
        await self.reply(200, "application/json", (b"\xef\xbb\xbf" if "bom" in self.q else b"") + data)

    def deltas(self, chat, pieces, reason):
        """The choices of each event, in order, with the number of tokens written once it is out."""
        if not chat:
            for i, text in enumerate(pieces):
                yield i + 1, {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
            yield len(pieces), {"index": 0, "text": "", "logprobs": None, "finish_reason": reason}
            return
        yield 0, {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        if "tools" in self.q:
            call = self.tool_call()
            arguments = call["function"]["arguments"]
            first = {**call, "index": 0, "function": {"name": "lookup", "arguments": ""}}
            yield 0, {"index": 0, "delta": {"tool_calls": [first]}, "finish_reason": None}
            for n, i in enumerate(range(0, len(arguments), 4)):
                part = {"index": 0, "function": {"arguments": arguments[i:i + 4]}}
                yield n + 1, {"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": None}
            yield len(pieces), {"index": 0, "delta": {}, "finish_reason": "tool_calls"}
            return
        if "reasoning" in self.q:
            yield 0, {"index": 0, "delta": {"reasoning_content": "let me think"}, "finish_reason": None}
        for i, text in enumerate(pieces):
            yield i + 1, {"index": 0, "delta": {"content": text}, "finish_reason": None}
        yield len(pieces), {"index": 0, "delta": {}, "finish_reason": reason}

    def event(self, value):
        data = json.dumps(value, ensure_ascii=False).encode()
        if "ndjson" in self.q:
            return data + b"\n"
        line_end = b"\r\n" if "crlf-sse" in self.q else b"\n"
        return b"data: " + data + line_end + line_end

    async def stream(self, chat):
        q, state = self.q, self.c.state
        pieces, reason = self.pieces()
        options = self.r.json.get("stream_options")
        asked = isinstance(options, dict) and options.get("include_usage") is True
        show_usage = (asked or "usage-unasked" in q) and "no-usage" not in q
        delay_s = int(q.get("delay", 0)) / 1000
        await self.head(200, "application/x-ndjson" if "ndjson" in q else "text/event-stream",
                        extra=[("Cache-Control", "no-cache")])
        held = bytearray()

        async def emit(data):
            if "coalesced" in q:
                held.extend(data)
            else:
                await self.body(data)

        if "bom" in q:
            await emit(b"\xef\xbb\xbf")
        before = 0
        for written, choice in self.deltas(chat, pieces, reason):
            if written > before and delay_s:
                await self.c.wait(delay_s)
            if "comments" in q:
                await emit(b": still here\n\n")
            chunk = {**self.envelope(chat, True), "choices": [choice]}
            if "running-usage" in q:
                chunk["usage"] = self.usage(written)
            elif asked:
                chunk["usage"] = None
            await emit(self.event(chunk))
            state.tokens_written += max(0, written - before)
            half = before < len(pieces) // 2 <= written
            before = max(before, written)
            if half:
                await self.fail_midway(held)
        if show_usage:
            await emit(self.event({**self.envelope(chat, True), "choices": [], "usage": self.usage(len(pieces))}))
        if "ndjson" not in q and "no-done" not in q:
            await emit(b"data: [DONE]\r\n\r\n" if "crlf-sse" in q else b"data: [DONE]\n\n")
        if held:
            await self.body(bytes(held))
        await self.end()

    async def fail_midway(self, held):
        """The failures that strike when half of the tokens are out."""
        q = self.q
        if not {"break-sse", "break-chunk", "error-event", "stall"} & q.keys():
            return
        if held:
            await self.body(bytes(held))
            held.clear()
        if "error-event" in q:
            error = {"message": "quirky broke down", "type": "server_error", "param": None, "code": 500}
            await self.body(self.event({"error": error}))
            await self.end()
            raise Cut("error-event")
        if "stall" in q:
            await self.c.wait(STALL_LIMIT_S)
            raise Cut("stall")
        if "break-sse" in q:
            raise Cut("break-sse")
        await self.break_off()


async def serve(port, connect):
    """Serves on 127.0.0.1 for ever; `connect(reader, writer)` makes the Connection of each caller."""

    async def handle(reader, writer):
        try:
            await connect(reader, writer).serve()
        except asyncio.CancelledError:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port, limit=MAX_HEAD_BYTES, backlog=512)
    print(f"PORT {server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


async def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--model", default="quirky", help="the one model that is served")
    arguments = parser.parse_args()
    state = State(arguments.model)
    await serve(arguments.port, lambda reader, writer: Connection(state, reader, writer))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(0)
