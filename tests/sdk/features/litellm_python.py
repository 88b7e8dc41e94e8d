"""The ordinary features of LiteLLM as a client, by its OpenAI, Anthropic and rerank providers. Run by ../features.py."""

import base64
import importlib.metadata
import json
import os
import sys

# Its tables of prices are those that came with it; it tells nobody that it is used.
os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_TELEMETRY="False")

import litellm  # noqa: E402
import pydantic  # noqa: E402

from frame import PICTURE_URL, Features, equal, raises, sound  # noqa: E402

litellm.suppress_debug_info = True
litellm.num_retries = 0
features = Features("LiteLLM (Python)", importlib.metadata.version("litellm"))
case = features.case
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}


class Lamp(pydantic.BaseModel):
    place: str
    height: float


def at_openai(at, **more):
    return {"model": f"openai/{at.model}", "api_base": f"{at.url}/v1", "api_key": "unused", "timeout": 30, **more}


def user(text):
    return [{"role": "user", "content": text}]


def chat(at, text, **more):
    return litellm.completion(messages=user(text), **at_openai(at, **more))


def view(answer):
    """What of an answer must be the same: its identifiers and times are LiteLLM's in places."""
    return {"choices": [choice.model_dump(mode="json") for choice in answer.choices],
            "usage": answer.usage.model_dump(mode="json") if getattr(answer, "usage", None) else None}


@case("chat", "an answer with usage, several choices")
def _(at):
    answer = chat(at, "The lamp is lit", temperature=0.5, seed=1)
    equal(answer.choices[0].message.content, "I heard: The lamp is lit", "content")
    assert answer.usage.prompt_tokens > 0, answer
    return [view(answer), view(chat(at, "one", n=2))]


@case("chat", "async")
async def _(at):
    return view(await litellm.acompletion(messages=user("a b c"), **at_openai(at)))


@case("streaming", "chunks that build up to the answer, with usage")
def _(at):
    chunks = list(chat(at, "The lamp is lit", stream=True, stream_options={"include_usage": True}))
    whole = litellm.stream_chunk_builder(chunks, messages=user("The lamp is lit"))
    equal(whole.choices[0].message.content, "You said: The lamp is lit", "content")
    equal(whole.usage.completion_tokens, chat(at, "The lamp is lit").usage.completion_tokens, "completion tokens")
    return view(whole)


@case("tools", "a loop of calls and results, streamed")
def _(at):
    messages = user("get_weather city=Oslo")
    first = litellm.completion(messages=messages, tools=[WEATHER], **at_openai(at))
    call = first.choices[0].message.tool_calls[0]
    equal(json.loads(call.function.arguments), {"city": "Oslo"}, "arguments")
    chunks = list(litellm.completion(messages=messages, tools=[WEATHER], stream=True, **at_openai(at)))
    streamed = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls[0]
    equal(streamed.function.arguments, call.function.arguments, "streamed arguments")
    messages += [first.choices[0].message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "fine"}]
    answer = litellm.completion(messages=messages, tools=[WEATHER], **at_openai(at))
    equal(answer.choices[0].message.content, "The tools say: fine", "answer")
    return [view(first), view(answer)]


@case("structured output", "a schema from a model")
def _(at):
    answer = chat(at, "Lamp with place=cape height=30", response_format=Lamp)
    equal(Lamp.model_validate_json(answer.choices[0].message.content), Lamp(place="cape", height=30), "parsed")
    return view(answer)


@case("reasoning", "its text, streamed too")
def _(at):
    answer = chat(at, "think", reasoning_effort="low", allowed_openai_params=["reasoning_effort"])
    assert answer.choices[0].message.reasoning_content.startswith("Let me think"), answer
    chunks = list(chat(at, "think", reasoning_effort="low", allowed_openai_params=["reasoning_effort"], stream=True))
    text = "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks)
    equal(text, answer.choices[0].message.reasoning_content, "streamed")
    return view(answer)


@case("image input", "a data URL")
def _(at):
    return view(chat(at, [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PICTURE_URL}}]))


@case("completions", "whole and streamed")
def _(at):
    ask = {**at_openai(at), "model": f"text-completion-openai/{at.model}"}
    answer = litellm.text_completion(prompt="The lamp", max_tokens=32, **ask)
    chunks = list(litellm.text_completion(prompt="The lamp", max_tokens=32, stream=True, **ask))
    text = "".join(chunk.choices[0].text or "" for chunk in chunks if chunk.choices)
    equal(text, answer.choices[0].text, "streamed")
    return text


@case("responses", "whole and streamed")
def _(at):
    answer = litellm.responses(input="The lamp is lit", **at_openai(at))
    equal(answer.output[0].content[0].text, "You said: The lamp is lit", "text")
    kinds = [event.type for event in litellm.responses(input="The lamp is lit", stream=True, **at_openai(at))]
    equal(str(getattr(kinds[-1], "value", kinds[-1])), "response.completed", "last event")
    return len(kinds)


@case("messages", "by its Anthropic provider, whole and streamed")
def _(at):
    ask = {"model": f"anthropic/{at.model}", "api_base": at.url, "api_key": "unused", "max_tokens": 256}
    answer = litellm.completion(messages=user("The lamp is lit"), **ask)
    equal(answer.choices[0].message.content, "You said: The lamp is lit", "content")
    chunks = list(litellm.completion(messages=user("The lamp is lit"), stream=True, **ask))
    equal(litellm.stream_chunk_builder(chunks).choices[0].message.content, answer.choices[0].message.content, "streamed")
    return view(answer)


@case("embeddings", "a batch")
def _(at):
    answer = litellm.embedding(input=["The lamp", "is lit"], dimensions=8, allowed_openai_params=["dimensions"],
                               encoding_format="float", **at_openai(at))
    return [answer.data, answer.usage.prompt_tokens]


@case("rerank", "documents in their order")
def _(at):
    results = []
    for provider in ("hosted_vllm", "jina_ai"):
        base = at.url if provider == "hosted_vllm" else f"{at.url}/v1/rerank"
        answer = litellm.rerank(model=f"{provider}/{at.model}", api_base=base, api_key="unused", query="a lamp",
                                documents=["the cape", "the lamp"], top_n=2)
        equal(answer.results[0]["index"], 1, provider)
        results.append(answer.results)
    return results


@case("transcriptions", "a file")
def _(at):
    answer = litellm.transcription(file=("lamp.wav", sound(), "audio/wav"), **at_openai(at))
    assert answer.text.startswith("A sound of"), answer
    return answer.text


@case("speech", "binary")
def _(at):
    return litellm.speech(input="The lamp", voice="alloy", response_format="wav", **at_openai(at)).content


@case("images", "a generation")
def _(at):
    answer = litellm.image_generation(prompt="a lamp", size="256x256", **at_openai(at))
    data = base64.b64decode(answer.data[0].b64_json)
    assert data.startswith(b"\x89PNG"), data[:8]
    return data


@case("moderations", "a text")
def _(at):
    answer = litellm.moderation(input="such violence", **{**at_openai(at), "model": at.model}, custom_llm_provider="openai")
    equal(answer.results[0].flagged, True, "flag")


@case("errors", "typed")
def _(at):
    results = []
    for status, kind in ((400, litellm.BadRequestError), (401, litellm.AuthenticationError),
                         (429, litellm.RateLimitError), (500, litellm.InternalServerError)):
        results.append(raises(kind, lambda: chat(at, f"quirk:status={status}", max_retries=0)).status_code)
    return results


sys.exit(features.run())
