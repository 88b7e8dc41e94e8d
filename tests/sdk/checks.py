"""The smallest frame for checks: each has a name, runs alone, and says pass or FAIL on a line of its own."""

import asyncio
import inspect
import time
import traceback


class Checks:
    def __init__(self):
        self.known, self.failed = [], 0

    def check(self, name, when=True):
        """Registers a check; `when` tells whether it makes sense here."""

        def register(function):
            if when:
                self.known.append((name, function))
            return function

        return register

    def run(self, only=None):
        """Runs all; returns the exit status."""
        for name, function in self.known:
            if only and only not in name:
                continue
            started = time.monotonic()
            try:
                if inspect.iscoroutinefunction(function):
                    asyncio.run(function())
                else:
                    function()
            except Exception as error:  # a check may fail in any way; the others still run
                self.failed += 1
                where = traceback.extract_tb(error.__traceback__)
                line = next((f.lineno for f in reversed(where) if f.filename == function.__code__.co_filename), 0)
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
                print(f"FAIL {name}: line {line}: {reason}", flush=True)
            else:
                print(f"pass {name} ({time.monotonic() - started:.2f} s)", flush=True)
        return 1 if self.failed else 0


def equal(got, wanted, what="value"):
    assert got == wanted, f"{what} is {got!r}, not {wanted!r}"


def raises(kind, function):
    """The exception of this kind that the function raises."""
    try:
        result = function()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised; the result was {str(result)[:200]!r}")
