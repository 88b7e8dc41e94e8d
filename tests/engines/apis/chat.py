"""POST /v1/chat/completions."""

import base64

import quirky

from .asking import Content, Refused
from .sounds import wave
from .speaking import Ask, answer_to, logprob, pieces, words

CREATED = quirky.CREATED
AUDIO_BYTES_PER_PIECE = 960
WORDS_OF_A_TOOL = 8


def number(body, name, least, most, otherwise):
    value = body.get(name)
    if value is None:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise Refused(f"{name} must be from {least} to {most}", name, "invalid_value")
    return value


def read_ask(answer, body):
    """The neutral request, and the tokens of its prompt: (all, of sounds)."""
    messages = body["messages"]
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise Refused("messages must be a list with a message in it", "messages")
    contents = [Content(message.get("content")) for message in messages]
    users = [content for message, content in zip(messages, contents) if message.get("role") == "user"]
    last = users[-1] if users else contents[-1]
    results = []
    for message, content in zip(reversed(messages), reversed(contents)):
        if message.get("role") not in ("tool", "function"):
            break
        if not message.get("tool_call_id") and message["role"] == "tool":
            raise Refused("a tool's message needs a tool_call_id", f"messages.[{len(messages) - 1}].tool_call_id")
        results.insert(0, content.text)
    tools = []
    for position, tool in enumerate(body.get("tools") or []):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not function.get("name"):
            raise Refused("a tool needs a name", f"tools[{position}].function.name")
        tools.append((function["name"], function.get("parameters")))
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict):
        choice = f"={(choice.get('function') or {}).get('name')}"
        if choice[1:] not in [name for name, _ in tools]:
            raise Refused(f"there is no tool {choice[1:]}", "tool_choice")
    effort = body.get("reasoning_effort")
    stop = body.get("stop") or []
    ask = Ask(text=last.text, media=last.notes, results=results, tools=tools, choice=str(choice),
              parallel=body.get("parallel_tool_calls") is not False, schema=read_schema(body.get("response_format")),
              reasoning=effort not in (None, "none") or "reasoning" in answer.q,
              limit=body.get("max_completion_tokens") or body.get("max_tokens"),
              stops=stop if isinstance(stop, list) else [stop], seed=int(body.get("seed") or 0),
              echo=answer.r.echo() if "echo" in answer.q else None, length=answer.q.get("tokens"))
    for content in contents:
        content.words += 3
    calls = sum(words([call.get("function") for call in message.get("tool_calls") or []]) for message in messages)
    prompt = sum(content.words for content in contents) + calls + WORDS_OF_A_TOOL * len(tools)
    return ask, (prompt, sum(content.sounds for content in contents))


def read_schema(format):
    if not isinstance(format, dict) or format.get("type") in (None, "text"):
        return None
    if format["type"] == "json_object":
        return True
    schema = (format.get("json_schema") or {}).get("schema")
    if format["type"] != "json_schema" or not isinstance(schema, dict):
        raise Refused("response_format has no schema", "response_format.json_schema.schema", "invalid_schema")
    return schema


def usage_of(prompt, sayings, spoken):
    whole, sounds = prompt
    counts = [saying.count() for saying in sayings]
    completion = sum(count for _, count in counts)
    return {"prompt_tokens": whole, "completion_tokens": completion, "total_tokens": whole + completion,
            "prompt_tokens_details": {"cached_tokens": whole // 4, "audio_tokens": sounds},
            "completion_tokens_details": {
                "reasoning_tokens": sum(reasoning for reasoning, _ in counts),
                "audio_tokens": sum(len(pieces(saying.text)) for saying in sayings) if spoken else 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}}


def logprobs_of(tokens, top):
    content = []
    for position, token in enumerate(tokens):
        value = logprob(token, position)
        shown = {"token": token, "logprob": value, "bytes": list(token.encode())}
        others = [{"token": f"{token}{i}", "logprob": value - i, "bytes": list(f"{token}{i}".encode())}
                  for i in range(1, top)]
        content.append({**shown, "top_logprobs": [shown, *others] if top else []})
    return {"content": content, "refusal": None}


def call_view(call):
    return {"id": f"call_{call[0]}", "type": "function", "function": {"name": call[1], "arguments": call[2]}}


FINISH = {"stop": "stop", "length": "length", "tools": "tool_calls"}


async def chat(answer):
    body = answer.need("messages")
    number(body, "temperature", 0, 2, 1)
    count = int(number(body, "n", 1, 128, 1))
    top = int(number(body, "top_logprobs", 0, 20, 0))
    ask, prompt = read_ask(answer, body)
    spoken = "audio" in (body.get("modalities") or [])
    if spoken and not (isinstance(body.get("audio"), dict) and body["audio"].get("format") and body["audio"].get("voice")):
        raise Refused("audio needs a format and a voice", "audio")
    sayings = [answer_to(ask, index) for index in range(count)]
    view = View(answer, body, spoken, top if body.get("logprobs") else None)
    if body.get("stream") is True:
        options = body.get("stream_options")
        asked = isinstance(options, dict) and options.get("include_usage") is True
        usage = usage_of(prompt, sayings, spoken) if asked else None
        await answer.stream_events(view.events(sayings, usage))
        return
    delay_s = int(answer.q.get("delay", 0)) / 1000
    await answer.c.wait(delay_s * sum(len(pieces(saying.text)) for saying in sayings))
    choices = [view.choice(index, saying) for index, saying in enumerate(sayings)]
    whole = {**view.envelope("chat.completion"), "choices": choices, "usage": usage_of(prompt, sayings, spoken)}
    await answer.reply_json(200, whole, extra=[("X-Request-Id", answer.name("req_"))])


class View:
    """How sayings are shown."""

    def __init__(self, answer, body, spoken, top):
        self.answer, self.body, self.spoken, self.top = answer, body, spoken, top
        self.id = answer.name("chatcmpl-")
        self.refuses = "refuse" in answer.q

    def envelope(self, kind):
        return {"id": self.id, "object": kind, "created": CREATED, "model": self.body["model"],
                "service_tier": "default", "system_fingerprint": "fp_versatile"}

    def audio_data(self, saying):
        return wave(len(pieces(saying.text)) * AUDIO_BYTES_PER_PIECE // 2, saying.text)

    def choice(self, index, saying):
        message = {"role": "assistant", "content": saying.text or None, "refusal": None, "annotations": []}
        if self.refuses:
            message.update(content=None, refusal=f"I will not: {saying.text}")
        if saying.reasoning:
            message["reasoning_content"] = saying.reasoning
        if saying.calls:
            message["tool_calls"] = [call_view(call) for call in saying.calls]
        elif self.spoken:
            data = base64.b64encode(self.audio_data(saying)).decode()
            message.update(content=None, audio={"id": f"audio_{self.id[-8:]}", "data": data, "transcript": saying.text,
                                                "expires_at": CREATED + 3600})
        logprobs = None if self.top is None else logprobs_of(pieces(saying.text), self.top)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": FINISH[saying.finish]}

    def events(self, sayings, usage):
        envelope = self.envelope("chat.completion.chunk")
        if usage is not None:
            envelope["usage"] = None
        for index, saying in enumerate(sayings):
            for tokens, delta, logprobs in self.deltas(saying):
                choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
                yield tokens, None, {**envelope, "choices": [choice]}
            last = {"index": index, "delta": {}, "logprobs": None, "finish_reason": FINISH[saying.finish]}
            yield 0, None, {**envelope, "choices": [last]}
        if usage is not None:
            yield 0, None, {**envelope, "choices": [], "usage": usage}

    def deltas(self, saying):
        """(tokens, delta, logprobs) of one choice."""
        yield 0, {"role": "assistant", "content": "" if not (saying.calls or self.spoken) else None, "refusal": None}, None
        for token in pieces(saying.reasoning):
            yield 1, {"reasoning_content": token}, None
        for position, call in enumerate(saying.calls):
            view = call_view(call)
            view["function"]["arguments"] = ""
            yield 0, {"tool_calls": [{"index": position, **view}]}, None
            for token in pieces(call[2]):
                yield 1, {"tool_calls": [{"index": position, "function": {"arguments": token}}]}, None
        tokens = pieces(saying.text)
        if self.refuses:
            for token in pieces(f"I will not: {saying.text}"):
                yield 1, {"refusal": token}, None
        elif self.spoken and tokens:
            data = self.audio_data(saying)
            name = f"audio_{self.id[-8:]}"
            yield 0, {"audio": {"id": name, "transcript": ""}}, None
            for position, token in enumerate(tokens):
                yield 1, {"audio": {"transcript": token}}, None
            # Sound comes without a header in streams, as raw samples.
            step = 3 * 1024
            samples = data[44:]
            for start in range(0, len(samples), step):
                yield 0, {"audio": {"data": base64.b64encode(samples[start:start + step]).decode()}}, None
            yield 0, {"audio": {"expires_at": CREATED + 3600}}, None
        else:
            shown = [None] * len(tokens) if self.top is None else logprobs_of(tokens, self.top)["content"]
            for token, entry in zip(tokens, shown):
                yield 1, {"content": token}, entry and {"content": [entry], "refusal": None}


ROUTES = {"/v1/chat/completions": chat}
