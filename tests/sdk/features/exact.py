"""The bytes of requests and answers, by plain HTTP: what the network passes on is what was sent, apart from the documented
additions, which are cut out of the text here. Run by ../features.py.
"""

import http.client
import json
import re
import sys
import urllib.parse

from frame import ADDED, PICTURE, Features, equal, named, sound
from network import get_json

features = Features("plain HTTP", "1.1")
case = features.case
# What the gateway writes into requests (docs/metering.md).
WRITTEN = {"max_tokens", "max_completion_tokens", "max_output_tokens", "stream_options"}
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|\s+|[^\s{}\[\],:"]+')
BOUNDARY = "a-boundary-0123456789"
ODD = r'{ "model":%s,"spline" : [1.0, 1e2, -0, 12345678901234567890, "\u00e9\ud83c\udf6c/\/", {"a":{}, "b":[]}, null],'


def cut(text, names):
    """JSON text without the members of these names, wherever they are; all other bytes stay."""
    tokens = TOKEN.findall(text)
    kept, at = [], 0
    while at < len(tokens):
        before = next((token for token in reversed(kept) if not token.isspace()), "")
        if tokens[at].startswith('"') and before in ("{", ",") and tokens[at][1:-1] in names and is_key(tokens, at):
            at = value_end(tokens, at)
            if before == ",":
                while kept.pop() != ",":
                    pass
            else:
                while at < len(tokens) and (tokens[at].isspace() or tokens[at] == ","):
                    at += 1
                    if tokens[at - 1] == ",":
                        break
            continue
        kept.append(tokens[at])
        at += 1
    return "".join(kept)


def squeezed(text):
    """JSON text without the white space between the members of the whole object and of its `usage`: those two are written
    anew where something is added to them. Every other byte stays."""
    kept, depth, loose_until = [], 0, 0
    tokens = TOKEN.findall(text)
    for at, token in enumerate(tokens):
        if token == '"usage"' and depth == 1 and is_key(tokens, at):
            loose_until = value_end(tokens, at)
        depth += (token in "{[") - (token in "}]")
        if not (token.isspace() and (depth <= 1 or at < loose_until)):
            kept.append(token)
    return "".join(kept)


def is_key(tokens, at):
    rest = (token for token in tokens[at + 1:] if not token.isspace())
    return next(rest, "") == ":"


def value_end(tokens, at):
    """The place after the value of the member whose name is at `at`."""
    at = tokens.index(":", at) + 1
    while tokens[at].isspace():
        at += 1
    depth = 0
    while True:
        depth += (tokens[at] in "{[") - (tokens[at] in "}]")
        at += 1
        if depth == 0:
            return at


def comparable(body, kind):
    """A body without what the network adds, and without what it may lay out anew."""
    if kind == "application/json":
        return squeezed(cut(body.decode(), ADDED))
    if kind == "text/event-stream":
        lines = re.sub(r"(?m)^: cocoon .*\n\n", "", body.decode()).split("\n")
        return "\n".join(cut(line, ADDED) if line.startswith("data: {") else line for line in lines)
    return body


def exchange(at, path, body, headers=()):
    """One POST; the status, the type, and the body without additions."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(at.url).netloc, timeout=30)
    data = body if isinstance(body, bytes) else body.encode("utf-8")
    try:
        headers = {"Content-Type": "application/json", "Anthropic-Version": "2023-06-01", **dict(headers)}
        connection.request("POST", path, data, headers)
        answer = connection.getresponse()
        got = answer.read()
        kind = (answer.getheader("Content-Type") or "").partition(";")[0]
    finally:
        connection.close()
    return {"status": answer.status, "type": answer.getheader("Content-Type"), "body": comparable(got, kind)}


def ask(at, path, **fields):
    return exchange(at, path, json.dumps({"model": at.model, **fields}, ensure_ascii=False))


def form(fields, files):
    """A form's body: fields (name, text) and files (name, file name, type, bytes)."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode() for name, text in fields]
    parts += [f'Content-Disposition: form-data; name="{name}"; filename="{file}"\r\nContent-Type: {kind}\r\n\r\n'.encode()
              + data for name, file, kind, data in files]
    body = b"".join(b"--" + BOUNDARY.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    return body + b"--" + BOUNDARY.encode() + b"--\r\n"


def post_form(at, path, fields, files):
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return exchange(at, path, form([("model", at.model), *fields], files), headers)


def user(text):
    return [{"role": "user", "content": text}]


STREAM = {"stream": True, "stream_options": {"include_usage": True}}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
ABILITIES = ("chat", "completions", "responses", "messages", "embeddings", "rerank", "transcriptions", "translations",
             "speech", "images", "image_edits", "moderations", "tokenize", "count_tokens", "input_tokens", "tools",
             "image_input", "audio_input", "structured_output")
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]


@case("models", "with what the engine can do")
def _(at):
    entry = next(entry for entry in get_json(f"{at.url}/v1/models")["data"] if entry["id"] == at.model)
    if at.network:
        equal(set(ABILITIES) - set(entry["cocoon"].get("abilities") or []), set(), "abilities that are not told")


@case("chat", "answers")
def _(at):
    path, text = "/v1/chat/completions", user("get_weather «жетон\U0001F36C» city=Ålesund")
    return [ask(at, path, messages=text), ask(at, path, messages=text, n=3, logprobs=True, top_logprobs=2),
            ask(at, path, messages=text, tools=TOOLS), ask(at, path, messages=text, reasoning_effort="low"),
            ask(at, path, messages=text, modalities=["text", "audio"], audio={"voice": "a", "format": "wav"})]


@case("streaming", "chat's events")
def _(at):
    path, text = "/v1/chat/completions", user("get_weather «жетон\U0001F36C» city=Ålesund")
    return [ask(at, path, messages=text, **STREAM), ask(at, path, messages=text, n=3, logprobs=True, **STREAM),
            ask(at, path, messages=text, tools=TOOLS, **STREAM),
            ask(at, path, messages=text, reasoning_effort="low", **STREAM)]


@case("completions", "answers and events")
def _(at):
    path = "/v1/completions"
    return [ask(at, path, prompt="The lamp", logprobs=2), ask(at, path, prompt=["a", "b"], echo=True, n=2),
            ask(at, path, prompt="The lamp", **STREAM)]


@case("responses", "answers and events")
def _(at):
    tools = [{"type": "function", "name": "get_weather", "parameters": WEATHER}]
    results = []
    for more in ({}, {"reasoning": {"effort": "low", "summary": "auto"}}, {"tools": tools}):
        # The limit is given, because answers repeat it.
        fields = {"input": "get_weather «жетон» city=Ålesund", "max_output_tokens": 500, **more}
        results += [ask(at, "/v1/responses", **fields), ask(at, "/v1/responses", **fields, stream=True)]
    return results


@case("messages", "answers and events")
def _(at):
    tools = [{"name": "get_weather", "input_schema": WEATHER}]
    results = []
    for more in ({}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"tools": tools}):
        fields = {"messages": user("get_weather «жетон» city=Ålesund"), "max_tokens": 2000, **more}
        results += [ask(at, "/v1/messages", **fields), ask(at, "/v1/messages", **fields, stream=True)]
    return results


@case("embeddings", "answers")
def _(at):
    return [ask(at, "/v1/embeddings", input=["a", "b"], encoding_format=kind) for kind in ("float", "base64")]


@case("rerank", "answers")
def _(at):
    return [ask(at, path, query="a lamp", documents=["the cape", "the lamp"]) for path in ("/v1/rerank", "/rerank")]


@case("moderations", "answers")
def _(at):
    return ask(at, "/v1/moderations", input=["peace", "violence"])


@case("tokens", "there and back")
def _(at):
    results = []
    for prefix in ("", "/v1"):
        there = ask(at, f"{prefix}/tokenize", prompt="Ålesund")
        tokens = json.loads(there["body"])["tokens"]
        back = ask(at, f"{prefix}/detokenize", tokens=tokens)
        equal(json.loads(back["body"])["prompt"], "Ålesund", "text")
        results += [there, back, ask(at, f"{prefix}/tokenize", messages=user("a b"))]
    return results


@case("counting tokens", "answers, and errors in each API's form")
def _(at):
    text, results = user("get_weather «жетон» city=Ålesund"), []
    for path, field in (("/v1/messages/count_tokens", "messages"), ("/v1/responses/input_tokens", "input")):
        tools = [{"type": "function", "name": "get_weather", "input_schema": WEATHER, "parameters": WEATHER}]
        results += [ask(at, path, **{field: text}), ask(at, path, **{field: text}, tools=tools),
                    ask(at, path, **{field: user("quirk:status=429")})]
    equal([result["status"] for result in results], [200, 200, 429] * 2, "statuses")
    return results


@case("transcriptions", "answers and events, in every format")
def _(at):
    file = [("file", "lamp.wav", "audio/wav", sound())]
    path = "/v1/audio/transcriptions"
    kinds = ("json", "text", "srt", "vtt", "verbose_json")
    results = [post_form(at, path, [("response_format", kind)], file) for kind in kinds]
    return [*results, post_form(at, path, [("stream", "true")], file), post_form(at, "/v1/audio/translations", [], file)]


@case("speech", "binary and events")
def _(at):
    fields = {"input": "The lamp is lit", "voice": "alloy"}
    results = [ask(at, "/v1/audio/speech", **fields, response_format=kind) for kind in ("wav", "pcm", "mp3", "opus")]
    return [*results, ask(at, "/v1/audio/speech", **fields, response_format="pcm", stream_format="sse")]


@case("images", "answers and events")
def _(at):
    files = [("image", "a.png", "image/png", PICTURE)]
    fields = {"prompt": "a lamp", "size": "64x64"}
    return [ask(at, "/v1/images/generations", **fields, n=2),
            ask(at, "/v1/images/generations", **fields, stream=True, partial_images=1),
            post_form(at, "/v1/images/edits", list(fields.items()), files),
            post_form(at, "/v1/images/variations", [("size", "64x64")], files)]


@case("errors", "the engine's own, with what clients need to wait")
def _(at):
    results = []
    for status in (400, 404, 409, 422, 429):
        text = f"quirk:status={status}"
        results += [ask(at, "/v1/chat/completions", messages=user(text)), ask(at, "/v1/embeddings", input=text),
                    ask(at, "/v1/messages", messages=user(text), max_tokens=5), ask(at, "/v1/responses", input=text)]
    return results


def received(at, path):
    """The newest request of these checks that came to the engine at a path; a worker may ask it things by itself."""
    return [got for got in at.seen()["requests"] if got["target"] == path and "spline" in got["raw"]][-1]


@case("requests", "the engine receives the JSON that was sent")
def _(at):
    kinds = (("/v1/chat/completions", '"messages":[{"role": "user", "content":"x"}]'), ("/v1/completions", '"prompt":"x"'),
             ("/v1/responses", '"input":"x"'),
             ("/v1/messages", '"messages":[{"role":"user","content":"x"}],"max_tokens":99'),
             ("/v1/embeddings", '"input":"x"'), ("/v1/rerank", '"query":"x","documents":["y" , "z"]'),
             ("/v1/moderations", '"input":"x"'), ("/v1/audio/speech", '"input":"x","voice":"y"'),
             ("/v1/images/generations", '"prompt":"x"'), ("/tokenize", '"prompt":"x"'), ("/detokenize", '"tokens":[5 , 6]'),
             ("/v1/messages/count_tokens", '"messages":[{"role":"user","content":"x"}]'),
             ("/v1/responses/input_tokens", '"input":"x"'))
    for path, rest in kinds:
        for more in ("", ',"stream":true'):
            sent = ODD % json.dumps(at.model) + rest + more + "}"
            exchange(at, path, sent)
            got = received(at, path)
            equal(squeezed(cut(got["raw"], WRITTEN)), squeezed(cut(sent, WRITTEN)), f"what came to {path}")


@case("requests", "the engine receives the form that was sent")
def _(at):
    odd = [("prompt", "ein Wörtchen\r\nmehr"), ("spline", "1"), ("timestamp_granularities[]", "word"),
           ("response_format", "verbose_json")]
    for path, name, data in (("/v1/audio/transcriptions", "file", sound(20)), ("/v1/images/edits", "image", PICTURE)):
        nearly = b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n"
        files = [(name, "ein Bild «1».bin", "application/octet-stream", data + nearly)]
        fields = odd if name == "file" else odd[:2]
        sent = form([("model", at.model), *fields], files)
        equal(post_form(at, path, fields, files)["status"], 200, "status")
        got = received(at, path)
        equal((got["body_bytes"], got["sha256"]), (len(sent), named(sent)["sha256"]), f"what came to {path}")


@case("requests", "headers of the API go on, keys do not")
def _(at):
    sent = {"Authorization": "Bearer a-secret", "X-Api-Key": "a-secret", "Anthropic-Beta": "a-beta", "OpenAI-Beta": "b-beta"}
    body = ODD % json.dumps(at.model) + '"messages":[{"role":"user","content":"x"}],"max_tokens":99}'
    equal(exchange(at, "/v1/messages", body, sent)["status"], 200, "status")
    got = {name.lower(): value for name, value in received(at, "/v1/messages")["headers"]}
    equal([got.get(name) for name in ("anthropic-version", "anthropic-beta", "openai-beta")],
          ["2023-06-01", "a-beta", "b-beta"], "headers at the engine")
    if at.network:
        assert "a-secret" not in str(got), "the caller's key came to the engine"


@case("image input", "a body of twelve megabytes")
def _(at):
    text = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "AAAA" * 3_000_000}}]
    answer = ask(at, "/v1/chat/completions", messages=[{"role": "user", "content": text}])
    equal(answer["status"], 200, answer["body"][:200])
    return answer


if __name__ == "__main__":
    equal(squeezed('{ "a" : [1, 2], "usage": {"b": 3, "c": 4} }'), '{"a":[1, 2],"usage":{"b":3,"c":4}}', "the squeezing")
    equal(cut('{"cocoon": {"a": [1, "}"]}, "b" : 1 , "total_cost":5}', ADDED), '{ "b" : 1 }', "the cutting")
    sys.exit(features.run())
