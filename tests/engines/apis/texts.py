"""Texts in, numbers out: embeddings, rerank, moderations, tokens. A token of /tokenize is a character."""

import base64
import hashlib
import math
import re
import struct

from .asking import Content, Refused
from .chat import number
from .completions import prompts_of
from .speaking import words

DIMENSIONS = 32
MOST_DIMENSIONS = 4096
CATEGORIES = ("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent",
              "self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence",
              "violence/graphic")


def vector(text, dimensions):
    """A unit vector that follows from the text; shorter ones are beginnings of longer ones, made unit again."""
    data = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    values = [value / 32768 for value in struct.unpack(f"<{dimensions}h", data)]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [struct.unpack("<f", struct.pack("<f", value / length))[0] for value in values]


async def embeddings(answer):
    body = answer.need("input")
    try:
        texts = prompts_of(body["input"])
    except Refused:
        raise Refused("input must be a text, texts, or numbers of tokens", "input") from None
    dimensions = int(number(body, "dimensions", 1, MOST_DIMENSIONS, DIMENSIONS))
    format = body.get("encoding_format", "float")
    if format not in ("float", "base64"):
        raise Refused("encoding_format is float or base64", "encoding_format")
    data = []
    for index, text in enumerate(texts):
        values = vector(text, dimensions)
        shown = base64.b64encode(struct.pack(f"<{dimensions}f", *values)).decode() if format == "base64" else values
        data.append({"object": "embedding", "index": index, "embedding": shown})
    tokens = sum(max(1, words(text)) for text in texts)
    await answer.reply_json(200, {"object": "list", "data": data, "model": body["model"],
                                  "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})


def text_of(value, field):
    if isinstance(value, dict):
        value = value.get("text")
    if not isinstance(value, str):
        raise Refused(f"{field} must be texts", field)
    return value


async def rerank(answer):
    body = answer.need("query", "documents")
    query = set(text_of(body["query"], "query").lower().split())
    documents = body["documents"]
    if not isinstance(documents, list) or not documents:
        raise Refused("documents must be a list with something in it", "documents")
    documents = [text_of(document, "documents") for document in documents]
    scores = [len(query & set(document.lower().split())) / max(1, len(query)) for document in documents]
    order = sorted(range(len(documents)), key=lambda index: (-scores[index], index))
    order = order[: int(number(body, "top_n", 1, 1 << 20, len(order)))]
    results = [{"index": index, "relevance_score": scores[index]} for index in order]
    if body.get("return_documents") is not False:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    tokens = words(body["query"]) * len(documents) + sum(map(words, documents))
    await answer.reply_json(200, {"id": answer.name("rerank-"), "model": body["model"], "results": results,
                                  "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                                  "meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": tokens}}})


async def moderations(answer):
    body = answer.need("input")
    asked = body["input"]
    if isinstance(asked, list) and asked and all(isinstance(part, dict) for part in asked):
        content = Content(asked)
        texts = [" ".join([content.text, *content.notes])]
        types = ["text"] + ["image"] * bool(content.notes)
    else:
        texts, types = [text_of(text, "input") for text in (asked if isinstance(asked, list) else [asked])], ["text"]
    results = []
    for text in texts:
        flags = {name: any(re.search(rf"\b{word}", text.lower()) for word in name.split("/")[-1:]) for name in CATEGORIES}
        results.append({"flagged": any(flags.values()), "categories": flags,
                        "category_scores": {name: 0.9 if flag else 0.001 for name, flag in flags.items()},
                        "category_applied_input_types": {name: types for name in CATEGORIES}})
    await answer.reply_json(200, {"id": answer.name("modr-"), "model": body["model"], "results": results})


async def tokenize(answer):
    body = answer.need()
    if body.get("prompt") is not None:
        text = text_of(body["prompt"], "prompt")
    elif isinstance(body.get("messages"), list):
        text = "\n".join(Content(message.get("content")).text for message in body["messages"])
    else:
        raise Refused("prompt is required", "prompt")
    tokens = [ord(character) for character in text]
    await answer.reply_json(200, {"count": len(tokens), "max_model_len": 131072, "tokens": tokens,
                                  "token_strs": list(text) if body.get("return_token_strs") else None})


async def detokenize(answer):
    body = answer.need("tokens")
    try:
        text = "".join(map(chr, body["tokens"]))
    except (TypeError, ValueError, OverflowError):
        raise Refused("tokens must be numbers of characters", "tokens") from None
    await answer.reply_json(200, {"prompt": text})


ROUTES = {"/v1/embeddings": embeddings, "/v1/rerank": rerank, "/rerank": rerank, "/v2/rerank": rerank,
          "/v1/moderations": moderations, "/tokenize": tokenize, "/v1/tokenize": tokenize, "/detokenize": detokenize,
          "/v1/detokenize": detokenize}
