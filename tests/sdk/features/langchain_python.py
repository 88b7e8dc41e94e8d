"""The ordinary features of LangChain with its packages for OpenAI and Anthropic. Run by ../features.py."""

import base64
import importlib.metadata
import os
import sys

import pydantic
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool

os.environ.update(LANGSMITH_TRACING="false", LANGCHAIN_TRACING_V2="false")

from langchain_anthropic import ChatAnthropic  # noqa: E402
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings  # noqa: E402

from frame import PICTURE, Features, equal, raises  # noqa: E402

features = Features("LangChain (langchain-openai)", importlib.metadata.version("langchain-openai"))
case = features.case


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"{city} is fine"


class Lamp(pydantic.BaseModel):
    """A lamp."""

    place: str
    height: float


def model(at, **more):
    return ChatOpenAI(**{"base_url": f"{at.url}/v1", "api_key": "unused", "model": at.model, "max_retries": 0,
                         "timeout": 30, **more})


def view(message):
    """What of a message must be the same: its own identifiers are LangChain's."""
    return {"content": message.content, "calls": getattr(message, "tool_calls", None),
            "usage": getattr(message, "usage_metadata", None)}


@case("chat", "invoke, batch, a chain with a prompt and a parser")
def _(at):
    answer = model(at, temperature=0).invoke([SystemMessage("Be brief"), HumanMessage("The lamp is lit")])
    equal(answer.content, "You said: The lamp is lit", "content")
    assert answer.usage_metadata["input_tokens"] > 0, answer
    chain = ChatPromptTemplate.from_template("Say {word}") | model(at) | StrOutputParser()
    several = chain.batch([{"word": "one"}, {"word": "two"}])
    equal(several, ["You said: Say one", "You said: Say two"], "batch")
    return [view(answer), several]


@case("chat", "async")
async def _(at):
    answer = await model(at).ainvoke("a b c")
    text = "".join([chunk.content async for chunk in model(at).astream("a b c")])
    equal(text, answer.content, "text")
    return view(answer)


@case("streaming", "chunks that add up, with usage")
def _(at):
    whole = None
    for chunk in model(at, stream_usage=True).stream("The lamp is lit"):
        assert isinstance(chunk, AIMessageChunk), chunk
        whole = chunk if whole is None else whole + chunk
    equal(whole.content, "You said: The lamp is lit", "content")
    assert whole.usage_metadata["output_tokens"] > 0, whole
    return view(whole)


@case("tools", "a loop of calls and results, streamed")
def _(at):
    bound = model(at).bind_tools([get_weather])
    messages = [HumanMessage("get_weather city=Oslo")]
    call = bound.invoke(messages)
    equal(call.tool_calls[0]["args"], {"city": "Oslo"}, "arguments")
    whole = None
    for chunk in bound.stream(messages):
        whole = chunk if whole is None else whole + chunk
    equal(whole.tool_calls, call.tool_calls, "streamed calls")
    messages += [call, ToolMessage(get_weather.invoke(call.tool_calls[0]["args"]), tool_call_id=call.tool_calls[0]["id"])]
    answer = bound.invoke(messages)
    equal(answer.content, "The tools say: Oslo is fine", "answer")
    return [view(call), view(answer)]


@case("structured output", "by schema, by tool, by JSON mode")
def _(at):
    results = []
    for method in ("json_schema", "function_calling"):
        found = model(at).with_structured_output(Lamp, method=method).invoke("Lamp with place=cape height=30")
        equal(found, Lamp(place="cape", height=30), method)
        results.append(found)
    loose = model(at).with_structured_output(None, method="json_mode").invoke("JSON please")
    return [results, loose]


@case("image input", "a picture beside a text")
def _(at):
    data = base64.b64encode(PICTURE).decode()
    answer = model(at).invoke([HumanMessage([
        {"type": "text", "text": "look"}, {"type": "image", "base64": data, "mime_type": "image/png"}])])
    assert f"{len(PICTURE)} bytes" in answer.content, answer
    return view(answer)


@case("responses", "invoke, stream, tools, reasoning")
def _(at):
    talk = model(at, use_responses_api=True, output_version="responses/v1")
    answer = talk.invoke("The lamp is lit")
    equal(answer.text, "You said: The lamp is lit", "text")
    whole = None
    for chunk in talk.stream("The lamp is lit"):
        whole = chunk if whole is None else whole + chunk
    equal(whole.text, answer.text, "streamed")
    call = talk.bind_tools([get_weather]).invoke("get_weather city=Oslo")
    equal(call.tool_calls[0]["args"], {"city": "Oslo"}, "arguments")
    thought = model(at, use_responses_api=True, reasoning={"effort": "low", "summary": "auto"}).invoke("think")
    assert thought.usage_metadata["output_token_details"]["reasoning"] > 0, thought
    return [view(answer), view(call), thought.usage_metadata]


@case("completions", "the old kind of model")
def _(at):
    old = OpenAI(base_url=f"{at.url}/v1", api_key="unused", model=at.model, max_retries=0)
    text = old.invoke("The lamp")
    equal("".join(old.stream("The lamp")), text, "streamed")
    return text


@case("embeddings", "documents and queries")
def _(at):
    embed = OpenAIEmbeddings(base_url=f"{at.url}/v1", api_key="unused", model=at.model, dimensions=8,
                             check_embedding_ctx_length=False)
    documents = embed.embed_documents(["The lamp", "is lit"])
    equal(embed.embed_query("The lamp"), documents[0], "the same text")
    return documents


@case("counting tokens", "ChatAnthropic's, with tools")
def _(at):
    claude = ChatAnthropic(base_url=at.url, api_key="unused", model=at.model, max_tokens=64, max_retries=0)
    message = [HumanMessage("one two three")]
    counted = claude.get_num_tokens_from_messages(message)
    equal(counted, claude.invoke(message).usage_metadata["input_tokens"], "tokens")
    return [counted, claude.get_num_tokens_from_messages(message, tools=[get_weather])]


@case("messages", "ChatAnthropic: invoke, stream, tools, thinking")
def _(at):
    claude = ChatAnthropic(base_url=at.url, api_key="unused", model=at.model, max_tokens=2048, max_retries=0)
    answer = claude.invoke("The lamp is lit")
    whole = None
    for chunk in claude.stream("The lamp is lit"):
        whole = chunk if whole is None else whole + chunk
    equal(whole.text, answer.text, "streamed")
    call = claude.bind_tools([get_weather]).invoke("get_weather city=Oslo")
    equal(call.tool_calls[0]["args"], {"city": "Oslo"}, "arguments")
    thought = claude.model_copy(update={"thinking": {"type": "enabled", "budget_tokens": 1024}}).invoke("think")
    equal([block["type"] for block in thought.content], ["thinking", "text"], "blocks")
    return [view(answer), view(call), view(thought)]


@case("errors", "the client's own exceptions come through")
def _(at):
    import openai

    error = raises(openai.RateLimitError, lambda: model(at).invoke("quirk:status=429"))
    return error.status_code


sys.exit(features.run())
