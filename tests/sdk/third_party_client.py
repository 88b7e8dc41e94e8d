"""What the official Python client sees of a third-party server behind a worker. Run by third_party.py."""

import argparse
import sys

import openai

from checks import Checks, equal

parser = argparse.ArgumentParser()
parser.add_argument("--gateway", required=True, help="URL of the gateway, without /v1")
parser.add_argument("--model", required=True)
parser.add_argument("--answer", help="what the server always answers; else only repetition is checked")
parser.add_argument("--priced", action="store_true", help="each answer must carry its cost")
flags = parser.parse_args()

client = openai.OpenAI(base_url=f"{flags.gateway}/v1", api_key="unused", max_retries=0, timeout=60)
checks = Checks()
ASK = {"model": flags.model, "temperature": 0, "seed": 7, "max_tokens": 24}
CHAT = {**ASK, "messages": [{"role": "user", "content": "When is the lamp lit?"}]}


def read_stream(chunks):
    text, reason, usages = "", None, []
    for chunk in chunks:
        usages += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            text += getattr(choice, "text", None) or getattr(getattr(choice, "delta", None), "content", None) or ""
            reason = choice.finish_reason or reason
    return text, reason, usages


def check_usage(usage):
    assert usage and usage.prompt_tokens > 0 and usage.completion_tokens > 0, f"usage is {usage}"
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "total tokens")
    if flags.priced:
        cost = (usage.model_extra or {}).get("total_cost")
        assert type(cost) is int and cost > 0, f"the cost is {cost!r}"


@checks.check("the model is listed")
def _():
    listed = [model.id for model in client.models.list()]
    assert flags.model in listed, listed


@checks.check("a chat is answered, with usage")
def _():
    answer = client.chat.completions.create(**CHAT)
    assert answer.choices[0].message.content.strip(), answer
    assert answer.choices[0].finish_reason in ("stop", "length"), answer
    if flags.answer:
        equal(answer.choices[0].message.content, flags.answer, "content")
    check_usage(answer.usage)


@checks.check("a stream says the same as the whole answer, and ends")
def _():
    whole = client.chat.completions.create(**CHAT).choices[0]
    text, reason, usages = read_stream(client.chat.completions.create(**CHAT, stream=True))
    equal((text, reason), (whole.message.content, whole.finish_reason), "stream")
    if flags.priced:
        equal(usages, [], "usages that nobody asked for")


@checks.check("a stream ends with its usage where asked")
def _():
    options = {"stream": True, "stream_options": {"include_usage": True}}
    text, _, usages = read_stream(client.chat.completions.create(**CHAT, **options))
    assert text, "the stream is empty"
    if flags.priced or flags.answer:
        equal(len(usages), 1, "number of usages")
        check_usage(usages[0])


@checks.check("completions are answered, whole and streamed")
def _():
    ask = {**ASK, "prompt": "When is the lamp lit?"}
    answer = client.completions.create(**ask)
    check_usage(answer.usage)
    text, _, _ = read_stream(client.completions.create(**ask, stream=True))
    equal(text, answer.choices[0].text, "streamed text")


@checks.check("twenty requests one after the other reuse what they can")
def _():
    contents = {client.chat.completions.create(**CHAT).choices[0].message.content for _ in range(20)}
    equal(len(contents), 1, "number of different answers")


sys.exit(checks.run())
