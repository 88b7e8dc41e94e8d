"""POST /v1/completions."""

import quirky

from .asking import Refused
from .chat import number, read_schema
from .speaking import Ask, answer_to, logprob, pieces, words


def prompts_of(value):
    """The prompts as texts. Numbers stand for characters, as in /tokenize."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return value
        rows = value if all(isinstance(item, list) for item in value) else [value]
        try:
            return ["".join(map(chr, row)) for row in rows]
        except (TypeError, ValueError, OverflowError):
            pass
    raise Refused("prompt must be a text, texts, or numbers of tokens", "prompt")


def logprobs_of(tokens, top, start):
    offsets, at = [], start
    for token in tokens:
        offsets.append(at)
        at += len(token)
    values = [logprob(token, position) for position, token in enumerate(tokens)]
    tops = [{token: value, **{f"{token}{i}": value - i for i in range(1, top)}} for token, value in zip(tokens, values)]
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops if top else None, "text_offset": offsets}


async def completions(answer):
    body = answer.need("prompt")
    count = int(number(body, "n", 1, 128, 1))
    top = body.get("logprobs")
    top = None if top is None or top is False else int(number(body, "logprobs", 0, 20, 0))
    prompts = prompts_of(body["prompt"])
    stop = body.get("stop") or []
    shown = []  # (tokens of the answer, text before and after, finish)
    for prompt in prompts:
        text = prompt + (f" before {body['suffix']}" if body.get("suffix") else "")
        ask = Ask(text=text, limit=body.get("max_tokens"), stops=stop if isinstance(stop, list) else [stop],
                  seed=int(body.get("seed") or 0), schema=read_schema(body.get("response_format")),
                  echo=answer.r.echo() if "echo" in answer.q else None, length=answer.q.get("tokens"))
        for index in range(count):
            saying = answer_to(ask, index)
            shown.append((pieces(saying.text), prompt if body.get("echo") else "", saying.finish))
    whole = sum(words(prompt) for prompt in prompts)
    written = sum(len(tokens) for tokens, _, _ in shown)
    usage = {"prompt_tokens": whole, "completion_tokens": written, "total_tokens": whole + written,
             "prompt_tokens_details": {"cached_tokens": whole // 4}}
    envelope = {"id": answer.name("cmpl-"), "object": "text_completion", "created": quirky.CREATED,
                "model": body["model"], "system_fingerprint": "fp_versatile"}
    if body.get("stream") is True:
        options = body.get("stream_options")
        asked = isinstance(options, dict) and options.get("include_usage") is True
        await answer.stream_events(events(envelope, shown, top, usage if asked else None))
        return
    choices = [{"index": index, "text": before + "".join(tokens), "finish_reason": finish,
                "logprobs": None if top is None else logprobs_of(tokens, top, len(before))}
               for index, (tokens, before, finish) in enumerate(shown)]
    await answer.reply_json(200, {**envelope, "choices": choices, "usage": usage})


def events(envelope, shown, top, usage):
    if usage is not None:
        envelope = {**envelope, "usage": None}
    for index, (tokens, before, finish) in enumerate(shown):
        if before:
            choice = {"index": index, "text": before, "logprobs": None, "finish_reason": None}
            yield 0, None, {**envelope, "choices": [choice]}
        at = len(before)
        for token in tokens:
            choice = {"index": index, "text": token, "finish_reason": None,
                      "logprobs": None if top is None else logprobs_of([token], top, at)}
            at += len(token)
            yield 1, None, {**envelope, "choices": [choice]}
        last = {"index": index, "text": "", "logprobs": None, "finish_reason": finish}
        yield 0, None, {**envelope, "choices": [last]}
    if usage is not None:
        yield 0, None, {**envelope, "choices": [], "usage": usage}


ROUTES = {"/v1/completions": completions}
