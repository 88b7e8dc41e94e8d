"""What is said, apart from how: each API turns its request into an `Ask` and renders the `Saying` that follows from it.

Everything follows from the request alone, so that the same request always has the same answer.
"""

import dataclasses
import hashlib
import json
import re

GREETINGS = ("You said:", "I heard:", "That was:")
CALL_ID_LENGTH = 12


def digest(value, length=16):
    """A short name for bytes, a text or a JSON value."""
    if not isinstance(value, (bytes, str)):
        value = json.dumps(value, sort_keys=True, ensure_ascii=False)
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:length]


def pieces(text):
    """The tokens of a text: they join to it again."""
    return re.findall(r"\s*\S{1,8}|\s+$", text)


def words(value):
    """How many words a JSON value has in its texts: what counts as its tokens."""
    if isinstance(value, str):
        return len(value.split()) if len(value) < 4096 else 16
    if isinstance(value, dict):
        return sum(words(inner) for inner in value.values())
    return sum(words(inner) for inner in value) if isinstance(value, list) else 0


def logprob(token, position):
    """A probability that follows from the token and where it stands."""
    return -(int(digest(f"{position}{token}", 4), 16) % 1000) / 250


@dataclasses.dataclass
class Ask:
    text: str = ""  # the caller's last words
    media: list = dataclasses.field(default_factory=list)  # notes on images, sounds and files beside them
    results: list = dataclasses.field(default_factory=list)  # what tools said, where that came last
    tools: list = dataclasses.field(default_factory=list)  # (name, schema of the arguments)
    choice: str = "auto"  # "auto", "none", "required", or "=name"
    parallel: bool = True
    schema: object = None  # of the answer: a JSON schema, or True for any object
    reasoning: bool = False
    limit: object = None
    stops: list = dataclasses.field(default_factory=list)
    seed: int = 0
    echo: object = None  # the text to say instead: what was received
    length: object = None  # a number of tokens to say instead


@dataclasses.dataclass
class Saying:
    reasoning: str
    text: str
    calls: list  # (id, name, arguments as JSON text)
    finish: str  # "stop", "length" or "tools"
    stopped_by: object = None

    def count(self):
        """Tokens of the reasoning, and of all."""
        reasoning = len(pieces(self.reasoning))
        calls = sum(len(pieces(arguments)) for _, _, arguments in self.calls)
        return reasoning, reasoning + len(pieces(self.text)) + calls


def answer_to(ask, index=0):
    """What is said to a request, as its choice number `index`."""
    reasoning = f"Let me think about {len(ask.text.split())} words." if ask.reasoning else ""
    calls = [] if ask.results or ask.echo is not None else chosen_calls(ask)
    if calls:
        return Saying(reasoning, "", calls, "tools")
    text, finish, stopped_by = plain_text(ask, index), "stop", None
    found = sorted((text.find(stop), stop) for stop in ask.stops if stop and stop in text)
    if found:
        text, stopped_by = text[: found[0][0]], found[0][1]
    if isinstance(ask.limit, int) and ask.limit >= 0:
        thought = pieces(reasoning)
        spoken = pieces(text)
        if len(thought) + len(spoken) > ask.limit:
            finish, stopped_by = "length", None
            reasoning = "".join(thought[: ask.limit])
            text = "".join(spoken[: max(0, ask.limit - len(thought))])
    return Saying(reasoning, text, [], finish, stopped_by)


def plain_text(ask, index):
    if ask.echo is not None:
        return ask.echo
    if isinstance(ask.length, int):
        return " ".join(f"tok{i}" for i in range(ask.length))
    if ask.schema is not None:
        schema = ask.schema if isinstance(ask.schema, dict) else {"properties": {"said": {"type": "string"}}}
        return json.dumps(example(schema, ask.text), ensure_ascii=False)
    if ask.results:
        said = f"The tools say: {' | '.join(ask.results)}"
    else:
        said = " ".join([GREETINGS[ask.seed % len(GREETINGS)], ask.text, *ask.media])
    return f"{said} ({index})" if index else said


def chosen_calls(ask):
    """The tools that are called: the one asked for, or those that the text names."""
    if ask.choice == "none" or not ask.tools:
        return []
    if ask.choice.startswith("="):
        chosen = [tool for tool in ask.tools if tool[0] == ask.choice[1:]]
    else:
        chosen = [tool for tool in ask.tools if re.search(rf"\b{re.escape(tool[0])}\b", ask.text)]
        if not chosen and ask.choice == "required":
            chosen = ask.tools[:1]
    if not ask.parallel:
        chosen = chosen[:1]
    calls = []
    for position, (name, schema) in enumerate(chosen):
        arguments = json.dumps(example(schema or {}, ask.text), ensure_ascii=False)
        calls.append((digest(f"{position}{name}{arguments}", CALL_ID_LENGTH), name, arguments))
    return calls


FORMATS = {"date": "2026-01-31", "date-time": "2026-01-31T12:00:00Z", "time": "12:00:00Z", "email": "a@example.org",
           "uri": "https://example.org/", "uuid": "00000000-0000-4000-8000-000000000000"}


def example(schema, text, name="value", root=None, depth=0):
    """A value that a JSON schema allows. `name=value` in the text decides a property of that name."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > 32:
        return None
    if "$ref" in schema:
        found = root
        for step in str(schema["$ref"]).lstrip("#/").split("/"):
            found = found.get(step, {}) if isinstance(found, dict) and step else found
        return example(found, text, name, root, depth + 1)
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return example(schema[several][0], text, name, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    told = re.search(rf"\b{re.escape(name)}=([^\s,;]+)", text)
    told = told.group(1) if told else None
    if schema.get("enum"):
        return told if told in schema["enum"] else schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        inner = schema.get("properties", {})
        return {key: example(value, text, key, root, depth + 1) for key, value in inner.items()}
    if kind == "array":
        length = max(schema.get("minItems", 2), 1)
        return [example(schema.get("items", {}), text, name, root, depth + 1) for _ in range(length)]
    if kind in ("integer", "number"):
        number = float(told) if told and re.fullmatch(r"-?\d+(\.\d+)?", told) else schema.get("minimum", 7)
        return int(number) if kind == "integer" else float(number) + (0 if told else 0.5)
    if kind == "boolean":
        return told != "false"
    if kind == "null":
        return None
    return told or FORMATS.get(schema.get("format"), f"a {name}")
