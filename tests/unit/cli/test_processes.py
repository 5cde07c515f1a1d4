"""Real processes: `relay dev` and all that it prints, pasted; pub, sub and health against it; exit statuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.devcerts import make_dev_certificates

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[3]
RELAY = [sys.executable, "-m", "relay"]
SECONDS = 30


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    return kept | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | more


def run(*arguments: str, folder: Path, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RELAY, *arguments],
        cwd=folder,
        env=environment(**env),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


class Dev:
    """A running `relay dev` in its own folder, and what it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*RELAY, "dev", "--port", "0", "--set", "server.drain_spread=0"],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        guard = threading.Timer(SECONDS, self.process.kill)
        guard.start()
        self.text = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line
            if "Ctrl-C stops" in line:
                break
        guard.cancel()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=SECONDS)
        self.log = out + err
        return self.process.returncode

    def find(self, pattern: str) -> str:
        found = re.search(pattern, self.text, re.MULTILINE | re.DOTALL)
        assert found is not None, self.text
        return found[1]

    @property
    def url(self) -> str:
        return self.find(r"^# The relay is at (\S+)$").replace("https", "wss") + "/ws"

    @property
    def token(self) -> str:
        return self.find(r"^export RELAY_TOKEN=(\S+)$")


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    dev = Dev(tmp_path_factory.mktemp("dev"))
    yield dev
    if dev.process.poll() is None:
        dev.stop()


def shell(dev: Dev, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-e"],
        input=f"export RELAY_TOKEN={dev.token}\n{script}",
        cwd=dev.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_the_python_that_dev_prints_runs_as_it_is(dev: Dev):
    result = shell(dev, dev.find(r"^# Python\n(.*?^END$)"))
    assert result.returncode == 0, result.stderr
    assert "Message(room='lobby', data='hello from Python'" in result.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="NOT RUN: no curl here")
def test_the_curl_that_dev_prints_runs_as_it_is(dev: Dev):
    result = shell(dev, dev.find(r"^# curl\n(.*?)\n\n"))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.split("<!doctype")[0])["subject"] == "dev"
    assert "relay playground" in result.stdout


def test_the_token_that_dev_prints_is_accepted_for_twelve_hours(dev: Dev):
    result = run("token", "check", dev.token, "--room", "any:room", folder=dev.folder)
    assert result.returncode == 0, result.stderr
    assert "12 h from now" in result.stdout
    assert "in any:room: join, publish, presence, history, call" in result.stdout


def test_the_commands_that_dev_prints_as_next_steps_exist(dev: Dev):
    commands = re.findall(r"^\S*(?:relay| -m relay) (sub|pub|plugins|config) ", dev.text, re.MULTILINE)
    assert commands == ["sub", "pub", "plugins", "config"]


def test_what_pub_says_sub_hears(dev: Dev):
    listener = subprocess.Popen(
        [*RELAY, "sub", "lobby", "--count", "3", "--delta", "--url", dev.url],
        cwd=dev.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(SECONDS, listener.kill)
    guard.start()
    try:
        assert listener.stderr is not None
        assert listener.stderr.readline() == "listening to lobby; Ctrl-C ends\n"
        confirmed = ("--to", "dev", "--confirm", "20")
        told = run("pub", "lobby", "-", *confirmed, "--url", dev.url, folder=dev.folder, stdin="one\ntwo\x1b[2J\n")
        assert told.returncode == 0, told.stderr
        late = run("sub", "lobby", "--last", "2", "-n", "1", "--json", "--url", dev.url, folder=dev.folder)
        assert late.returncode == 0, late.stderr
        told = run("pub", "lobby", "--json", '{"n": 3}', "--url", dev.url, folder=dev.folder)
        assert told.returncode == 0, told.stderr
        heard, errors = listener.communicate(timeout=SECONDS)
    finally:
        guard.cancel()
        listener.kill()
    assert listener.returncode == 0, errors
    said = [line for line in heard.splitlines() if not line.startswith("*")]
    assert said == ["dev: one", r"dev: two\x1b[2J", 'dev: {"n": 3}']
    event = json.loads(late.stdout)
    assert (event["t"], event["room"], event["from"], event["data"]) == ("message", "lobby", "dev", "one")


def test_pub_says_when_nobody_could_confirm(dev: Dev):
    result = run("pub", "lobby", "x", "--to", "nobody", "--confirm", "5", "--url", dev.url, folder=dev.folder)
    assert result.returncode == 1
    assert result.stderr.startswith("refused: no_such_subject: ")
    result = run("pub", "lobby", "x", "--confirm", "5", "--url", dev.url, folder=dev.folder)
    assert result.returncode == 2
    assert "--to one subject" in result.stderr


def test_a_room_that_nobody_serves_is_refused_in_words(dev: Dev):
    result = run("sub", "nobody:serves:this", "--url", dev.url, folder=dev.folder)
    assert result.returncode == 1
    assert result.stderr.splitlines() == ["refused: no_such_room: no plugin serves a room of that name [plugins]"]


def test_a_bad_token_is_refused_in_words(dev: Dev):
    result = run("sub", "lobby", "--url", dev.url, folder=dev.folder, RELAY_TOKEN="a.b.c")
    assert result.returncode == 1
    assert result.stderr.startswith("HTTP 401 token_")
    assert len(result.stderr.splitlines()) == 1


def test_no_development_token_is_sent_to_another_host(dev: Dev):
    result = run("pub", "lobby", "x", "--url", "wss://relay.invalid/ws", folder=dev.folder)
    assert result.returncode == 2
    assert "which token?" in result.stderr


def test_health_says_whether_a_relay_is_ready(dev: Dev):
    internal = dev.find(r"^metrics and health: (\S+)/metrics$")
    assert run("health", internal, folder=dev.folder).returncode == 0
    public = dev.find(r"^# The relay is at (\S+)$") + "/healthz"
    assert run("health", public, "--ca-file", "certs/ca.pem", folder=dev.folder).returncode == 0
    assert run("health", public, folder=dev.folder).returncode == 1
    assert run("health", f"{internal}/nothing", folder=dev.folder).returncode == 1


def test_the_other_users_of_the_machine_cannot_reach_dev(dev: Dev):
    assert "127.0.0.1" in dev.find(r"^metrics and health: (\S+)$")
    port = int(dev.find(r"^# The relay is at https://localhost:(\d+)$"))
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))  # free: the relay has 127.0.0.1 alone


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0(tmp_path: Path, number: int):
    dev = Dev(tmp_path)
    assert dev.stop(number) == 0, dev.log
    assert "Traceback" not in dev.log


def test_a_port_that_is_taken_is_a_problem_with_the_configuration(tmp_path: Path):
    make_dev_certificates(tmp_path / "certs")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("serve", "--set", f"server.listen={address}", "--set", "internal.listen=[]", folder=tmp_path)
    assert result.returncode == 78
    assert f"cannot listen on {address}: Address already in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bad_configuration_does_not_start(tmp_path: Path):
    (tmp_path / "config.toml").write_text("[limits]\nfragment = 1\n")
    result = run("serve", folder=tmp_path)
    assert result.returncode == 78
    assert "config.toml:2: limits.fragment" in result.stderr


def test_help_imports_nothing_heavy(tmp_path: Path):
    code = (
        "import sys\nsys.argv = ['relay', '--help']\nfrom relay.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'trio', 'msgspec', 'jwt', 'cryptography', 'httpx2', 'prometheus_client', 'h11', 'ssl'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert result.stdout.rstrip().endswith("HEAVY []")
