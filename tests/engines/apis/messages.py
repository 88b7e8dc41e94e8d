"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

import json

from .asking import Content, Refused
from .chat import WORDS_OF_A_TOOL, number
from .speaking import Ask, answer_to, digest, pieces, words

STOP = {"stop": "end_turn", "length": "max_tokens", "tools": "tool_use"}
CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def read_ask(answer, body):
    messages = body["messages"]
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise Refused("messages: at least one message is required")
    if any(message.get("role") not in ("user", "assistant", "system") for message in messages):
        raise Refused("messages: roles are user and assistant")
    contents = [Content(message.get("content")) for message in messages]
    users = [content for message, content in zip(messages, contents) if message["role"] == "user"]
    last = users[-1] if users else contents[-1]
    results, calls = [], 0
    for message in messages:
        blocks = message.get("content") if isinstance(message.get("content"), list) else []
        found = [block for block in blocks if isinstance(block, dict) and block.get("type") == "tool_result"]
        results = [Content(block.get("content")).text for block in found]
        calls += words([block.get("input") for block in blocks if isinstance(block, dict)]) + words(results)
    tools = [(tool.get("name"), tool.get("input_schema")) for tool in body.get("tools") or []]
    asked = body.get("tool_choice") or {"type": "auto"}
    choice = f"={asked.get('name')}" if asked.get("type") == "tool" else CHOICES.get(asked.get("type"), "auto")
    if choice.startswith("=") and choice[1:] not in [name for name, _ in tools]:
        raise Refused(f"tool_choice: there is no tool {choice[1:]}")
    thinking = body.get("thinking") or {}
    format = ((body.get("output_config") or {}).get("format") or body.get("output_format") or {})
    ask = Ask(text=last.text, media=last.notes, results=results, tools=tools, choice=choice,
              parallel=asked.get("disable_parallel_tool_use") is not True,
              schema=format.get("schema") if format.get("type") == "json_schema" else None,
              reasoning=thinking.get("type") in ("enabled", "adaptive") or "reasoning" in answer.q,
              limit=body.get("max_tokens"), stops=body.get("stop_sequences") or [],
              echo=answer.r.echo() if "echo" in answer.q else None, length=answer.q.get("tokens"))
    prompt = sum(content.words + 3 for content in contents) + words(body.get("system")) + calls
    return ask, prompt + WORDS_OF_A_TOOL * len(tools)


async def messages(answer):
    body = answer.need("messages", "max_tokens")
    number(body, "temperature", 0, 1, 1)
    ask, prompt = read_ask(answer, body)
    view = View(answer, body, answer_to(ask), prompt)
    if body.get("stream") is True:
        await answer.stream_events(view.events(), done=b"")
        return
    await answer.c.wait(int(answer.q.get("delay", 0)) / 1000 * len(pieces(view.saying.text)))
    await answer.reply_json(200, view.message(), extra=[("Request-Id", answer.name("req_"))])


class View:
    def __init__(self, answer, body, saying, prompt):
        self.answer, self.body, self.saying, self.prompt = answer, body, saying, prompt

    def blocks(self):
        blocks = []
        if self.saying.reasoning:
            blocks.append({"type": "thinking", "thinking": self.saying.reasoning,
                           "signature": digest(self.saying.reasoning, 32)})
        if self.saying.calls:
            for call, name, arguments in self.saying.calls:
                blocks.append({"type": "tool_use", "id": f"toolu_{call}", "name": name, "input": arguments})
        elif self.saying.text:
            blocks.append({"type": "text", "text": self.saying.text})
        return blocks

    def usage(self, written):
        return {"input_tokens": self.prompt - self.prompt // 4, "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": self.prompt // 4, "output_tokens": written, "service_tier": "standard"}

    def message(self):
        content = [{**block, "input": json.loads(block["input"])} if block["type"] == "tool_use" else block
                   for block in self.blocks()]
        return {"id": self.answer.name("msg_"), "type": "message", "role": "assistant", "model": self.body["model"],
                "content": content, **self.stop(), "usage": self.usage(self.saying.count()[1])}

    def stop(self):
        if "refuse" in self.answer.q:
            return {"stop_reason": "refusal", "stop_sequence": None}
        if self.saying.stopped_by is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": self.saying.stopped_by}
        return {"stop_reason": STOP[self.saying.finish], "stop_sequence": None}

    def events(self):
        begun = {**self.message(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": self.usage(1)}
        yield self.event("message_start", message=begun)
        for index, block in enumerate(self.blocks()):
            yield from self.block_events(index, block)
            if index == 0:
                yield self.event("ping")
        written = self.saying.count()[1]
        yield self.event("message_delta", delta=self.stop(), usage=self.usage(written))
        yield self.event("message_stop")

    def block_events(self, index, block):
        kind = block["type"]
        empty = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}, "tool_use": {"input": {}}}[kind]
        yield self.event("content_block_start", index=index, content_block={**block, **empty})
        field = {"thinking": "thinking", "text": "text", "tool_use": "input"}[kind]
        name = {"thinking": "thinking_delta", "text": "text_delta", "tool_use": "input_json_delta"}[kind]
        shown = "partial_json" if kind == "tool_use" else field
        for token in pieces(block[field]):
            yield self.event("content_block_delta", 1, index=index, delta={"type": name, shown: token})
        if kind == "thinking":
            signature = {"type": "signature_delta", "signature": block["signature"]}
            yield self.event("content_block_delta", index=index, delta=signature)
        yield self.event("content_block_stop", index=index)

    @staticmethod
    def event(kind, tokens=0, **value):
        return tokens, kind, {"type": kind, **value}


async def count_tokens(answer):
    body = answer.need("messages")
    _, prompt = read_ask(answer, body)
    await answer.reply_json(200, {"input_tokens": prompt})


ROUTES = {"/v1/messages": messages, "/v1/messages/count_tokens": count_tokens}
