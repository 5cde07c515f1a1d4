"""The ways to say no: complete, and each with the config key that caused it."""

from __future__ import annotations

import pytest

from relay.errors import (
    CLOSE_CODES,
    CLOSE_FOR_STATUS,
    ERROR_CODES,
    CloseCode,
    CloseReason,
    ConfigError,
    ConfigProblem,
    PluginError,
    Refused,
    Rejected,
    RelayError,
)


def test_every_close_code_has_its_meaning() -> None:
    assert set(CLOSE_CODES) == set(CloseCode)


@pytest.mark.parametrize("code", list(CloseCode))
def test_a_close_code_may_be_sent(code: CloseCode) -> None:
    """RFC 6455 section 7.4: not 1004 to 1006 nor 1015, and ours are private."""
    assert code in range(1000, 1015) or code in range(4000, 5000)
    assert code not in (1004, 1005, 1006, 1015)


@pytest.mark.parametrize("code", [code for code in CloseCode if code >= 4000])
def test_the_range_of_our_own_codes_says_whether_to_come_back(code: CloseCode) -> None:
    assert CLOSE_CODES[code][1] == (4200 <= code < 4300)
    assert code in range(4200, 4300) or code in range(4400, 4500)


@pytest.mark.parametrize(("status", "code"), CLOSE_FOR_STATUS.items())
def test_a_rejection_knows_the_close_code_of_its_status(status: int, code: CloseCode) -> None:
    assert Rejected(status, "c", "r").close_code == code


def test_a_rejection_may_name_its_own_close_code_and_has_a_default() -> None:
    assert Rejected(401, "c", "r", close_code=4403).close_code == 4403
    assert Rejected(400, "c", "r").close_code == CloseCode.POLICY


def test_a_refusal_without_words_takes_those_of_the_table() -> None:
    assert Refused("not_joined").message == ERROR_CODES["not_joined"]
    assert Refused("not_joined", "first join").message == "first join"
    assert Refused("anything_else").message == "anything_else"
    assert str(Refused("not_joined", "first join")) == "not_joined: first join"


def test_the_reason_of_a_close_carries_the_config_key() -> None:
    assert CloseReason(CloseCode.TOO_BIG, "too big", "limits.message_bytes").text() == "too big [limits.message_bytes]"
    assert CloseReason(CloseCode.NORMAL, "bye").text() == "bye"


@pytest.mark.parametrize("reason", ["é" * 200, "🚂" * 50, "x" * 200, "水" * 41 + "x"])
def test_the_reason_of_a_close_fits_its_frame(reason: str) -> None:
    text = CloseReason(CloseCode.POLICY, reason).text()
    assert 119 < len(text.encode()) <= 123
    assert reason.startswith(text)


def test_a_config_error_tells_all_that_is_wrong() -> None:
    problems = [ConfigProblem("a.toml:1", "x.y", "what", "hint"), ConfigProblem("--set", "z", "what else")]
    error = ConfigError(problems)
    assert error.problems == problems
    assert str(error) == "a.toml:1: x.y: what (hint)\n--set: z: what else"
    assert error.EXIT_STATUS == 78


def test_a_plugin_error_names_the_plugin() -> None:
    assert str(PluginError("chat", "no class", "did you mean Chat?")) == "plugin chat: no class (did you mean Chat?)"


@pytest.mark.parametrize("kind", [Rejected, Refused, ConfigError, PluginError])
def test_all_of_them_are_what_the_relay_raises_on_purpose(kind: type[Exception]) -> None:
    assert issubclass(kind, RelayError)
