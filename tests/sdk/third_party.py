#!/usr/bin/env python3
"""Runs a third-party OpenAI server behind a worker, and asks it through the network with the official client.

The server is litellm's proxy with a fixed answer: its HTTP, framing and JSON are other people's work, and it needs no
model weights. It is installed at fixed versions into target/third-party-venv (about 120 packages, once).

  tests/sdk/third_party.py [--cocoon PATH] [--direct]
"""

import argparse
import contextlib
import os
import pathlib
import socket
import subprocess
import sys

import network

HERE = pathlib.Path(__file__).resolve().parent
MODEL = "third-party"
ANSWER = "The lamp is lit every evening and burns until dawn."
CONFIG = f"""\
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_key: unused
      mock_response: "{ANSWER}"
"""
# It must reach for nothing outside this machine. It serves a fixed sentence on the loopback interface to a worker that
# has no key for it, so it is told to do without its own key.
ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DISABLE_ADMIN_UI": "True", "NO_DOCS": "True",
               "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}

CLIENT = f"""
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="unused", max_retries=0, timeout=60)
answer_wanted, priced = {ANSWER!r}, sys.argv[2] == "priced"
ask = dict(model={MODEL!r}, messages=[{{"role": "user", "content": "When is the lamp lit?"}}])

def check(name, passed, shown):
    print("pass" if passed else "FAIL", name if passed else f"{{name}}: {{shown}}", flush=True)

listed = [model.id for model in client.models.list()]
check("the model is listed", {MODEL!r} in listed, listed)
answer = client.chat.completions.create(**ask)
check("a chat is answered", answer.choices[0].message.content == answer_wanted, answer)
check("its usage is whole", answer.usage.completion_tokens > 0 and answer.usage.total_tokens
      == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage)
text, reason, usages = "", None, []
for chunk in client.chat.completions.create(**ask, stream=True, stream_options={{"include_usage": True}}):
    usages += [chunk.usage] if chunk.usage else []
    for choice in chunk.choices:
        text += choice.delta.content or ""
        reason = choice.finish_reason or reason
check("a stream is answered whole", (text, reason) == (answer_wanted, "stop"), (text, reason))
check("a stream ends with its usage", len(usages) == 1 and usages[0].completion_tokens > 0, usages)
done = client.completions.create(model={MODEL!r}, prompt="When is the lamp lit?")
check("a completion is answered", done.choices[0].text == answer_wanted, done)
if priced:
    costs = [(usage.model_extra or {{}}).get("total_cost") for usage in (answer.usage, usages[0], done.usage)]
    check("each answer carries its cost", all(type(cost) is int and cost > 0 for cost in costs), costs)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def litellm(directory):
    """The server; yields its URL."""
    python = network.venv("third-party-venv", HERE / "requirements-third-party.txt")
    config, log_path = directory / "litellm.yaml", directory / "litellm.log"
    config.write_text(CONFIG)
    port = free_port()
    command = [python.with_name("litellm"), "--config", config, "--host", "127.0.0.1", "--port", port,
               "--telemetry", "False"]
    with network.process(command, log_path, env={**os.environ, **ENVIRONMENT}, cwd=directory) as child:

        def alive():
            if child.poll() is not None:
                raise network.Unready(f"litellm ended with {child.returncode}:\n{network.log_tail(log_path)}")

        url = f"http://127.0.0.1:{port}"
        network.wait_until("litellm", lambda: network.get_json(f"{url}/v1/models")["data"], alive=alive)
        yield url


def ask(gateway, priced):
    python = network.venv("sdk-venv", HERE / "requirements.txt")
    command = [python, "-c", CLIENT, gateway, "priced" if priced else "free"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    print(done.stdout, end="")
    lines = done.stdout.splitlines()
    passed, failed = (sum(line.startswith(word) for line in lines) for word in ("pass ", "FAIL "))
    if done.returncode != 0:
        print(f"FAIL the client ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
        failed += 1
    return passed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cocoon", metavar="PATH", help="the program [default: the release build, else the debug build]")
    parser.add_argument("--direct", action="store_true", help="ask the server itself, without a network")
    arguments = parser.parse_args()
    passed, failed = 0, 0
    try:
        with network.temporary_directory() as directory:
            directory = pathlib.Path(directory)
            with litellm(directory) as server:
                if arguments.direct:
                    passed, failed = ask(server, False)
                else:
                    program = network.cocoon_path(arguments.cocoon)
                    with network.cocoon_up(program, directory, server, MODEL) as up:
                        passed, failed = ask(up.gateway, True)
    except (network.Unready, subprocess.SubprocessError, OSError) as error:
        print(f"FAIL set-up: {error}")
        failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
