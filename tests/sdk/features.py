#!/usr/bin/env python3
"""Runs the ordinary features of many clients, unmodified, against `cocoon up` with an engine that has them all.

The engine is tests/engines/versatile.py. Each case asks it directly first, then through the network, and compares what the
client saw. The table in docs/clients.md must be what comes out; `--write` writes it.

  tests/sdk/features.py [--cocoon PATH] [--client TEXT] [--only TEXT] [--write]
  tests/sdk/features.py --direct        checks the checks: only the engine is asked
"""

import argparse
import json
import shutil
import subprocess
import sys
import urllib.request

import network
import run

HERE = run.HERE
DOCUMENT = network.ROOT / "docs/clients.md"
BEGIN, END = "<!-- The table is written by tests/sdk/features.py -->\n", "<!-- end of the table -->\n"
# In the order of the table; what a client shows beyond these comes after them.
ORDER = ("models", "chat", "streaming", "tools", "structured output", "reasoning", "image input",
         "audio input and output", "completions", "responses", "messages", "counting tokens", "embeddings", "rerank",
         "moderations", "tokens", "transcriptions", "speech", "images", "errors",
         "retries, time-outs, cancelling", "raw answers", "requests")
PROGRAMS = ("exact.py", "openai_python.py", "openai.mjs", "anthropic_python.py", "anthropic.mjs", "langchain_python.py",
            "litellm_python.py", "ai-sdk.mjs")


def command_of(program):
    """The program and what it runs in: LiteLLM needs other versions of what the other clients need."""
    if program.endswith(".mjs"):
        return [shutil.which("node") or "node", HERE / "js/features" / program]
    name = ("third-party-venv", "requirements-third-party.txt") if program.startswith("litellm") else (
        "sdk-venv", "requirements.txt")
    # Warnings of clients about their own models are not ours.
    return [network.venv(name[0], HERE / name[1]), "-W", "ignore", HERE / "features" / program]


def table(results):
    """The table of docs/clients.md: features down, clients across."""
    features = [name for name in ORDER if any(name in result["features"] for result in results)]
    features += sorted({name for result in results for name in result["features"]} - set(features))
    heads = [f"{result['client']} {result['version']}" for result in results]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    reasons = []
    for name in features:
        cells = []
        for result in results:
            cell, reason = {True: "yes", False: "no", None: ""}[result["features"].get(name)], result["lacking"].get(name)
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"{cell} ({reasons.index(reason) + 1})" if reason else cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    notes = [f"({number}) {reason}." for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def check_document(tally, results, write):
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n{table(results)}\n{END}{after}"
    if write:
        DOCUMENT.write_text(wanted)
    tally.count("document", bool(end) and (write or text == wanted), "docs/clients.md has this table")


def ask_all(arguments, tally, engine, gateway=None):
    options = ["--engine", engine, "--model", "versatile"]
    options += ["--gateway", gateway] if gateway else []
    options += ["--only", arguments.only] if arguments.only else []
    results = []
    for program in PROGRAMS:
        if arguments.client in program:
            found = tally.run(program, [*command_of(program), *options])
            results += [json.loads(line) for line in found]
    return results


def wait_for_abilities(gateway):
    """Waits until the network knows that the engine can do more than chats, which workers find out after their start."""
    body = json.dumps({"model": "versatile", "query": "a", "documents": ["a"]}).encode()
    request = urllib.request.Request(f"{gateway}/v1/rerank", body, {"Content-Type": "application/json"})
    network.wait_until("the engine's abilities", lambda: network.get_json(request))


def check_all(arguments, tally):
    run.install_js()
    with network.temporary_directory() as directory, network.engine(directory, "versatile") as engine:
        if arguments.direct:
            ask_all(arguments, tally, engine)
            return
        program = network.cocoon_path(arguments.cocoon)
        with network.cocoon_up(program, directory, engine, "versatile") as up:
            wait_for_abilities(up.gateway)
            results = ask_all(arguments, tally, engine, up.gateway)
            run.ends_cleanly(tally, "network", up)
            if tally.failed:
                # What the network said; it tells no text of requests and answers.
                print(network.log_tail(up.log_path, 100), flush=True)
        if not (arguments.only or arguments.client):
            check_document(tally, results, arguments.write)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cocoon", metavar="PATH", help="the program [default: the release build, else the debug build]")
    parser.add_argument("--client", metavar="TEXT", default="", help="only the programs whose name contains this")
    parser.add_argument("--only", metavar="TEXT", help="only the cases whose name contains this")
    parser.add_argument("--direct", action="store_true", help="ask the engine itself, without a network")
    parser.add_argument("--write", action="store_true", help="write the table into docs/clients.md")
    arguments = parser.parse_args()
    tally = run.Tally()
    try:
        check_all(arguments, tally)
    except (network.Unready, subprocess.SubprocessError, OSError) as error:
        tally.count("set-up", False, str(error))
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
