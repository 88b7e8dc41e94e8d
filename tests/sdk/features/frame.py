"""The frame of the feature checks: each case runs against the engine itself and then through the network.

A case is a function of a `Place` that asserts what must hold and returns what the client saw, as JSON. It passes where
both runs do and saw the same, apart from what the gateway is documented to add. So a failure says whose it is.
"""

import argparse
import asyncio
import base64
import hashlib
import inspect
import io
import json
import pathlib
import struct
import sys
import time
import traceback
import wave

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from network import get_json  # noqa: E402

# What gateway and worker add to an answer (docs/metering.md).
ADDED = {"cocoon", "prompt_total_cost", "completion_total_cost", "total_cost"}
# What the gateway writes into a request where its caller did not: answers that repeat their request show it.
ADDED_LIMIT = "max_output_tokens"
NETWORK = "the network"
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
PICTURE_URL = "data:image/png;base64," + base64.b64encode(PICTURE).decode()


def sound(seconds=0.5, rate=8000):
    """A WAV file with a saw in it."""
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"".join(struct.pack("<h", (i * 257) % 8192) for i in range(int(seconds * rate))))
    return held.getvalue()


def named(data):
    """Bytes as something to compare."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


class Place:
    """Where a case runs: the engine itself, or the network in front of it."""

    def __init__(self, url, engine, model, network):
        self.url, self.engine, self.model, self.network = url, engine, model, network

    def seen(self):
        """What the engine received, and how requests ended."""
        return get_json(f"{self.engine}/_seen")

    def wait_cancelled(self, before, limit_s=5.0):
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            now = self.seen()
            if now["cancelled"] > before["cancelled"] and now["active"] == 0:
                return
            time.sleep(0.02)
        raise AssertionError(f"the engine still works {limit_s} s after the caller left")


def shown(value):
    """What a client gave, as JSON: models of pydantic, bytes, lists of them."""
    if hasattr(value, "model_dump"):
        return shown(value.model_dump(mode="json"))
    if isinstance(value, bytes):
        return named(value)
    if isinstance(value, dict):
        return {str(key): shown(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def without_additions(value):
    if isinstance(value, dict):
        cocoon = value.get("cocoon")
        estimated = isinstance(cocoon, dict) and cocoon.get("estimated") is True
        return {key: without_additions(inner) for key, inner in value.items()
                if key not in ADDED and not (estimated and key == "usage")}
    return [without_additions(inner) for inner in value] if isinstance(value, list) else value


def difference(direct, network, path="answer"):
    """Where two values first differ, in words, or None."""
    if isinstance(direct, dict) and isinstance(network, dict):
        for key in sorted(direct.keys() | network.keys()):
            if key == ADDED_LIMIT and direct.get(key) is None and isinstance(network.get(key), int):
                continue
            found = difference(direct.get(key), network.get(key), f"{path}.{key}")
            if found:
                return found
        return None
    if isinstance(direct, list) and isinstance(network, list):
        for index, (one, other) in enumerate(zip(direct, network)):
            found = difference(one, other, f"{path}[{index}]")
            if found:
                return found
        return None if len(direct) == len(network) else f"{path} has {len(direct)} and {len(network)} items"
    if direct == network:
        return None
    one, other = str(direct), str(network)
    start = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    around = slice(max(0, start - 60), start + 90)
    return f"{path} from its place {start} is {one[around]!r} and {other[around]!r}"


class Features:
    """The cases of one client, by the feature of docs/clients.md that they show."""

    def __init__(self, client, version):
        self.client, self.version = client, version
        self.cases, self.result = [], {}
        parser = argparse.ArgumentParser()
        parser.add_argument("--engine", required=True, help="URL of versatile.py")
        parser.add_argument("--gateway", help="URL of the gateway in front of it; without it only the engine is asked")
        parser.add_argument("--model", required=True)
        parser.add_argument("--only", help="run only the cases whose name contains this")
        self.flags = parser.parse_args()

    def case(self, feature, name, lacks=None):
        """Registers a case; `lacks` says why the network is known not to have it yet: then it must fail there."""

        def register(function):
            self.cases.append((feature, name, function, lacks))
            return function

        return register

    def places(self):
        yield "the engine itself", Place(self.flags.engine, self.flags.engine, self.flags.model, False)
        if self.flags.gateway:
            yield NETWORK, Place(self.flags.gateway, self.flags.engine, self.flags.model, True)

    def run(self):
        """Runs all cases, prints a line for each and one for the table; returns the exit status."""
        failed, lacking = 0, {}
        for feature, name, function, lacks in self.cases:
            label = f"{feature}: {name}"
            if self.flags.only and self.flags.only not in label:
                continue
            started = time.monotonic()
            failure = self.failure(function)
            if lacks and self.flags.gateway:
                fails_there = failure is not None and failure.startswith(f"with {NETWORK}")
                failure = None if fails_there else failure or "it works now: it is no longer lacking"
                lacking[feature] = lacks
            self.result[feature] = self.result.get(feature, True) and failure is None and feature not in lacking
            failed += failure is not None
            if failure:
                print(f"FAIL {label}: {failure}", flush=True)
            else:
                print(f"pass {label} ({time.monotonic() - started:.2f} s)", flush=True)
        table = {"client": self.client, "version": self.version, "features": self.result, "lacking": lacking}
        print(f"table {json.dumps(table)}", flush=True)
        return 1 if failed else 0

    def failure(self, function):
        """Why a case fails, or None."""
        saw = []
        for where, place in self.places():
            try:
                if inspect.iscoroutinefunction(function):
                    result = asyncio.run(function(place))
                else:
                    result = function(place)
                saw.append(without_additions(shown(result)))
            except Exception as error:  # a case may fail in any way; the others still run
                steps = traceback.extract_tb(error.__traceback__)
                line = next((f.lineno for f in reversed(steps) if f.filename == function.__code__.co_filename), 0)
                return f"with {where}, line {line}: " + " ".join(f"{type(error).__name__}: {error}".split())[:500]
        if len(saw) == 2:
            found = difference(*saw)
            return found and f"the engine itself and the network differ: {found}"
        return None


def equal(got, wanted, what="value"):
    assert got == wanted, f"{what} is {got!r}, not {wanted!r}"


def raises(kind, function):
    """The exception of this kind that the function raises."""
    try:
        result = function()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised; the result was {str(result)[:200]!r}")
