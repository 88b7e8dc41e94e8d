"""POST /v1/responses, whole and as events in the order of the API. Nothing is kept between requests."""

import quirky

from .asking import Content, Refused
from .chat import WORDS_OF_A_TOOL, logprobs_of, number
from .speaking import Ask, answer_to, pieces, words

INCOMPLETE = {"length": {"reason": "max_output_tokens"}}
ECHOED = {"instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {},
          "parallel_tool_calls": True, "previous_response_id": None, "prompt_cache_key": None, "reasoning": None,
          "safety_identifier": None, "service_tier": "default", "store": False, "temperature": 1.0,
          "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": 1.0, "truncation": "disabled", "user": None}


def read_items(value):
    """The items of `input`, as a list."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise Refused("input must be a text or a list of items", "input")
    return value


def read_ask(answer, body):
    items = read_items(body["input"])
    if body.get("previous_response_id"):
        raise Refused("no responses are kept here", "previous_response_id", "previous_response_not_found")
    contents = [(item, Content(item.get("content"))) for item in items if item.get("type", "message") == "message"]
    users = [content for item, content in contents if item.get("role") == "user"]
    last = users[-1] if users else Content("")
    results = []
    for item in reversed(items):
        if item.get("type") not in ("function_call_output", "custom_tool_call_output"):
            break
        if not item.get("call_id"):
            raise Refused("an output needs a call_id", "input[0].call_id")
        results.insert(0, Content(item.get("output")).text)
    tools = [(tool.get("name"), tool.get("parameters")) for tool in body.get("tools") or []
             if isinstance(tool, dict) and tool.get("type") == "function"]
    choice = body.get("tool_choice", "auto")
    choice = f"={choice.get('name')}" if isinstance(choice, dict) else str(choice)
    if choice.startswith("=") and choice[1:] not in [name for name, _ in tools]:
        raise Refused(f"there is no tool {choice[1:]}", "tool_choice")
    reasoning = body.get("reasoning") or {}
    ask = Ask(text=last.text, media=last.notes, results=results, tools=tools, choice=choice,
              parallel=body.get("parallel_tool_calls") is not False, schema=read_format(body.get("text")),
              reasoning=reasoning.get("effort") not in (None, "none") or "reasoning" in answer.q,
              limit=body.get("max_output_tokens"), echo=answer.r.echo() if "echo" in answer.q else None,
              length=answer.q.get("tokens"))
    calls = sum(words([item.get("arguments"), item.get("output")]) for item in items if "call_id" in item)
    prompt = sum(content.words + 3 for _, content in contents) + words(body.get("instructions"))
    return ask, prompt + calls + WORDS_OF_A_TOOL * len(tools)


def read_format(text):
    format = (text or {}).get("format") or {}
    if format.get("type") == "json_object":
        return True
    if format.get("type") != "json_schema":
        return None
    if not isinstance(format.get("schema"), dict):
        raise Refused("text.format has no schema", "text.format.schema", "invalid_schema")
    return format["schema"]


def usage_of(prompt, saying):
    reasoning, written = saying.count()
    return {"input_tokens": prompt, "input_tokens_details": {"cached_tokens": prompt // 4}, "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": reasoning}, "total_tokens": prompt + written}


async def responses(answer):
    body = answer.need("input")
    number(body, "temperature", 0, 2, 1)
    top = int(number(body, "top_logprobs", 0, 20, 0))
    ask, prompt = read_ask(answer, body)
    saying = answer_to(ask)
    view = View(answer, body, saying, top if "message.output_text.logprobs" in (body.get("include") or []) else None)
    usage = usage_of(prompt, saying)
    if body.get("stream") is True:
        await answer.stream_events(view.numbered(usage), done=b"")
        return
    await answer.c.wait(int(answer.q.get("delay", 0)) / 1000 * len(pieces(saying.text)))
    await answer.reply_json(200, view.response(view.status(), view.output(), usage),
                            extra=[("X-Request-Id", answer.name("req_"))])


class View:
    def __init__(self, answer, body, saying, top):
        self.answer, self.body, self.saying, self.top = answer, body, saying, top
        self.wants_summary = bool((body.get("reasoning") or {}).get("summary"))
        self.refuses = "refuse" in answer.q and not saying.calls

    def name(self, prefix, *more):
        return self.answer.name(prefix, *more)

    def status(self):
        return "incomplete" if self.saying.finish == "length" else "completed"

    def response(self, status, output, usage):
        echoed = {name: self.body.get(name, otherwise) for name, otherwise in ECHOED.items()}
        echoed["tools"] = [{"strict": True, **tool} for tool in echoed["tools"] or []]
        echoed["text"] = {"format": {"type": "text"}, **(self.body.get("text") or {})}
        return {"id": self.name("resp_"), "object": "response", "created_at": quirky.CREATED, "status": status,
                "background": False, "error": None,
                "incomplete_details": INCOMPLETE.get(self.saying.finish) if status == "incomplete" else None,
                "model": self.body["model"], "output": output, **echoed, "usage": usage}

    # The items of the output: each as it is when it is done.

    def reasoning_item(self):
        part = {"type": "summary_text" if self.wants_summary else "reasoning_text", "text": self.saying.reasoning}
        return {"id": self.name("rs_"), "type": "reasoning", "status": "completed", "encrypted_content": None,
                "summary": [part] if self.wants_summary else [], "content": [] if self.wants_summary else [part]}

    def call_items(self):
        return [{"id": f"fc_{call}", "type": "function_call", "status": "completed", "call_id": f"call_{call}",
                 "name": name, "arguments": arguments} for call, name, arguments in self.saying.calls]

    def message_item(self):
        if self.refuses:
            part = {"type": "refusal", "refusal": f"I will not: {self.saying.text}"}
        else:
            part = self.text_part(self.saying.text)
        return {"id": self.name("msg_"), "type": "message", "role": "assistant", "status": self.status(),
                "content": [part]}

    def text_part(self, text):
        entries = [] if self.top is None else self.entries(text)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": entries}

    def entries(self, text):
        return logprobs_of(pieces(text), self.top)["content"]

    def output(self):
        reasoning = [self.reasoning_item()] if self.saying.reasoning else []
        return reasoning + (self.call_items() or [self.message_item()])

    # The same as events.

    def numbered(self, usage):
        for number, (tokens, kind, value) in enumerate(self.events(usage)):
            yield tokens, kind, {"type": kind, "sequence_number": number, **value}

    def events(self, usage):
        """(tokens, type, the rest of the event)."""
        begun = self.response("in_progress", [], None)
        yield 0, "response.created", {"response": begun}
        yield 0, "response.in_progress", {"response": begun}
        for index, item in enumerate(self.output()):
            empty = {**item, "status": "in_progress"}
            for name in ("content", "summary"):
                if name in item:
                    empty[name] = []
            if "arguments" in item:
                empty["arguments"] = ""
            yield 0, "response.output_item.added", {"output_index": index, "item": empty}
            place = {"item_id": item["id"], "output_index": index}
            if item["type"] == "function_call":
                yield from self.text_events("response.function_call_arguments", place, item["arguments"], "arguments",
                                            {"name": item["name"]})
            elif item["type"] == "reasoning":
                yield from self.reasoning_events(place)
            else:
                yield from self.part_events(place, item["content"][0])
            yield 0, "response.output_item.done", {"output_index": index, "item": item}
        status = self.status()
        yield 0, f"response.{status}", {"response": self.response(status, self.output(), usage)}

    def reasoning_events(self, place):
        text = self.saying.reasoning
        if self.wants_summary:
            place = {**place, "summary_index": 0}
            part = {"type": "summary_text", "text": ""}
            yield 0, "response.reasoning_summary_part.added", {**place, "part": part}
            yield from self.text_events("response.reasoning_summary_text", place, text, "text")
            yield 0, "response.reasoning_summary_part.done", {**place, "part": {**part, "text": text}}
        else:
            place = {**place, "content_index": 0}
            part = {"type": "reasoning_text", "text": ""}
            yield 0, "response.content_part.added", {**place, "part": part}
            yield from self.text_events("response.reasoning_text", place, text, "text")
            yield 0, "response.content_part.done", {**place, "part": {**part, "text": text}}

    def part_events(self, place, part):
        place = {**place, "content_index": 0}
        if part["type"] == "refusal":
            yield 0, "response.content_part.added", {**place, "part": {**part, "refusal": ""}}
            yield from self.text_events("response.refusal", place, part["refusal"], "refusal")
        else:
            yield 0, "response.content_part.added", {**place, "part": {**part, "text": "", "logprobs": []}}
            entries = iter(part["logprobs"])
            for token in pieces(part["text"]):
                shown = [entry for entry in (next(entries, None),) if entry]
                yield 1, "response.output_text.delta", {**place, "delta": token, "logprobs": shown}
            yield 0, "response.output_text.done", {**place, "text": part["text"], "logprobs": part["logprobs"]}
        yield 0, "response.content_part.done", {**place, "part": part}

    @staticmethod
    def text_events(kind, place, text, field, more=None):
        for token in pieces(text):
            yield 1, f"{kind}.delta", {**place, "delta": token}
        yield 0, f"{kind}.done", {**place, field: text, **(more or {})}


async def input_tokens(answer):
    """POST /v1/responses/input_tokens."""
    body = answer.need("input")
    _, prompt = read_ask(answer, body)
    await answer.reply_json(200, {"object": "response.input_tokens", "input_tokens": prompt})


ROUTES = {"/v1/responses": responses, "/v1/responses/input_tokens": input_tokens}
