"""The ordinary features of the official Anthropic client for Python. Run by ../features.py."""

import base64
import json
import sys

import anthropic
import pydantic

from frame import PICTURE, Features, equal, raises

features = Features("anthropic (Python)", anthropic.__version__)
case = features.case
WEATHER = {"name": "get_weather", "description": "The weather in a city", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
CLOCK = {"name": "get_time", "input_schema": {"type": "object", "properties": {"zone": {"type": "string"}}}}


class Lamp(pydantic.BaseModel):
    place: str
    height: float


def client(at, **more):
    return anthropic.Anthropic(**{"base_url": at.url, "api_key": "unused", "max_retries": 0, "timeout": 30, **more})


def ask(at, content, limit=256, **more):
    messages = content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
    return client(at).messages.create(model=at.model, max_tokens=limit, messages=messages, **more)


@case("messages", "a text with usage, a system prompt, a conversation")
def _(at):
    plain = ask(at, "The lamp is lit", system="Be brief", metadata={"user_id": "u"})
    equal(plain.content[0].text, "You said: The lamp is lit", "text")
    assert plain.usage.cache_read_input_tokens > 0 and plain.usage.input_tokens > 0, plain.usage
    talk = ask(at, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                    {"role": "user", "content": [{"type": "text", "text": "c", "cache_control": {"type": "ephemeral"}}]}])
    equal(talk.content[0].text, "You said: c", "text")
    return [plain, talk]


@case("messages", "limits and stop sequences")
def _(at):
    cut = ask(at, "one two three", limit=2)
    equal((cut.content[0].text, cut.stop_reason), ("You said:", "max_tokens"))
    stopped = ask(at, "one two three", stop_sequences=[" two"])
    equal((stopped.stop_reason, stopped.stop_sequence), ("stop_sequence", " two"))
    return [cut, stopped]


@case("counting tokens", "before a message is sent")
def _(at):
    tools, messages = [WEATHER], [{"role": "user", "content": "one two three"}]
    results = []
    for more in ({}, {"system": "Be brief"}, {"tools": tools}):
        counted = client(at).messages.count_tokens(model=at.model, messages=messages, **more)
        usage = ask(at, "one two three", **more).usage
        equal(counted.input_tokens, usage.input_tokens + usage.cache_read_input_tokens, "tokens")
        results += [counted, client(at).beta.messages.count_tokens(model=at.model, messages=messages, **more)]
    error = raises(anthropic.NotFoundError, lambda: client(at).messages.count_tokens(model="none", messages=messages))
    return [*results, error.body["error"]["type"]]


@case("streaming", "events in their order, the helper, and async")
def _(at):
    messages = [{"role": "user", "content": "The lamp is lit"}]
    events = list(client(at).messages.create(model=at.model, max_tokens=64, messages=messages, stream=True))
    kinds = [event.type for event in events]
    equal((kinds[0], kinds[-2:]), ("message_start", ["message_delta", "message_stop"]))
    with client(at).messages.stream(model=at.model, max_tokens=64, messages=messages) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    equal(text, "You said: The lamp is lit", "text")
    equal(final.usage.output_tokens, ask(at, "The lamp is lit").usage.output_tokens, "output tokens")
    return [events, final]


@case("streaming", "async")
async def _(at):
    async with anthropic.AsyncAnthropic(base_url=at.url, api_key="unused", max_retries=0) as asynchronous:
        messages = [{"role": "user", "content": "a b c"}]
        whole = await asynchronous.messages.create(model=at.model, max_tokens=64, messages=messages)
        async with asynchronous.messages.stream(model=at.model, max_tokens=64, messages=messages) as stream:
            final = await stream.get_final_message()
    equal(final.content[0].text, whole.content[0].text, "text")
    return [whole, final]


@case("tools", "one call, several, one asked for, none")
def _(at):
    tools = [WEATHER, CLOCK]
    one = ask(at, "get_weather city=Oslo", tools=tools)
    equal((one.stop_reason, one.content[0].input), ("tool_use", {"city": "Oslo"}))
    both = ask(at, "get_weather and get_time", tools=tools, tool_choice={"type": "any"})
    equal(len(both.content), 2, "calls")
    single = ask(at, "get_weather and get_time", tools=tools,
                 tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    equal(len(single.content), 1, "calls")
    asked = ask(at, "hello", tools=tools, tool_choice={"type": "tool", "name": "get_time"})
    equal(asked.content[0].name, "get_time", "tool")
    none = ask(at, "get_weather", tools=tools, tool_choice={"type": "none"})
    equal(none.content[0].type, "text", "block")
    return [one, both, single, asked, none]


@case("tools", "a loop of calls and results, streamed")
def _(at):
    messages = [{"role": "user", "content": "get_weather and get_time city=Oslo"}]
    with client(at).messages.stream(model=at.model, max_tokens=256, messages=messages, tools=[WEATHER, CLOCK]) as stream:
        final = stream.get_final_message()
    equal([block.name for block in final.content], ["get_weather", "get_time"], "calls")
    messages.append({"role": "assistant", "content": [block.model_dump(include={"type", "id", "name", "input"})
                                                      for block in final.content]})
    messages.append({"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": block.id, "content": f"{block.name} is fine"} for block in final.content]})
    answer = ask(at, messages, tools=[WEATHER, CLOCK])
    equal(answer.content[0].text, "The tools say: get_weather is fine | get_time is fine", "answer")
    return [final, answer]


@case("structured output", "parsed models")
def _(at):
    answer = client(at).messages.parse(model=at.model, max_tokens=256, output_format=Lamp,
                                       messages=[{"role": "user", "content": "describe place=cape height=30"}])
    equal(answer.parsed_output, Lamp(place="cape", height=30), "parsed")
    return answer


@case("reasoning", "thinking with its signature, streamed too")
def _(at):
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = ask(at, "think", limit=2048, thinking=thinking)
    equal([block.type for block in answer.content], ["thinking", "text"], "blocks")
    assert answer.content[0].signature, answer
    with client(at).messages.stream(model=at.model, max_tokens=2048, thinking=thinking,
                                    messages=[{"role": "user", "content": "think"}]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    equal(final.content[0].thinking, answer.content[0].thinking, "streamed thinking")
    assert "signature" in kinds, kinds
    return [answer, kinds, final]


@case("image input", "pictures and documents")
def _(at):
    data = base64.b64encode(PICTURE).decode()
    answer = ask(at, [{"type": "text", "text": "look"},
                      {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
                      {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                      {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}}])
    assert f"{len(PICTURE)} bytes" in answer.content[0].text, answer
    return answer


@case("errors", "typed, in Anthropic's form")
def _(at):
    results = []
    for status, kind in ((400, anthropic.BadRequestError), (401, anthropic.AuthenticationError),
                         (403, anthropic.PermissionDeniedError), (404, anthropic.NotFoundError),
                         (413, anthropic.RequestTooLargeError), (422, anthropic.UnprocessableEntityError),
                         (429, anthropic.RateLimitError), (529, anthropic.APIStatusError)):
        error = raises(kind, lambda: ask(at, f"quirk:status={status}"))
        equal(error.status_code, status, "status")
        results.append([type(error).__name__, error.body["type"], error.body["error"]])
    raises(anthropic.InternalServerError, lambda: ask(at, "quirk:status=500"))
    return results


@case("errors", "an unknown model, a missing field")
def _(at):
    error = raises(anthropic.NotFoundError, lambda: client(at).messages.create(
        model="no-such-model", max_tokens=5, messages=[{"role": "user", "content": "x"}]))
    equal((error.body["type"], error.body["error"]["type"]), ("error", "not_found_error"))
    error = raises(anthropic.BadRequestError, lambda: client(at).post(
        "/v1/messages", body={"model": at.model, "max_tokens": 5}, cast_to=object))
    equal((error.body["type"], error.body["error"]["type"]), ("error", "invalid_request_error"))
    assert "messages" in error.body["error"]["message"], error.body


@case("errors", "a stream that breaks raises")
def _(at):
    def read(quirk):
        with client(at).messages.stream(model=at.model, max_tokens=64, messages=[
                {"role": "user", "content": f"one two three four quirk:{quirk}"}]) as stream:
            return stream.get_final_message()

    error = raises(anthropic.APIError, lambda: read("error-event"))
    assert "broke down" in str(error), error
    raises(Exception, lambda: read("break-chunk"))


@case("retries, time-outs, cancelling", "its own retry succeeds; a time-out is typed; closing stops the engine")
def _(at):
    patient = client(at, max_retries=2)
    answer = patient.messages.create(model=at.model, max_tokens=64,
                                     messages=[{"role": "user", "content": "quirk:flaky=anthropic"}])
    before = at.seen()
    raises(anthropic.APITimeoutError, lambda: client(at, timeout=0.4).messages.create(
        model=at.model, max_tokens=64, messages=[{"role": "user", "content": "quirk:first=8000"}]))
    at.wait_cancelled(before)
    before = at.seen()
    with client(at).messages.stream(model=at.model, max_tokens=4096, messages=[
            {"role": "user", "content": "quirk:tokens=2000,delay=20"}]) as stream:
        for _, text in zip(range(5), stream.text_stream):
            assert text is not None
    at.wait_cancelled(before)
    return answer


@case("raw answers", "headers; unknown fields go on")
def _(at):
    answer = client(at).messages.with_raw_response.create(
        model=at.model, max_tokens=64, messages=[{"role": "user", "content": "quirk:echo"}], extra_body={"top_k": 5})
    if at.network:
        assert answer.headers.get("x-cocoon-request-id"), dict(answer.headers)
    body = json.loads(answer.parse().content[0].text)
    equal((body["top_k"], body["max_tokens"]), (5, 64))


@case("models", "listed")
def _(at):
    assert at.model in [entry.id for entry in client(at).models.list()]


sys.exit(features.run())
