"""`relay revoke`: what it asks of the API, what it prints of the answer, and what it refuses to ask."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.unit.cli.conftest import Run

KEY = "key-of-the-test-api"


class Api(BaseHTTPRequestHandler):
    asked: ClassVar[list[tuple[str, Any]]] = []
    answer: ClassVar[tuple[int, Any]] = (200, {})

    def _serve(self) -> None:
        url = urlsplit(self.path)
        assert url.path == "/api/v1/revocations"
        assert self.headers["Authorization"] == f"Bearer {KEY}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.command, json.loads(body) if body else dict(parse_qsl(url.query, True))))
        status, answer = self.answer
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def revoke(bare: Path, run: Run) -> Iterator[Run]:
    (bare / "key").write_text(f"{KEY}\n")
    Api.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        where = ["--url", f"http://127.0.0.1:{server.server_port}", "--key-file", "key"]

        def ask(*arguments: str) -> Any:
            return run("revoke", *arguments, *where)

        yield ask
        server.shutdown()
        thread.join()


def test_a_revocation_is_asked_for_and_told(revoke: Run):
    Api.answer = 200, {
        "revoked": {"subject": "ann", "tenant": "", "issued_before": 1.79e9, "until": 1.7900036e9},
        "closed": 1, "kept": True,
    }  # fmt: skip
    result = revoke("--subject", "ann", "--tenant", "", "--issued-before", "1790000000", "--for", "1h")
    assert result.exit_code == 0
    assert Api.asked == [("POST", {"subject": "ann", "tenant": "", "issued_before": 1.79e9, "for": 3600})]
    assert result.stdout == (
        "revoked: subject ann, tenant without a name, issued before 2026-09-21T14:13:20Z, "
        "until 2026-09-21T15:13:20Z; 1 session closed\n"
    )
    assert result.stderr == ""


def test_what_a_restart_would_forget_is_warned_of(revoke: Run):
    problem = "there is no file to keep it in [auth.revocation_file]"
    Api.answer = 200, {"revoked": {"jti": "x\x1b1"}, "closed": 0, "kept": False, "problem": problem}
    result = revoke("--jti", "x1")
    assert result.exit_code == 0
    assert result.stderr == f"warning: a restart of the relay will forget it: {problem}\n"
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("text", ["now", "2026-09-21T14:13:20Z", "2026-09-21T15:13:20+01:00", "1790000000.0"])
def test_a_time_is_as_people_write_it(revoke: Run, text: str):
    Api.answer = 200, {"revoked": {"issued_before": 1.79e9}, "closed": 0, "kept": True}
    assert revoke("--issued-before", text).exit_code == 0
    [(_, body)] = Api.asked
    assert body["issued_before"] == (pytest.approx(time.time(), abs=60) if text == "now" else 1.79e9)


def test_the_list_may_be_narrowed(revoke: Run):
    entries = [{"jti": "1", "until": 1.79e9}, {"issuer": "i", "issued_before": 1e300}]
    Api.answer = 200, {"revocations": entries, "count": 5, "truncated": True, "most": 9}
    result = revoke("--list", "--subject", "ann")
    assert Api.asked == [("GET", {"subject": "ann", "limit": "1000"})]
    assert result.stdout == (
        "jti 1, until 2026-09-21T14:13:20Z\nissuer i, issued before 1e+300, for good\n2 of 5 revocations\n"
    )


def test_taking_back_names_the_same_conditions(revoke: Run):
    Api.answer = 200, {"undone": {"subject": "a b", "issued_before": 5.0}, "kept": True}
    result = revoke("--undo", "--subject", "a b", "--issued-before", "5")
    assert Api.asked == [("DELETE", {"subject": "a b", "issued_before": "5.0"})]
    assert result.stdout == "taken back: subject a b, issued before 1970-01-01T00:00:05Z, for good\n"


def test_the_relays_refusal_is_told_and_the_status_is_1(revoke: Run):
    Api.answer = 507, {"error": "too_many_revocations", "reason": "enough", "setting": "auth.max_revocations"}
    result = revoke("--jti", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "too_many_revocations: enough [auth.max_revocations]\n"


def test_the_answer_can_be_had_as_it_is(revoke: Run):
    Api.answer = 200, {"revoked": {"jti": "ü"}, "closed": 0, "kept": True}
    assert json.loads(revoke("--jti", "ü", "--json").stdout) == Api.answer[1]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--for", "1h"],
        ["--undo"],
        ["--jti", "1", "--for", "soon"],
        ["--issued-before", "yesterday"],
        ["--undo", "--jti", "1", "--for", "1h"],
        ["--list", "--undo"],
        ["--list", "--for", "1h"],
        ["--list", "--issued-before", "now"],
    ],
)
def test_what_makes_no_sense_is_not_asked(revoke: Run, arguments: list[str]):
    assert revoke(*arguments).exit_code == 2
    assert Api.asked == []


@pytest.mark.parametrize("moment", [1.79e9, 1790000000.25, 1e300])
def test_a_time_that_is_shown_can_be_written_again(revoke: Run, moment: float):
    Api.answer = 200, {"revoked": {"issued_before": moment}, "closed": 0, "kept": True}
    said = revoke("--issued-before", "now").stdout
    shown = said.removeprefix("revoked: issued before ").split(",")[0]
    Api.answer = 200, {"undone": {"issued_before": moment}, "kept": True}
    assert revoke("--undo", "--issued-before", shown).exit_code == 0
    asked = [body["issued_before"] for _, body in Api.asked]
    assert asked[0] == int(asked[0])
    assert float(asked[1]) == moment
