#!/usr/bin/env python3
"""Runs the official OpenAI clients, unmodified, against `cocoon up`.

Two networks are checked: one with the built-in engine, one with tests/engines/quirky.py as its engine. The clients are
installed at fixed versions: Python's into target/sdk-venv, JavaScript's into tests/sdk/js/node_modules. Each check prints a
line; the last line counts them. The exit status is 0 only where nothing failed.

  tests/sdk/run.py [--cocoon PATH] [--only TEXT] [--skip-js]
  tests/sdk/run.py --direct        checks the checks: the clients ask quirky.py itself
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

import network

HERE = pathlib.Path(__file__).resolve().parent
CLIENT_LIMIT_S = 300


def install_js():
    """`npm ci`, unless what is installed is what the lock file says."""
    js = HERE / "js"
    installed, lock = js / "node_modules/.cocoon-lock.json", (js / "package-lock.json").read_bytes()
    if installed.is_file() and installed.read_bytes() == lock:
        return
    npm = shutil.which("npm")
    if not npm:
        raise network.Unready("npm is not installed; install Node 20 or later, or pass --skip-js")
    print("installing tests/sdk/js/package-lock.json", flush=True)
    subprocess.run([npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=js, check=True, timeout=300)
    installed.write_bytes(lock)


class Tally:
    def __init__(self):
        self.passed, self.failed = 0, 0

    def count(self, label, passed, text):
        self.passed += passed
        self.failed += not passed
        print(f"{'pass' if passed else 'FAIL'} {label}: {text}", flush=True)

    def run(self, label, command):
        """Runs one client and counts the lines that it prints; what it says for a table is returned."""
        child = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, cwd=HERE)
        watchdog = threading.Timer(CLIENT_LIMIT_S, child.kill)
        watchdog.start()
        failed_before, lines, tables = self.failed, 0, []
        try:
            for line in child.stdout:
                word, _, text = line.rstrip("\n").partition(" ")
                if word in ("pass", "FAIL"):
                    self.count(label, word == "pass", text)
                    lines += 1
                elif word == "table":
                    tables.append(text)
                elif line.strip():
                    print(f"     {label}: {line.rstrip()}", flush=True)
        finally:
            watchdog.cancel()
        status = child.wait()
        if lines == 0 or (status != 0 and self.failed == failed_before):
            self.count(label, False, f"the client ended with {status} after {lines} checks")
        return tables


def clients(tally, arguments, python, label, gateway, model, engine=None, direct=False):
    options = ["--gateway", gateway, "--model", model]
    options += ["--engine", engine] if engine else []
    options += ["--direct"] if direct else []
    options += ["--only", arguments.only] if arguments.only else []
    tally.run(f"python {label}", [python, HERE / "client.py", *options])
    if not arguments.skip_js:
        tally.run(f"js {label}", [shutil.which("node") or "node", HERE / "js/client.mjs", *options])


def ends_cleanly(tally, label, up):
    """Ctrl-C ends the network with status 0."""
    up.child.send_signal(network.signal.SIGINT)
    try:
        status = up.child.wait(network.STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        tally.count(label, False, "Ctrl-C did not end the network")
        return
    log = pathlib.Path(up.log_path).read_text(errors="replace")
    tally.count(label, status == 0, f"Ctrl-C ends the network with status {status}")
    tally.count(label, "panicked" not in log, "no part of the network panicked")


def check_all(arguments, tally):
    python = network.venv("sdk-venv", HERE / "requirements.txt")
    if not arguments.skip_js:
        install_js()
    with network.temporary_directory() as directory, network.engine(directory, "quirky") as engine:
        if arguments.direct:
            clients(tally, arguments, python, "direct", engine, "quirky", engine, direct=True)
            return
        program = network.cocoon_path(arguments.cocoon)
        for label, upstream in (("built-in", None), ("quirky", engine)):
            model = "quirky" if upstream else None
            net_directory = tempfile.mkdtemp(prefix=label, dir=directory)
            try:
                with network.cocoon_up(program, net_directory, upstream, model) as up:
                    clients(tally, arguments, python, label, up.gateway, up.model, upstream)
                    ends_cleanly(tally, label, up)
            except network.Unready as error:
                tally.count(label, False, str(error))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cocoon", metavar="PATH", help="the program [default: the release build, else the debug build]")
    parser.add_argument("--only", metavar="TEXT", help="run only the checks whose name contains this")
    parser.add_argument("--skip-js", action="store_true", help="leave the JavaScript client out")
    parser.add_argument("--direct", action="store_true", help="ask quirky.py itself, without a network")
    arguments = parser.parse_args()
    tally = Tally()
    try:
        check_all(arguments, tally)
    except (network.Unready, subprocess.SubprocessError, OSError) as error:
        tally.count("set-up", False, str(error))
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
