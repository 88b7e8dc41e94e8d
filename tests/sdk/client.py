"""What the unmodified official Python client sees of a gateway.

Run by run.py in the environment of requirements.txt. With --engine the engine behind the gateway is quirky.py, which
also tells what it received; with --direct the "gateway" is quirky.py itself, which checks these checks.
"""

import argparse
import asyncio
import http.client
import json
import sys
import time
import urllib.parse

import openai

from checks import Checks, equal, raises
from network import get_json

parser = argparse.ArgumentParser()
parser.add_argument("--gateway", required=True, help="URL of the gateway, without /v1")
parser.add_argument("--model", required=True)
parser.add_argument("--engine", help="URL of quirky.py behind the gateway")
parser.add_argument("--direct", action="store_true", help="the gateway is quirky.py itself")
parser.add_argument("--only", help="run only the checks whose name contains this")
flags = parser.parse_args()

GATEWAY, MODEL, ENGINE = flags.gateway, flags.model, flags.engine
NETWORK, QUIRKY = not flags.direct, flags.engine is not None
TEXT = ("The lighthouse stands on the northern cape. It was built in 1871 by the harbour guild. "
        "Every evening the keeper climbs two hundred steps to light the lamp. The lamp can be seen from thirty miles. "
        "Sailors trust the lighthouse more than their charts. In winter the cape is often hidden by fog.")
client = openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key="unused", max_retries=0, timeout=60)
checks = Checks()
check = checks.check


# Helpers.

def messages(quirk=None):
    return [{"role": "user", "content": f"{TEXT} quirk:{quirk}" if quirk else TEXT}]


def chat(quirk=None, **more):
    return client.chat.completions.create(model=MODEL, messages=messages(quirk), **more)


def stream(quirk=None, **more):
    return chat(quirk, stream=True, **more)


def read_stream(chunks):
    """The text, the finish reason and the usages of a stream."""
    text, reason, usages = "", None, []
    for chunk in chunks:
        if chunk.usage is not None:
            usages.append(chunk.usage)
        for choice in chunk.choices:
            text += getattr(choice, "text", None) or getattr(getattr(choice, "delta", None), "content", None) or ""
            reason = choice.finish_reason or reason
    return text, reason, usages


def tokens(count=8, word="tok{}"):
    return " ".join(word.format(i) for i in range(count))


def check_cost(usage):
    """The cost fields are whole nanotons and their sum agrees."""
    extra = usage.model_extra or {}
    parts = [extra.get(name) for name in ("prompt_total_cost", "completion_total_cost", "total_cost")]
    assert all(type(part) is int and part >= 0 for part in parts), f"cost fields are {parts}"
    equal(parts[0] + parts[1], parts[2], "sum of the costs")
    return parts[2]


def cocoon_object(answer):
    found = (answer.model_extra or {}).get("cocoon")
    assert isinstance(found, dict) and found, f"the cocoon object is {found!r}"
    return found


def check_usage(usage):
    assert usage is not None, "no usage"
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, f"usage is {usage}"
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "total tokens")
    if NETWORK:
        assert check_cost(usage) > 0, "an answer that costs nothing"


def has_true(value, name):
    """Whether a field of this name is true anywhere inside."""
    if isinstance(value, dict):
        return value.get(name) is True or any(has_true(inner, name) for inner in value.values())
    return isinstance(value, list) and any(has_true(inner, name) for inner in value)


def seen():
    return get_json(f"{ENGINE}/_seen")


def last_body():
    return seen()["requests"][-1]["body"]


def wait_cancelled(before, limit_s=5.0):
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        now = seen()
        if now["cancelled"] > before["cancelled"] and now["active"] == 0:
            return now
        time.sleep(0.05)
    raise AssertionError(f"the engine still works {limit_s} s after the caller left")


def raw(method, path, body=None, headers=()):
    """One plain HTTP exchange: status, headers in lower case, body."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(GATEWAY).netloc, timeout=30)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


# What every gateway shows.

@check("models are listed")
def _():
    listed = {model.id: model for model in client.models.list()}
    assert MODEL in listed, f"{MODEL} is not among {sorted(listed)}"
    if NETWORK:
        cocoon_object(listed[MODEL])


@check("a chat is answered, with usage")
def _():
    answer = chat()
    equal(answer.object, "chat.completion", "object")
    message = answer.choices[0].message
    equal(message.role, "assistant", "role")
    assert message.content, "the answer is empty"
    assert answer.choices[0].finish_reason in ("stop", "length"), answer.choices[0].finish_reason
    check_usage(answer.usage)
    if QUIRKY:
        equal(message.content, tokens(), "content")


@check("an answer carries its cost in the body and in the headers", NETWORK)
def _():
    answer = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages())
    parsed = answer.parse()
    cost = check_cost(parsed.usage)
    cocoon_object(parsed)
    ours = {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("x-cocoon")}
    assert str(cost) in ours.values(), f"no header says {cost}: {ours}"


@check("a stream without usage asked shows none, and is complete")
def _():
    chunks = list(stream())
    assert len(chunks) >= 2, f"{len(chunks)} chunks are no stream"
    equal([chunk.usage for chunk in chunks], [None] * len(chunks), "usages")
    assert all(chunk.choices for chunk in chunks), "a chunk without choices was shown"
    text, reason, _ = read_stream(chunks)
    assert text and reason in ("stop", "length"), f"{text!r}, {reason}"


@check("a stream with usage asked ends with it, and with its cost")
def _():
    chunks = list(stream(stream_options={"include_usage": True}))
    _, reason, usages = read_stream(chunks)
    assert reason in ("stop", "length"), reason
    equal(len(usages), 1, "number of usages")
    equal(chunks[-1].choices, [], "choices of the last chunk")
    check_usage(chunks[-1].usage)
    if NETWORK:
        cocoon_object(chunks[-1])


@check("a stream says the same as the whole answer")
def _():
    text, _, usages = read_stream(stream(stream_options={"include_usage": True}))
    whole = chat()
    equal(text, whole.choices[0].message.content, "text")
    equal(usages[0].completion_tokens, whole.usage.completion_tokens, "completion tokens")
    equal(usages[0].prompt_tokens, whole.usage.prompt_tokens, "prompt tokens")


@check("completions are answered, whole and streamed")
def _():
    answer = client.completions.create(model=MODEL, prompt=TEXT)
    equal(answer.object, "text_completion", "object")
    assert answer.choices[0].text, "the answer is empty"
    check_usage(answer.usage)
    text, reason, usages = read_stream(
        client.completions.create(model=MODEL, prompt=TEXT, stream=True, stream_options={"include_usage": True}))
    equal(text, answer.choices[0].text, "streamed text")
    assert reason in ("stop", "length"), reason
    equal(len(usages), 1, "number of usages")


@check("an answer keeps to the caller's own limit")
def _():
    for name in ("max_tokens", "max_completion_tokens"):
        answer = chat(**{name: 3})
        assert answer.usage.completion_tokens <= 3, f"{name}: {answer.usage.completion_tokens} tokens"
        if QUIRKY:
            equal(answer.choices[0].finish_reason, "length", "finish reason")


@check("an unknown model is a 404 that lists what there is")
def _():
    error = raises(openai.NotFoundError, lambda: client.chat.completions.create(model="no-such-model",
                                                                                 messages=messages()))
    equal(error.status_code, 404, "status")
    if NETWORK:
        equal(error.code, "model_not_found", "code")
        assert MODEL in str(error), f"{MODEL} is not named: {error}"


@check("a missing field is a 400 that names it")
def _():
    for path, field, body in (("/chat/completions", "messages", {"model": MODEL}),
                              ("/completions", "prompt", {"model": MODEL}),
                              ("/chat/completions", "model", {"messages": messages()})):
        error = raises(openai.BadRequestError, lambda: client.post(path, body=body, cast_to=object))
        assert field in str(error), f"{field} is not named: {error}"


@check("invalid JSON is a 400 in OpenAI's form")
def _():
    for body in (b"", b"{", b"[1]", b'"x"', b"\xff\xfe"):
        status, _, answer = raw("POST", "/v1/chat/completions", body, [("Content-Type", "application/json")])
        equal(status, 400, f"status for {body!r}")
        error = json.loads(answer)["error"]
        assert error["message"] and error["type"] == "invalid_request_error", error


@check("fifty streams at once are all complete")
async def _():
    many = openai.AsyncOpenAI(base_url=f"{GATEWAY}/v1", api_key="unused", max_retries=0, timeout=60)
    quirk = "tokens=30,delay=10" if QUIRKY else None

    async def one():
        text, reason, usages = "", None, []
        chunks = await many.chat.completions.create(model=MODEL, messages=messages(quirk), stream=True,
                                                    stream_options={"include_usage": True})
        async for chunk in chunks:
            usages += [chunk.usage] if chunk.usage else []
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
        return text, reason, len(usages)

    async with many:
        results = await asyncio.gather(*(one() for _ in range(50)))
    equal(len(set(results)), 1, "number of different answers")
    text, reason, usages = results[0]
    assert text and reason in ("stop", "length"), f"{text!r}, {reason}"
    equal(usages, 1, "number of usages")
    if QUIRKY:
        equal(text, tokens(30), "text")


@check("health, metrics, statistics and CORS are there", NETWORK)
def _():
    for path in ("/health", "/metrics", "/jsonstats"):
        status, _, body = raw("GET", path)
        equal(status, 200, f"status of {path}")
        assert body, f"{path} is empty"
    json.loads(raw("GET", "/jsonstats")[2])
    assert b"# TYPE" in raw("GET", "/metrics")[2], "/metrics is not in Prometheus' form"
    status, headers, _ = raw("OPTIONS", "/v1/chat/completions", headers=[
        ("Origin", "http://app.example"), ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type")])
    assert status in (200, 204), f"status of the preflight is {status}"
    assert headers.get("access-control-allow-origin") in ("*", "http://app.example"), headers


@check("an unknown path is a 404 in OpenAI's form")
def _():
    status, _, body = raw("GET", "/v1/no-such-thing")
    equal(status, 404, "status")
    assert json.loads(body)["error"]["message"], body


# What only shows with an engine that tells what it saw.

@check("fields that nobody here knows reach the engine", QUIRKY)
def _():
    unknown = {"spline_reticulation": {"depth": [1, 2.5, None, "x"]}, "seed": 7}
    chat(extra_body=unknown, temperature=0.25, response_format={"type": "json_object"}, user="u-1")
    body = last_body()
    for name, value in {**unknown, "temperature": 0.25, "response_format": {"type": "json_object"}, "user": "u-1"}.items():
        equal(body.get(name), value, name)
    equal(body["messages"], messages(), "messages")


@check("fields meant for the gateway stop there", QUIRKY and NETWORK)
def _():
    chat(extra_body={"max_coefficient": 4000, "timeout": 30, "enable_debug": False, "request_guid": "ab" * 32})
    left = {"max_coefficient", "timeout", "enable_debug", "request_guid"} & last_body().keys()
    equal(left, set(), "fields that went on")


@check("the engine is always asked for usage, and always told a limit", QUIRKY and NETWORK)
def _():
    read_stream(stream())
    body = last_body()
    equal(body.get("stream_options", {}).get("include_usage"), True, "include_usage")
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    assert isinstance(limit, int) and limit > 0, f"the limit is {limit!r}"


@check("closing a stream stops the engine", QUIRKY)
def _():
    before = seen()
    chunks = stream("tokens=2000,delay=20")
    for _, chunk in zip(range(5), chunks):
        assert chunk is not None
    chunks.close()
    now = wait_cancelled(before)
    written = now["tokens_written"] - before["tokens_written"]
    assert written < 500, f"the engine wrote {written} tokens"


@check("leaving before an answer stops the engine", QUIRKY)
def _():
    before = seen()
    hasty = client.with_options(timeout=0.5)
    raises(openai.APITimeoutError, lambda: hasty.chat.completions.create(
        model=MODEL, messages=messages("first=8000")))
    wait_cancelled(before)


FRAMINGS = ("upper", "lower", "chunked", "http10", "http10,upper", "close", "chunked,chunk-ext", "chunked,trailers",
            "split-head", "one-byte", "slow-first", "slow-body")


@check("every framing of an answer is understood", QUIRKY)
def _():
    for quirk in FRAMINGS:
        answer = chat(quirk)
        equal(answer.choices[0].message.content, tokens(), f"content with {quirk}")
        check_usage(answer.usage)


@check("every framing of a stream is understood", QUIRKY)
def _():
    for quirk in FRAMINGS + ("crlf-sse", "comments", "coalesced", "coalesced,http10", "crlf-sse,one-byte"):
        text, reason, usages = read_stream(stream(quirk, stream_options={"include_usage": True}))
        equal((text, reason), (tokens(), "stop"), f"stream with {quirk}")
        equal(len(usages), 1, f"number of usages with {quirk}")
        check_usage(usages[0])


@check("a stream flows as it comes", QUIRKY)
def _():
    arrivals = []
    for chunk in stream("tokens=10,delay=100"):
        if chunk.choices and chunk.choices[0].delta.content:
            arrivals.append(time.monotonic())
    gaps = [later - earlier for earlier, later in zip(arrivals, arrivals[1:])]
    equal(len(arrivals), 10, "number of chunks")
    late = [gap for gap in gaps if not 0.03 < gap < 0.5]
    assert len(late) <= 1, f"the gaps are {gaps}"


@check("newline-delimited JSON passes whole", QUIRKY)
def _():
    body = json.dumps({"model": MODEL, "messages": messages("ndjson"), "stream": True})
    status, _, answer = raw("POST", "/v1/chat/completions", body, [("Content-Type", "application/json")])
    equal(status, 200, "status")
    lines = [json.loads(line) for line in answer.splitlines() if line.strip()]
    text = "".join(c["delta"].get("content") or "" for line in lines for c in line.get("choices", []))
    equal(text, tokens(), "text")


@check("text in any script passes whole", QUIRKY)
def _():
    wanted = tokens(word="жетон\U0001F36C{}")
    equal(chat("unicode").choices[0].message.content, wanted, "content")
    for quirk in ("unicode", "unicode,one-byte"):
        equal(read_stream(stream(quirk))[0], wanted, f"stream with {quirk}")


@check("tool calls pass whole", QUIRKY)
def _():
    tools = [{"type": "function", "function": {"name": "lookup", "parameters": {"type": "object"}}}]
    call = chat("tools", tools=tools).choices[0].message.tool_calls[0]
    equal((call.function.name, json.loads(call.function.arguments)), ("lookup", {"word": "tok"}), "call")
    equal(last_body()["tools"], tools, "tools at the engine")
    name, arguments = "", ""
    for chunk in stream("tools", tools=tools):
        for choice in chunk.choices:
            for part in choice.delta.tool_calls or []:
                name += part.function.name or ""
                arguments += part.function.arguments or ""
    equal((name, json.loads(arguments)), ("lookup", {"word": "tok"}), "streamed call")


@check("cached and reasoning tokens are shown", QUIRKY)
def _():
    usage = chat("cached,reasoning").usage
    equal(usage.completion_tokens_details.reasoning_tokens, 4, "reasoning tokens")
    assert usage.prompt_tokens_details.cached_tokens > 0, "no cached tokens"
    check_usage(usage)


@check("usage that the caller did not ask for is not shown", QUIRKY and NETWORK)
def _():
    for quirk in ("usage-unasked", "running-usage"):
        text, reason, usages = read_stream(stream(quirk))
        equal((text, reason, usages), (tokens(), "stop", []), quirk)


@check("running usage is shown once at least where asked", QUIRKY)
def _():
    text, _, usages = read_stream(stream("running-usage", stream_options={"include_usage": True}))
    equal(text, tokens(), "text")
    equal(usages[-1].completion_tokens, 8, "completion tokens")


@check("an answer without usage is billed by estimate, and says so", QUIRKY and NETWORK)
def _():
    answer = chat("no-usage")
    equal(answer.choices[0].message.content, tokens(), "content")
    assert has_true(answer.model_dump(), "estimated"), f"not marked as estimated: {answer.model_dump()}"
    chunks = list(stream("no-usage", stream_options={"include_usage": True}))
    equal(read_stream(chunks)[0], tokens(), "text")
    assert any(has_true(chunk.model_dump(), "estimated") for chunk in chunks), "the stream is not marked as estimated"


ABSURD = ("usage-negative", "usage-huge", "usage-float", "usage-string", "usage-null")


@check("absurd usage neither harms nor is billed", QUIRKY and NETWORK)
def _():
    usual = check_cost(chat().usage)
    for quirk in ABSURD:
        body = json.dumps({"model": MODEL, "messages": messages(quirk), "max_tokens": 16})
        status, _, answer = raw("POST", "/v1/chat/completions", body, [("Content-Type", "application/json")])
        equal(status, 200, f"status with {quirk}")
        answer = json.loads(answer)
        equal(answer["choices"][0]["message"]["content"], tokens(), f"content with {quirk}")
        cost = (answer.get("usage") or {}).get("total_cost", 0)
        assert type(cost) is int and 0 <= cost <= usual * 100, f"{quirk} costs {cost}; a usual answer {usual}"
        text = "".join(choice.delta.content or "" for chunk in stream(quirk, max_tokens=16) for choice in chunk.choices)
        equal(text, tokens(), f"stream with {quirk}")


@check("the engine's own errors are passed on", QUIRKY)
def _():
    for quirk, kind in (("500", openai.InternalServerError), ("503", openai.InternalServerError),
                        ("400", openai.BadRequestError), ("429", openai.RateLimitError)):
        for streamed in (False, True):
            error = raises(kind, lambda: chat(quirk, stream=streamed))
            equal(error.status_code, int(quirk), "status")
            assert f"quirky says {quirk}" in str(error), f"the engine's words are lost: {error}"


@check("an engine that fails before it answers is a 5xx in OpenAI's form", QUIRKY)
def _():
    for quirk in ("reset", "garbage", "break-head", "huge-head"):
        for streamed in (False, True):
            if quirk == "huge-head" and flags.direct:
                continue
            error = raises(openai.APIError, lambda: chat(quirk, stream=streamed))
            if NETWORK:
                assert isinstance(error, openai.APIStatusError), f"{quirk}: {type(error).__name__}: {error}"
                equal(error.status_code, 502, f"status with {quirk}")
                assert error.body and error.body.get("message"), f"{quirk}: {error.body}"


@check("half an answer is never taken for a whole one", QUIRKY)
def _():
    for quirk in ("break-length", "break-chunk", "break-chunk,chunked", "invalid-json"):
        raises(Exception if flags.direct else openai.APIError, lambda: chat(quirk))


@check("a broken stream is an error and never complete", QUIRKY)
def _():
    for quirk in ("break-sse", "break-chunk", "error-event", "break-sse,http10", "break-sse,close", "break-sse,coalesced"):
        if flags.direct and quirk in ("break-sse,http10", "break-sse,close"):
            continue  # without a gateway the client cannot tell
        text, reason = "", None

        def read():
            nonlocal text, reason
            for chunk in stream(quirk):
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    reason = choice.finish_reason or reason
            return f"{text} {reason}"

        raises(Exception if flags.direct else openai.APIError, read)
        equal(reason, None, f"finish reason with {quirk}")
        assert tokens().startswith(text) and text, f"{quirk}: what was delivered is {text!r}"


@check("a request ends within its own deadline", QUIRKY and NETWORK)
def _():
    started = time.monotonic()
    error = raises(openai.APIStatusError, lambda: chat("first=20000", extra_body={"timeout": 1.5}))
    equal(error.status_code, 504, "status")
    assert time.monotonic() - started < 6, "it took too long"
    started = time.monotonic()
    raises(openai.APIError, lambda: read_stream(stream("stall", extra_body={"timeout": 1.5})))
    assert time.monotonic() - started < 6, "the stream took too long"


@check("a huge answer arrives whole", QUIRKY)
def _():
    answer = chat("huge=4000000")
    equal(len(answer.choices[0].message.content), 4_000_000, "length")


@check("after all this the engine works for nobody, and an answer still comes", QUIRKY)
def _():
    equal(chat().choices[0].message.content, tokens(), "content")
    end = time.monotonic() + 5
    while seen()["active"] and time.monotonic() < end:
        time.sleep(0.05)
    equal(seen()["active"], 0, "requests in progress at the engine")


sys.exit(checks.run(flags.only))
