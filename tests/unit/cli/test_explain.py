"""`relay explain`: what it prints of an API's answers, and what it says when there is none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from relay.cli.explain import HELD
from relay.cli.root import cli
from relay.session.wire import Hold

KEY = "key-of-the-test-api"
DECISION = {
    "at": 1_790_000_000.0, "last": 1_790_000_100.0, "count": 3, "kind": "closed", "code": "4208", "session": "s1",
    "subject": "ann", "address": "192.0.2.7", "room": "lobby", "setting": "channels.bulk.capacity",
    "detail": "channel bulk is full\x1b[31m",
}  # fmt: skip
PLUGINS = DECISION | {"kind": "refused", "code": "not_your_turn", "plugin": "game", "count": 1, "detail": "white first"}
SETTINGS = {"channels.bulk.capacity": {"value": 1048576, "where": "config.toml:12"}}
CONNECTION = {
    "session": "s1", "subject": "ann", "address": "192.0.2.7", "opened_at": 1_790_000_000.0, "rooms": ["lobby"],
    "outbox_bytes": 17, "not_read_because": ["rate"], "closing": None,
}  # fmt: skip


class Api(BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[tuple[str, Mapping[str, list[str]]]]] = []

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.asked.append((url.path, parse_qs(url.query)))
        status, answer = 200, self.answers.get(url.path.removeprefix("/api/v1"))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            status, answer = 401, {"error": "api_key_wrong", "reason": "no", "setting": "internal.api_keys"}
        elif answer is None:
            status, answer = 404, {"error": "no_such_session", "reason": "it has ended"}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    Api.asked.clear()
    Api.answers = {
        "/decisions": {
            "decisions": [DECISION, PLUGINS],
            "settings": SETTINGS,
            "count": 2,
            "truncated": False,
            "kept": 9,
        },
        "/connections": {"connections": [CONNECTION], "count": 1, "truncated": False},
        "/connections/s1": CONNECTION,
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(f"# the key\n{KEY}\n")
    return file


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["explain", *arguments], prog_name="relay")


def test_it_says_what_happened_which_setting_did_it_where_it_stands_and_what_to_do(url: str, key_file: Path) -> None:
    answer = run("subject", "ann", "--url", url, "--key-file", str(key_file))
    assert answer.exit_code == 0, answer.output
    for text in (
        "subject ann: 1 connection now",
        "NOT READ because of its rate",
        "2 recent decisions",
        "closed by the relay: 4208  (3 times since",
        "ann from 192.0.2.7 session s1 in lobby",
        "channels.bulk.capacity = 1048576  (config.toml:12)",
        "Raise its capacity",
        "relay explain code 4208",
        "request refused: not_your_turn",
        "plugin   game (settings in [plugins.game])",
    ):
        assert text in answer.output, answer.output
    assert "\x1b" not in answer.output
    assert (Api.asked[0][1]["subject"], Api.asked[0][1]["limit"]) == (["ann"], ["20"])


@pytest.mark.parametrize(("command", "parameter"), [("room", "room"), ("address", "address")])
def test_rooms_and_addresses_are_asked_for_as_they_are(url: str, key_file: Path, command: str, parameter: str) -> None:
    assert run(command, "a b&c", "--url", url, "--key-file", str(key_file), "-n", "5").exit_code == 0
    assert [query[parameter] for _, query in Api.asked] == [["a b&c"], ["a b&c"]]


def test_a_connection_that_has_ended_still_has_its_decisions(url: str, key_file: Path) -> None:
    answer = run("conn", "s/2", "--url", url, "--key-file", str(key_file))
    assert "session s/2: 0 connections now" in answer.output
    assert "4208" in answer.output
    assert Api.asked[1][0] == "/api/v1/connections/s%2F2"


def test_json_has_the_explanations_too(url: str, key_file: Path) -> None:
    found = json.loads(run("conn", "s1", "--url", url, "--key-file", str(key_file), "--json").output)
    assert [one["code"] for one in found["decisions"]] == ["4208", "not_your_turn"]
    assert found["connections"] == [CONNECTION]
    assert found["explanations"]["4208"]["code"] == "4208"


def test_a_wrong_key_is_told_with_its_setting_and_never_shown(url: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong"
    file.write_text("another-key-altogether\n")
    answer = run("room", "lobby", "--url", url, "--key-file", str(file))
    assert answer.exit_code == 1
    assert "api_key_wrong: no [internal.api_keys]" in answer.output
    assert "another-key" not in answer.output


def test_address_and_key_come_from_the_configuration(url: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    (tmp_path / "keys").write_text(KEY + "\n")
    listen = urlsplit(url).netloc
    config.write_text(f'[internal]\nlisten = ["{listen}"]\napi_keys_file = "keys"\n')
    assert run("room", "lobby", "-c", str(config)).exit_code == 0


def test_without_any_key_it_says_what_to_set(url: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    answer = run("room", "lobby", "-c", str(config), "--url", url)
    assert answer.exit_code == 1
    assert "set internal.api_keys_file" in answer.output


def test_where_nobody_answers_it_says_so(key_file: Path) -> None:
    answer = run("room", "lobby", "--url", "http://127.0.0.1:1", "--key-file", str(key_file))
    assert answer.exit_code == 1
    assert "no answer from http://127.0.0.1:1" in answer.output
    assert run("room", "lobby", "--url", "ftp://x", "--key-file", str(key_file)).exit_code == 2


def test_nothing_decided_is_an_answer(url: str, key_file: Path) -> None:
    Api.answers["/decisions"] = {"decisions": [], "settings": {}, "count": 0, "truncated": False, "kept": 10000}
    answer = run("subject", "bob", "--url", url, "--key-file", str(key_file))
    assert "no recent decision (of the last 10000 kept)" in answer.output


def test_a_code_is_explained_without_any_relay() -> None:
    answer = run("code", "TOO_SLOW")
    assert answer.exit_code == 0
    assert answer.output.startswith("4208")
    assert "docs/codes/4208.md" in answer.output
    assert json.loads(run("code", "rate_limited", "--json").output)["settings"]
    answer = run("code", "rate_limitd")
    assert (answer.exit_code, "did you mean rate_limited?" in answer.output) == (1, True)


def test_there_are_words_for_each_reason_not_to_read_a_connection() -> None:
    assert set(HELD) == {"rate"} | {str(reason.name).lower() for reason in Hold}
