"""Starts and ends what the checks need: `cocoon up`, an engine, virtual environments. Standard library only."""

import contextlib
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
READY_LIMIT_S = 60
# Everything here talks over the loopback interface: no proxy of the environment may stand in between.
os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
STOP_LIMIT_S = 15
INSTALL_LIMIT_S = 2400


class Unready(Exception):
    """Something could not be started; the message says what to do."""


def cocoon_path(asked):
    """The program under test: the one asked for, else the release build, else the debug build."""
    candidates = [pathlib.Path(asked)] if asked else [TARGET / "release/cocoon", TARGET / "debug/cocoon"]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    raise Unready(f"no program at {' or '.join(map(str, candidates))}; build it with `cargo build --release`")


def get_json(url, timeout_s=10):
    with urllib.request.urlopen(url, timeout=timeout_s) as response:
        return json.load(response)


def wait_until(what, probe, limit_s=READY_LIMIT_S, alive=lambda: None):
    """Polls until `probe` gives something true, and returns it."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        alive()
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = probe()
            if found:
                return found
        time.sleep(0.05)
    raise Unready(f"{what} was not ready within {limit_s} s")


@contextlib.contextmanager
def process(command, log_path, **options):
    """A child process whose output goes to a file; interrupted, then killed, at the end."""
    with open(log_path, "wb") as log:
        child = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=subprocess.STDOUT, **options)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def log_tail(log_path, lines=25):
    text = pathlib.Path(log_path).read_text(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


@contextlib.contextmanager
def engine(directory, name, *options):
    """An engine of tests/engines/, which serves a model of its own name; yields its URL."""
    log_path = pathlib.Path(directory) / f"{name}.log"
    command = [sys.executable, ROOT / f"tests/engines/{name}.py", "--port", "0", "--model", name, *options]
    with process(command, log_path):
        port = wait_until(f"{name}.py", lambda: log_path.read_text().partition("PORT ")[2].split("\n")[0].strip())
        yield f"http://127.0.0.1:{port}"


class Cocoon:
    """A running network."""

    def __init__(self, child, gateway, model, log_path):
        self.child, self.gateway, self.model, self.log_path = child, gateway, model, log_path


@contextlib.contextmanager
def cocoon_up(program, directory, upstream=None, model=None, workers=2):
    """`cocoon up` on free ports; yields a Cocoon once the gateway lists a model."""
    directory = pathlib.Path(directory)
    net, log_path = directory / "net", directory / "cocoon.log"
    command = [program, "up", "--dir", net, "--port-base", "0", "--workers", workers]
    if upstream:
        command += ["--upstream", upstream, "--model", model]
    with process(command, log_path) as child:

        def alive():
            if child.poll() is not None:
                raise Unready(f"`cocoon up` ended with {child.returncode}")

        def listed():
            gateway = json.loads((net / "endpoints.json").read_text())["gateway"].rstrip("/")
            served = [entry["id"] for entry in get_json(f"{gateway}/v1/models")["data"]]
            wanted = model if model in served else (served[0] if served and not model else None)
            return wanted and (gateway, wanted)

        try:
            gateway, served = wait_until("the gateway", listed, alive=alive)
        except Unready as error:
            raise Unready(f"{error}\n{log_tail(log_path)}") from None
        yield Cocoon(child, gateway, served, log_path)


def venv(name, requirements):
    """A virtual environment under target/ with exactly these requirements; rebuilt only when they change."""
    path, stamp_text = TARGET / name, hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp, python = path / "requirements.sha256", path / "bin/python"
    if not (stamp.is_file() and stamp.read_text() == stamp_text and python.exists()):
        print(f"installing {requirements.relative_to(ROOT)} into {path}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", path], check=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements]
        subprocess.run(install, check=True, timeout=INSTALL_LIMIT_S)
        stamp.write_text(stamp_text)
    return python


def temporary_directory():
    return tempfile.TemporaryDirectory(prefix="cocoon-sdk-")
