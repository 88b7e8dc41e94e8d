"""The ordinary features of the official OpenAI client for Python. Run by ../features.py."""

import base64
import json
import sys
from typing import List

import openai
import pydantic

from frame import PICTURE, PICTURE_URL, Features, equal, named, raises, sound

features = Features("openai (Python)", openai.__version__)
case = features.case
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}},
    "required": ["city", "unit"], "additionalProperties": False}}}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {
    "type": "object", "properties": {"zone": {"type": "string"}}}}}


def client(at, **more):
    return openai.OpenAI(**{"base_url": f"{at.url}/v1", "api_key": "unused", "max_retries": 0, "timeout": 30, **more})


def user(text):
    return [{"role": "user", "content": text}]


def chat(at, content, **more):
    return client(at).chat.completions.create(model=at.model, messages=user(content), **more)


class Step(pydantic.BaseModel):
    explanation: str
    output: float


class Solution(pydantic.BaseModel):
    steps: List[Step]
    final: str
    sure: bool


# Chat.

@case("models", "listed and looked up")
def _(at):
    entries = {entry.id: entry for entry in client(at).models.list()}
    assert at.model in entries, entries
    if at.network:
        assert (entries[at.model].model_extra or {}).get("cocoon"), "no prices in the list"
    return client(at).models.retrieve(at.model).id


@case("chat", "an answer with usage and details")
def _(at):
    answer = chat(at, "The lamp is lit", seed=1, temperature=0.5, top_p=0.9, user="u", metadata={"a": "b"},
                  frequency_penalty=0.1, presence_penalty=0.1, logit_bias={"5": 1}, store=False)
    equal(answer.choices[0].message.content, "I heard: The lamp is lit", "content")
    equal(answer.usage.completion_tokens_details.reasoning_tokens, 0, "reasoning tokens")
    assert answer.usage.prompt_tokens_details.cached_tokens > 0, answer.usage
    return answer


@case("chat", "n choices, stop, limits")
def _(at):
    several = chat(at, "one two three", n=3)
    equal([choice.index for choice in several.choices], [0, 1, 2], "indices")
    stopped = chat(at, "one two three", stop=[" two"])
    equal((stopped.choices[0].message.content, stopped.choices[0].finish_reason), ("You said: one", "stop"))
    cut = chat(at, "one two three", max_completion_tokens=2)
    equal((cut.choices[0].message.content, cut.choices[0].finish_reason), ("You said:", "length"))
    return [several, stopped, cut]


@case("chat", "log probabilities")
def _(at):
    answer = chat(at, "one two", logprobs=True, top_logprobs=3)
    entries = answer.choices[0].logprobs.content
    equal("".join(entry.token for entry in entries), answer.choices[0].message.content, "tokens")
    equal({len(entry.top_logprobs) for entry in entries}, {3}, "alternatives")
    chunks = list(chat(at, "one two", logprobs=True, top_logprobs=3, stream=True))
    streamed = [entry.token for chunk in chunks for choice in chunk.choices if choice.logprobs
                for entry in choice.logprobs.content]
    equal(streamed, [entry.token for entry in entries], "streamed tokens")
    return answer


@case("streaming", "chunks, with usage where asked")
def _(at):
    chunks = list(chat(at, "The lamp is lit", stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    equal(text, "You said: The lamp is lit", "text")
    assert chunks[-1].usage.total_tokens > 0 and not chunks[-1].choices, chunks[-1]
    plain = list(chat(at, "The lamp is lit", stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in plain), "usage that nobody asked for"
    return [chunks, plain]


@case("streaming", "the stream helper, and several choices at once")
def _(at):
    with client(at).chat.completions.stream(model=at.model, messages=user("The lamp is lit"), n=2) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in kinds and "content.done" in kinds, kinds
    equal(final.choices[1].message.content, "You said: The lamp is lit (1)", "second choice")
    return [kinds, final]


@case("streaming", "async")
async def _(at):
    async with openai.AsyncOpenAI(base_url=f"{at.url}/v1", api_key="unused", max_retries=0) as asynchronous:
        stream = await asynchronous.chat.completions.create(model=at.model, messages=user("a b c"), stream=True)
        chunks = [chunk async for chunk in stream]
        async with asynchronous.chat.completions.stream(model=at.model, messages=user("a b c")) as helper:
            final = await helper.get_final_completion()
    return [chunks, final]


@case("tools", "one call, several, one asked for, none, and no more than one")
def _(at):
    tools = [WEATHER, CLOCK]
    one = chat(at, "get_weather for city=Oslo", tools=tools)
    equal(one.choices[0].finish_reason, "tool_calls", "finish reason")
    equal(json.loads(one.choices[0].message.tool_calls[0].function.arguments), {"city": "Oslo", "unit": "c"})
    both = chat(at, "get_weather and get_time for city=Oslo", tools=tools)
    equal([call.function.name for call in both.choices[0].message.tool_calls], ["get_weather", "get_time"])
    asked = chat(at, "hello", tools=tools, tool_choice={"type": "function", "function": {"name": "get_time"}})
    equal(asked.choices[0].message.tool_calls[0].function.name, "get_time", "the tool asked for")
    none = chat(at, "get_weather", tools=tools, tool_choice="none")
    assert not none.choices[0].message.tool_calls, none
    required = chat(at, "hello", tools=tools, tool_choice="required")
    assert required.choices[0].message.tool_calls, required
    single = chat(at, "get_weather and get_time", tools=tools, parallel_tool_calls=False)
    equal(len(single.choices[0].message.tool_calls), 1, "calls")
    return [one, both, asked, none, required, single]


@case("tools", "a loop of calls and results, streamed")
def _(at):
    messages = user("get_weather and get_time for city=Oslo zone=CET")
    with client(at).chat.completions.stream(model=at.model, messages=messages, tools=[WEATHER, CLOCK]) as stream:
        events = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message
    equal(events.count("tool_calls.function.arguments.done"), 2, "calls that were done")
    messages.append(message.model_dump(exclude_none=True, include={"role", "tool_calls"}))
    for call in message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name} is fine"})
    answer = client(at).chat.completions.create(model=at.model, messages=messages, tools=[WEATHER, CLOCK])
    equal(answer.choices[0].message.content, "The tools say: get_weather is fine | get_time is fine", "answer")
    return [events, message, answer]


@case("structured output", "JSON, a schema, and parsed models, streamed too")
def _(at):
    loose = chat(at, "give JSON", response_format={"type": "json_object"})
    json.loads(loose.choices[0].message.content)
    schema = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": Solution.model_json_schema()}}
    strict = chat(at, "solve", response_format=schema)
    Solution.model_validate_json(strict.choices[0].message.content)
    parsed = client(at).chat.completions.parse(model=at.model, messages=user("solve"), response_format=Solution)
    assert isinstance(parsed.choices[0].message.parsed, Solution), parsed
    beta = client(at).beta.chat.completions.parse(model=at.model, messages=user("solve"), response_format=Solution)
    equal(beta.choices[0].message.parsed, parsed.choices[0].message.parsed, "by its older name")
    with client(at).chat.completions.stream(model=at.model, messages=user("solve"), response_format=Solution) as stream:
        final = stream.get_final_completion()
    equal(final.choices[0].message.parsed, parsed.choices[0].message.parsed, "streamed")
    return [loose, strict, parsed, final]


@case("structured output", "tools from models, with parsed arguments")
def _(at):
    tool = openai.pydantic_function_tool(Step, name="take_step")
    answer = client(at).chat.completions.parse(model=at.model, messages=user("take_step output=2.5"), tools=[tool])
    equal(answer.choices[0].message.tool_calls[0].function.parsed_arguments.output, 2.5, "argument")
    return answer


@case("reasoning", "its text and its tokens, streamed too")
def _(at):
    answer = chat(at, "think", reasoning_effort="low")
    assert answer.choices[0].message.model_extra["reasoning_content"].startswith("Let me think"), answer
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0, answer.usage
    chunks = list(chat(at, "think", reasoning_effort="low", stream=True, stream_options={"include_usage": True}))
    deltas = [choice.delta.model_extra or {} for chunk in chunks for choice in chunk.choices]
    text = "".join(delta.get("reasoning_content", "") for delta in deltas)
    equal(text, answer.choices[0].message.model_extra["reasoning_content"], "streamed reasoning")
    equal(chunks[-1].usage.completion_tokens, answer.usage.completion_tokens, "completion tokens")
    return [answer, chunks]


@case("image input", "a data URL and an address")
def _(at):
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PICTURE_URL, "detail": "low"}},
             {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    answer = chat(at, parts)
    assert f"{len(PICTURE)} bytes" in answer.choices[0].message.content, answer
    return answer


@case("image input", "a picture of two megabytes arrives whole")
def _(at):
    data = base64.b64encode(bytes(range(256)) * 8192).decode()
    answer = chat(at, [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}])
    assert "of 2097152 bytes" in answer.choices[0].message.content, answer
    return answer


@case("audio input and output", "a sound in, a spoken answer out, streamed too")
def _(at):
    data = base64.b64encode(sound()).decode()
    heard = chat(at, [{"type": "text", "text": "listen"},
                      {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}])
    assert heard.usage.prompt_tokens_details.audio_tokens > 0, heard.usage
    asked = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    spoken = chat(at, "say it", **asked)
    assert base64.b64decode(spoken.choices[0].message.audio.data).startswith(b"RIFF"), "no WAV"
    asked["audio"]["format"] = "pcm16"
    chunks = list(chat(at, "say it", **asked, stream=True))
    return [heard, spoken, chunks]


@case("completions", "prompts, echo, suffix, log probabilities, streams")
def _(at):
    ask = client(at).completions.create
    plain = ask(model=at.model, prompt="The lamp", max_tokens=16)
    several = ask(model=at.model, prompt=["one", "two"], n=2, max_tokens=16, logprobs=2, echo=True)
    equal([choice.index for choice in several.choices], [0, 1, 2, 3], "indices")
    numbers = ask(model=at.model, prompt=[72, 105], suffix="the end", seed=1)
    equal(numbers.choices[0].text, "I heard: Hi before the end", "text")
    chunks = list(ask(model=at.model, prompt="The lamp", stream=True, logprobs=2, stream_options={"include_usage": True}))
    equal("".join(chunk.choices[0].text for chunk in chunks if chunk.choices), plain.choices[0].text, "streamed")
    return [plain, several, numbers, chunks]


# Responses.

TOOL = {"type": "function", "strict": True, **WEATHER["function"]}


@case("responses", "a text, a conversation, reasoning, limits")
def _(at):
    ask = client(at).responses.create
    plain = ask(model=at.model, input="The lamp is lit", instructions="Be brief", metadata={"a": "b"}, store=False)
    equal(plain.output_text, "You said: The lamp is lit", "text")
    equal(plain.status, "completed", "status")
    talk = ask(model=at.model, input=[*user("a"), {"role": "assistant", "content": "b"}, *user([
        {"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": PICTURE_URL, "detail": "auto"}])])
    assert f"{len(PICTURE)} bytes" in talk.output_text, talk
    thought = ask(model=at.model, input="think", reasoning={"effort": "low", "summary": "auto"})
    equal([item.type for item in thought.output], ["reasoning", "message"], "items")
    assert thought.usage.output_tokens_details.reasoning_tokens > 0, thought.usage
    cut = ask(model=at.model, input="one two three", max_output_tokens=2)
    equal((cut.status, cut.incomplete_details.reason), ("incomplete", "max_output_tokens"))
    return [plain, talk, thought, cut]


@case("responses", "streamed events, in their order, and the stream helper")
def _(at):
    events = list(client(at).responses.create(model=at.model, input="think", reasoning={"effort": "low"}, stream=True))
    equal([event.sequence_number for event in events], list(range(len(events))), "numbers")
    kinds = [event.type for event in events]
    equal((kinds[:2], kinds[-1]), (["response.created", "response.in_progress"], "response.completed"))
    with client(at).responses.stream(model=at.model, input="The lamp is lit") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    equal(text, final.output_text, "text")
    return [events, final]


@case("responses", "async")
async def _(at):
    async with openai.AsyncOpenAI(base_url=f"{at.url}/v1", api_key="unused", max_retries=0) as asynchronous:
        whole = await asynchronous.responses.create(model=at.model, input="a b c")
        stream = await asynchronous.responses.create(model=at.model, input="a b c", stream=True)
        events = [event async for event in stream]
    return [whole, events]


@case("responses", "tools: a loop of calls and results, streamed too")
def _(at):
    items = user("get_weather city=Oslo")
    first = client(at).responses.create(model=at.model, input=items, tools=[TOOL])
    call = first.output[0]
    equal((call.type, json.loads(call.arguments)), ("function_call", {"city": "Oslo", "unit": "c"}))
    events = list(client(at).responses.create(model=at.model, input=items, tools=[TOOL], stream=True))
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    equal([event.arguments for event in done], [call.arguments], "streamed arguments")
    items += [call.model_dump(exclude_none=True),
              {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"}]
    second = client(at).responses.create(model=at.model, input=items, tools=[TOOL])
    equal(second.output_text, "The tools say: 12 degrees", "answer")
    return [first, events, second]


@case("counting tokens", "before a response is asked for")
def _(at):
    talk = [*user("a"), {"role": "assistant", "content": "b"}, *user("one two three")]
    results = []
    for fields in ({"input": "one two three", "instructions": "Be brief"}, {"input": talk},
                   {"input": talk, "tools": [TOOL], "tool_choice": "auto", "truncation": "disabled"}):
        counted = client(at).responses.input_tokens.count(model=at.model, **fields)
        answer = client(at).responses.create(model=at.model, **fields)
        equal((counted.object, counted.input_tokens), ("response.input_tokens", answer.usage.input_tokens))
        results.append(counted)
    return results


@case("responses", "parsed models")
def _(at):
    answer = client(at).responses.parse(model=at.model, input="solve", text_format=Solution)
    assert isinstance(answer.output_parsed, Solution), answer
    with client(at).responses.stream(model=at.model, input="solve", text_format=Solution) as stream:
        final = stream.get_final_response()
    equal(final.output_parsed, answer.output_parsed, "streamed")
    return [answer, final]


# Other kinds.

@case("embeddings", "floats and base64, batches, dimensions, tokens")
def _(at):
    ask = client(at).embeddings.create
    default = ask(model=at.model, input="The lamp")  # the client asks for base64 and decodes it
    floats = ask(model=at.model, input=["The lamp", "is lit"], encoding_format="float")
    equal(default.data[0].embedding, floats.data[0].embedding, "the same text both ways")
    equal([entry.index for entry in floats.data], [0, 1], "indices")
    short = ask(model=at.model, input=[[72, 105], [72]], dimensions=7)
    equal({len(entry.embedding) for entry in short.data}, {7}, "lengths")
    raw = ask(model=at.model, input="x", encoding_format="base64")
    return [default, floats, short, raw]


@case("moderations", "texts and pictures")
def _(at):
    harmful = client(at).moderations.create(model=at.model, input=["such violence", "such peace"])
    equal([result.flagged for result in harmful.results], [True, False], "flags")
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PICTURE_URL}}]
    return [harmful, client(at).moderations.create(model=at.model, input=parts)]


@case("transcriptions", "every format, with and without words")
def _(at):
    results = []
    for format in ("json", "text", "srt", "vtt", "verbose_json"):
        more = {"timestamp_granularities": ["word", "segment"]} if format == "verbose_json" else {}
        results.append(client(at).audio.transcriptions.create(
            model=at.model, file=("lamp.wav", sound(), "audio/wav"), response_format=format, language="de",
            prompt="a lamp", temperature=0.2, **more))
    equal(abs(results[-1].duration - 0.5) < 1e-6, True, "duration")
    assert "-->" in results[2] and results[3].startswith("WEBVTT"), results
    return results


@case("transcriptions", "streamed")
def _(at):
    events = list(client(at).audio.transcriptions.create(model=at.model, file=("lamp.wav", sound()), stream=True))
    equal(events[-1].type, "transcript.text.done", "last event")
    equal("".join(event.delta for event in events[:-1]), events[-1].text, "text")
    return events


@case("transcriptions", "a file of five megabytes arrives whole; translations")
def _(at):
    large = client(at).audio.transcriptions.create(model=at.model, file=("long.wav", sound(300)))
    assert "A sound of 4800044 bytes" in large.text, large
    return [large, client(at).audio.translations.create(model=at.model, file=("lamp.wav", sound()))]


@case("speech", "binary, of the right length, whole and as it comes")
def _(at):
    ask = {"model": at.model, "input": "The lamp is lit", "voice": "alloy"}
    wav = client(at).audio.speech.create(**ask, response_format="wav").read()
    equal(len(wav), 44 + 2 * 1200 * len(ask["input"]), "bytes")
    with client(at).audio.speech.with_streaming_response.create(**ask, response_format="pcm") as answer:
        pieces = list(answer.iter_bytes(4096))
    equal(b"".join(pieces), wav[44:], "samples")
    mp3 = client(at).audio.speech.create(**ask, instructions="softly", speed=1.5).read()
    return [wav, mp3]


@case("speech", "as events")
def _(at):
    ask = {"model": at.model, "input": "The lamp is lit", "voice": "alloy", "response_format": "pcm", "stream_format": "sse"}
    with client(at).audio.speech.with_streaming_response.create(**ask) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@case("images", "generations, edits, variations")
def _(at):
    made = client(at).images.generate(model=at.model, prompt="a lamp", n=2, size="256x256", response_format="b64_json")
    data = [base64.b64decode(image.b64_json) for image in made.data]
    assert len(data) == 2 and all(image.startswith(b"\x89PNG") for image in data), made
    edited = client(at).images.edit(model=at.model, prompt="brighter", size="256x256",
                                    image=[("a.png", PICTURE, "image/png"), ("b.png", PICTURE, "image/png")],
                                    mask=("mask.png", PICTURE, "image/png"))
    varied = client(at).images.create_variation(model=at.model, image=("a.png", PICTURE, "image/png"), size="256x256")
    return [made, edited, varied]


@case("images", "streamed, with partial pictures")
def _(at):
    events = list(client(at).images.generate(model=at.model, prompt="a lamp", size="256x256", stream=True, partial_images=2))
    equal([event.type for event in events],
          ["image_generation.partial_image"] * 2 + ["image_generation.completed"], "events")
    return events


# How things go wrong, and how callers leave.

@case("errors", "typed, with what the engine says")
def _(at):
    results = []
    for status, kind in ((400, openai.BadRequestError), (401, openai.AuthenticationError),
                         (403, openai.PermissionDeniedError), (404, openai.NotFoundError), (409, openai.ConflictError),
                         (422, openai.UnprocessableEntityError), (429, openai.RateLimitError)):
        error = raises(kind, lambda: chat(at, f"quirk:status={status}"))
        equal((error.status_code, error.param, error.code), (status, "quirk", f"quirk_{status}"))
        results.append([error.type, error.body])
        if status == 429:
            equal(error.response.headers.get("retry-after"), "1", "Retry-After")
    error = raises(openai.InternalServerError, lambda: chat(at, "quirk:status=500"))
    equal(error.status_code, 500, "status")
    return results


@case("errors", "what the request lacks is named")
def _(at):
    results = []
    for asked in (lambda: chat(at, "x", temperature=9), lambda: chat(at, "x", tools=[{"type": "function"}]),
                  lambda: client(at).responses.create(model=at.model, input=[]),
                  lambda: client(at).embeddings.create(model=at.model, input="x", dimensions=0)):
        results.append(raises(openai.BadRequestError, asked).param)
    raises(openai.NotFoundError, lambda: client(at).chat.completions.create(model="no-such-model", messages=user("x")))
    return results


@case("errors", "what is not offered is a 404, and what is too large a 413, whatever the size of what was sent")
def _(at):
    for asked in (lambda: client(at).files.list(), lambda: client(at).batches.list(),
                  lambda: client(at).vector_stores.list(),
                  lambda: client(at).responses.retrieve("resp_1"), lambda: client(at).fine_tuning.jobs.list(),
                  lambda: client(at).post("/no-such-thing", body={"text": "x" * 4_000_000}, cast_to=object)):
        raises(openai.NotFoundError, asked)
    if at.network:
        error = raises(openai.APIStatusError, lambda: chat(at, "x" * 40_000_000))
        equal(error.status_code, 413, "status")


@case("errors", "a stream that breaks raises and never looks complete")
def _(at):
    def read(quirk):
        reasons = []
        for chunk in chat(at, f"one two three four quirk:{quirk}", stream=True):
            reasons += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
        return reasons

    raises(openai.APIError, lambda: read("error-event"))
    raises(Exception, lambda: read("break-chunk"))
    kinds = []
    try:
        for event in client(at).responses.create(model=at.model, input="one two quirk:error-event", stream=True):
            kinds.append(event.type)
    except openai.APIError:
        assert at.network, "the engine's own event is no exception of this client"
    assert kinds[-1] == "error" and "response.completed" not in kinds, kinds
    broken = client(at).responses.create(model=at.model, input="one two quirk:break-chunk", stream=True)
    raises(openai.APIError if at.network else Exception, lambda: list(broken))


@case("retries, time-outs, cancelling", "a client's own retry succeeds")
def _(at):
    patient = client(at, max_retries=2)
    answer = patient.chat.completions.create(model=at.model, messages=user("quirk:flaky=python-chat"))
    also = patient.embeddings.create(model=at.model, input="quirk:flaky=python-embeddings")
    return [answer, also]


@case("retries, time-outs, cancelling", "a time-out is typed and stops the engine")
def _(at):
    before = at.seen()
    hasty = client(at, timeout=0.4)
    raises(openai.APITimeoutError, lambda: hasty.chat.completions.create(model=at.model, messages=user("quirk:first=8000")))
    at.wait_cancelled(before)


@case("retries, time-outs, cancelling", "closing a stream stops the engine, for responses and speech too")
def _(at):
    before = at.seen()
    stream = chat(at, "quirk:tokens=2000,delay=20", stream=True)
    for _, chunk in zip(range(5), stream):
        assert chunk is not None
    stream.close()
    at.wait_cancelled(before)
    before = at.seen()
    stream = client(at).responses.create(model=at.model, input="quirk:tokens=2000,delay=20", stream=True)
    for _, event in zip(range(8), stream):
        assert event is not None
    stream.close()
    at.wait_cancelled(before)
    before = at.seen()
    ask = {"model": at.model, "input": "quirk:delay=50 " + "word " * 200, "voice": "alloy", "response_format": "pcm"}
    with client(at).audio.speech.with_streaming_response.create(**ask) as answer:
        assert next(answer.iter_bytes(1024)), "no sound"
    at.wait_cancelled(before)


@case("raw answers", "headers and requests by hand")
def _(at):
    answer = client(at).chat.completions.with_raw_response.create(model=at.model, messages=user("a b c"))
    parsed = answer.parse()
    if at.network:
        ours = {name.lower() for name in answer.headers if name.lower().startswith("x-cocoon")}
        assert {"x-cocoon-request-id", "x-cocoon-cost-nanoton"} <= ours, f"headers are {ours}"
    equal(answer.http_response.headers["content-type"].split(";")[0], "application/json", "type")
    by_hand = client(at).post("/rerank", cast_to=object, body={"model": at.model, "query": "a lamp",
                                                              "documents": ["the lamp", "the cape"], "top_n": 1})
    return [parsed, by_hand]


@case("raw answers", "unknown fields go on, and unknown fields come back")
def _(at):
    extra = {"spline": {"depth": [1, 2.5, None, "x"]}, "top_k": 5, "guided_choice": ["a", "b"]}
    answer = chat(at, "quirk:echo", extra_body=extra)
    body = json.loads(answer.choices[0].message.content)
    for name, value in extra.items():
        equal(body.get(name), value, name)
    return sorted(extra)


sys.exit(features.run())
