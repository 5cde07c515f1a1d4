"""Offers, answers and candidates between members of a room, by session; nothing else passes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from plugins.signalling import Signalling
from relay.errors import ConfigError, Refused
from relay.plugin.testing import Member, PluginTester

SDP = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n"
CANDIDATE = {"candidate": "candidate:1 1 udp 1 192.0.2.1 9 typ host", "sdpMid": "0", "sdpMLineIndex": 0}


def heard(member: Member, kind: str) -> list[Any]:
    return [said for said in member.received if said["type"] == kind]


async def test_who_comes_learns_who_is_there_and_is_the_polite_one() -> None:
    async with PluginTester(Signalling) as tester:
        ann = await tester.join("r", "ann")
        bob = await tester.join("r", "bob")
        (welcome,) = heard(bob, "welcome")
        assert welcome["session"] == bob.session
        assert welcome["peers"] == [{"session": ann.session, "subject": "ann", "polite": True}]
        assert heard(ann, "welcome")[0]["peers"] == []
        assert heard(ann, "joined") == [{"type": "joined", "session": bob.session, "subject": "bob", "polite": False}]
        await bob.leave()
        assert heard(ann, "left") == [{"type": "left", "session": bob.session}]
        assert await ann.call("peers") == [{"session": ann.session, "subject": "ann"}]


async def test_a_signal_reaches_the_one_session_it_is_for_in_order() -> None:
    async with PluginTester(Signalling) as tester:
        ann, bob, other = [await tester.join("r", name) for name in ("ann", "bob", "bob")]
        await ann.publish({"to": bob.session, "type": "offer", "sdp": SDP})
        await ann.publish({"to": bob.session, "type": "candidate", "candidate": CANDIDATE})
        await ann.publish({"to": bob.session, "type": "candidate", "candidate": None})
        await bob.publish({"to": ann.session, "type": "answer", "sdp": SDP})
        await bob.publish({"to": ann.session, "type": "bye"})
        of_ann = {"from": ann.session, "subject": "ann"}
        assert bob.received[-3:] == [
            {"type": "offer", **of_ann, "sdp": SDP},
            {"type": "candidate", **of_ann, "candidate": CANDIDATE},
            {"type": "candidate", **of_ann, "candidate": None},
        ]
        assert [said["type"] for said in ann.received[-2:]] == ["answer", "bye"]
        assert [said["type"] for said in other.received] == ["welcome"]


async def test_a_subject_rings_on_all_its_connections_but_the_caller_s_own() -> None:
    async with PluginTester(Signalling) as tester:
        ann, one, two = [await tester.join("r", name) for name in ("ann", "bob", "bob")]
        await ann.publish({"to": "bob", "type": "offer", "sdp": SDP})
        await one.publish({"to": "bob", "type": "bye"})
        assert (len(heard(one, "offer")), len(heard(two, "offer"))) == (1, 1)
        assert (len(heard(one, "bye")), len(heard(two, "bye"))) == (0, 1)


async def test_a_subject_that_is_called_like_a_session_gets_nothing_of_it() -> None:
    async with PluginTester(Signalling) as tester:
        ann, bob = await tester.join("r", "ann"), await tester.join("r", "bob")
        thief = await tester.join("r", bob.session)
        await ann.publish({"to": bob.session, "type": "offer", "sdp": SDP})
        assert (len(heard(bob, "offer")), len(heard(thief, "offer"))) == (1, 0)


@pytest.mark.parametrize("to", ["nobody", "ann", ""])
async def test_nobody_else_is_reached(to: str) -> None:
    async with PluginTester(Signalling) as tester:
        ann = await tester.join("r", "ann")
        away = await tester.join("elsewhere", "carl")
        for target in (to, away.session):
            with pytest.raises(Refused, match=r"no_such_subject|bad_request"):
                await ann.publish({"to": target, "type": "bye"})
        with pytest.raises(Refused, match="not_joined"):
            await tester.connect("eve").publish({"to": ann.session, "type": "bye"}, room="r")
        assert [said["type"] for said in ann.received] == ["welcome"]


@pytest.mark.parametrize(
    "words",
    [
        {"type": "offer"}, {"type": "offer", "sdp": "hello"}, {"type": "offer", "sdp": SDP + "\0"}, {"type": "shout"},
        {"type": "bye", "sdp": SDP}, {"type": "answer", "sdp": SDP, "candidate": CANDIDATE}, {"type": "bye", "x": 1},
        {"type": "candidate", "candidate": {"candidate": "javascript:1"}},
        {"type": "candidate", "candidate": {**CANDIDATE, "sdpMLineIndex": -1}},
        {"type": "candidate", "candidate": {**CANDIDATE, "candidate": "candidate:" + "x" * 3000}},
        {"type": "candidate", "candidate": {**CANDIDATE, "more": 1}},
    ],
)  # fmt: skip
async def test_what_is_no_signal_is_refused(words: dict[str, Any]) -> None:
    async with PluginTester(Signalling) as tester:
        ann, bob = await tester.join("r", "ann"), await tester.join("r", "bob")
        for data in ({"to": bob.session, **words}, "text", [words]):
            with pytest.raises(Refused, match="bad_request"):
                await ann.publish(data)
        assert [said["type"] for said in bob.received] == ["welcome"]
        assert tester.failures == []


async def test_sizes_counts_and_rates_have_bounds(autojump_clock: MockClock) -> None:
    settings = {"max_peers": 2, "rate": 2.0, "max_sdp_bytes": 1024}
    async with PluginTester(Signalling, name="calls", settings=settings) as tester:
        ann, bob = await tester.join("r", "ann"), await tester.join("r", "bob")
        with pytest.raises(Refused) as caught:
            await tester.join("r", "carl")
        assert (caught.value.code, caught.value.setting) == ("room_full", "plugins.calls.max_peers")
        with pytest.raises(Refused) as caught:
            await ann.publish({"to": bob.session, "type": "offer", "sdp": SDP + "x" * 1024})
        assert (caught.value.code, caught.value.setting) == ("too_large", "plugins.calls.max_sdp_bytes")
        for _ in range(9):
            await ann.publish({"to": bob.session, "type": "bye"})
        with pytest.raises(Refused) as caught:
            await ann.publish({"to": bob.session, "type": "bye"})
        assert (caught.value.code, caught.value.setting) == ("rate_limited", "plugins.calls.rate")
        assert caught.value.retry_after == 0.5
        await tester.advance(0.6)
        await ann.publish({"to": bob.session, "type": "bye"})
        await bob.publish({"to": ann.session, "type": "bye"})


async def test_whoever_joins_gets_credentials_for_turn_that_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("north\n")
    servers = [{"urls": ["stun:stun.example.org:3478"]}, {"urls": ["turn:turn.example.org?transport=tcp"]}]
    settings = {"ice_servers": servers, "turn_secret_file": str(tmp_path / "secret"), "turn_seconds": 600}
    async with PluginTester(Signalling, settings=settings) as tester:
        ann = await tester.join("r", "ann")
        welcome = ann.received[0]
        plain, turn = welcome["ice_servers"]
        assert plain == servers[0]
        assert turn["username"] == f"{welcome['expires']}:ann"
        assert 590 < welcome["expires"] - time.time() <= 600
        wanted = hmac.new(b"north", turn["username"].encode(), hashlib.sha1).digest()
        assert base64.b64decode(turn["credential"]) == wanted
        assert (await ann.call("ice"))["ice_servers"][1]["urls"] == servers[1]["urls"]


async def test_without_a_secret_the_servers_are_told_as_they_stand() -> None:
    servers = [{"urls": ["turns:turn.example.org:5349"], "username": "u", "credential": "c"}]
    async with PluginTester(Signalling, settings={"ice_servers": servers}) as tester:
        ann = await tester.join("r", "ann")
        assert (ann.received[0]["ice_servers"], ann.received[0]["expires"]) == (servers, None)


@pytest.mark.parametrize(
    "settings",
    [
        {"ice_servers": [{"urls": ["https://stun.example.org"]}]}, {"ice_servers": [{"url": "stun:a"}]},
        {"turn_secret": "a", "turn_secret_file": "b"}, {"max_peers": 1}, {"rate": 0},
    ],
)  # fmt: skip
def test_wrong_settings_are_told_at_start(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="signalling"):
        PluginTester(Signalling, settings=settings)
