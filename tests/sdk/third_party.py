#!/usr/bin/env python3
"""Runs a third-party OpenAI server behind a worker, and asks it through the network with the official client.

Its HTTP, framing and JSON are other people's work. Both need no downloaded weights, and are installed at fixed versions
into an environment of their own under target/, once:
  litellm    litellm's proxy with a fixed answer: about 120 packages, a minute
  llama-cpp  llama.cpp with its Python server and a tiny model of pseudo-random weights: compiles C++, about ten minutes

  tests/sdk/third_party.py [--server litellm|llama-cpp] [--cocoon PATH] [--direct]
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

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(name, command, directory, port, environment):
    """A server as a process; yields its URL once it lists a model."""
    log_path = directory / f"{name}.log"
    with network.process(command, log_path, env={**os.environ, **environment}, cwd=directory) as child:

        def alive():
            if child.poll() is not None:
                raise network.Unready(f"{name} ended with {child.returncode}:\n{network.log_tail(log_path)}")

        url = f"http://127.0.0.1:{port}"
        network.wait_until(name, lambda: network.get_json(f"{url}/v1/models")["data"], alive=alive)
        yield url


@contextlib.contextmanager
def litellm(directory):
    """The server; yields its URL."""
    python = network.venv("third-party-venv", HERE / "requirements-third-party.txt")
    config = directory / "litellm.yaml"
    config.write_text(CONFIG)
    port = free_port()
    command = [python.with_name("litellm"), "--config", config, "--host", "127.0.0.1", "--port", port,
               "--telemetry", "False"]
    with serving("litellm", command, directory, port, ENVIRONMENT) as url:
        yield url


@contextlib.contextmanager
def llama_cpp(directory):
    """The server, with a model made on the spot; yields its URL."""
    os.environ.setdefault("CMAKE_ARGS", "-DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DLLAMA_BUILD_TOOLS=OFF -DMTMD_BUILD=OFF")
    python = network.venv("llama-cpp-venv", HERE / "requirements-llama-cpp.txt")
    model = directory / "tiny.gguf"
    subprocess.run([python, HERE / "tiny_model.py", model], check=True, timeout=60)
    port = free_port()
    command = [python, "-m", "llama_cpp.server", "--model", model, "--model_alias", MODEL, "--host", "127.0.0.1",
               "--port", port, "--n_ctx", "2048", "--n_threads", "1", "--chat_format", "chatml"]
    with serving("llama-cpp", command, directory, port, {}) as url:
        yield url


SERVERS = {"litellm": litellm, "llama-cpp": llama_cpp}


def ask(gateway, answer, priced):
    """Runs the client; returns how many checks passed and failed."""
    python = network.venv("sdk-venv", HERE / "requirements.txt")
    command = [python, HERE / "third_party_client.py", "--gateway", gateway, "--model", MODEL]
    command += ["--answer", answer] if answer else []
    command += ["--priced"] if priced else []
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    print(done.stdout, end="")
    lines = done.stdout.splitlines()
    passed, failed = (sum(line.startswith(word) for line in lines) for word in ("pass ", "FAIL "))
    if not lines or (done.returncode != 0 and not failed):
        print(f"FAIL the client ended with {done.returncode}: {done.stderr[-500:]}")
        failed += 1
    return passed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=SERVERS, default="litellm", help="which server [default: litellm]")
    parser.add_argument("--cocoon", metavar="PATH", help="the program [default: the release build, else the debug build]")
    parser.add_argument("--direct", action="store_true", help="ask the server itself, without a network")
    arguments = parser.parse_args()
    passed, failed = 0, 0
    try:
        with network.temporary_directory() as directory:
            directory = pathlib.Path(directory)
            answer = ANSWER if arguments.server == "litellm" else None
            with SERVERS[arguments.server](directory) as server:
                if arguments.direct:
                    passed, failed = ask(server, answer, False)
                else:
                    program = network.cocoon_path(arguments.cocoon)
                    with network.cocoon_up(program, directory, server, MODEL) as up:
                        passed, failed = ask(up.gateway, answer, True)
    except (network.Unready, subprocess.SubprocessError, OSError) as error:
        print(f"FAIL set-up: {error}")
        failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
