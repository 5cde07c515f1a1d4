"""Bans, mutes, slow mode and words, in front of rooms of another plugin."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from plugins.chat import Chat
from plugins.moderation import Moderation, word_pattern
from relay.errors import ConfigError, Refused
from relay.plugin.api import Kind, Payload, WebRequest
from relay.plugin.testing import PluginTester


def moderated(**settings: Any) -> PluginTester:
    return PluginTester(Moderation, filters="*", owner=Chat, settings={"moderators": ["mod"], **settings})


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Unix time, in a list of one."""
    now = [1_800_000_000.0]
    monkeypatch.setattr("plugins.moderation.time.time", lambda: now[0])
    return now


async def test_who_is_muted_hears_and_says_nothing_until_it_is_over(wall: list[float]) -> None:
    async with moderated() as tester:
        mod, ann, bob = [await tester.join("a", name) for name in ("mod", "ann", "bob")]
        await mod.call("moderation.mute", {"subject": "bob", "seconds": 60, "reason": "cool down"})
        with pytest.raises(Refused) as caught:
            await bob.publish("but")
        assert (caught.value.code, caught.value.message, caught.value.retry_after) == ("muted", "cool down", 60)
        await ann.publish("hi")
        assert bob.received == ["hi"]
        await (await tester.join("b", "bob")).publish("another room")
        wall[0] += 61
        await bob.publish("sorry")
        assert ann.received == ["sorry"]


async def test_a_room_takes_its_bans_and_its_slow_mode_to_its_new_name() -> None:
    async with moderated() as tester:
        mod = await tester.join("a", "mod")
        await mod.call("moderation.ban", {"subject": "bob", "reason": "spam"})
        await mod.call("moderation.mute", {"subject": "ann", "reason": "loud"})
        await mod.call("moderation.slow", {"seconds": 60})
        tester.rename("a", "b")
        with pytest.raises(Refused, match="banned"):
            await tester.join("b", "bob")
        with pytest.raises(Refused, match="muted"):
            await (await tester.join("b", "ann")).publish("but")
        listed = await mod.call("moderation.list", room="b")
        assert ({one["subject"] for one in listed["sentences"]}, listed["slow"]) == ({"ann", "bob"}, 60)
        assert await (await tester.join("b", "mod")).call("moderation.unban", {"subject": "bob"}) is True
        await tester.join("b", "bob")


async def test_who_is_banned_is_put_out_and_stays_out() -> None:
    async with moderated() as tester:
        mod, bob, other = [await tester.join("a", name) for name in ("mod", "bob", "bob")]
        elsewhere = await tester.join("b", "bob")
        await mod.call("moderation.ban", {"subject": "bob", "reason": "spam"})
        assert bob.removed == other.removed == [("a", "spam")]
        assert elsewhere.removed == []
        with pytest.raises(Refused) as caught:
            await tester.join("a", "bob")
        assert (caught.value.code, caught.value.retry_after) == ("banned", None)
        with pytest.raises(Refused, match="banned"):
            await tester.connect("bob").publish("from outside", room="a")
        assert await mod.call("moderation.unban", {"subject": "bob"}) is True
        assert await mod.call("moderation.unban", {"subject": "bob"}) is False
        await tester.join("a", "bob")


async def test_a_moderator_of_all_rooms_bans_everywhere() -> None:
    async with moderated() as tester:
        mod = await tester.join("a", "mod")
        bob = await tester.join("b", "bob")
        await mod.call("moderation.ban", {"subject": "bob", "everywhere": True})
        assert [room for room, _ in bob.removed] == ["b"]
        with pytest.raises(Refused, match="banned"):
            await tester.join("c", "bob")


async def test_slow_mode_is_for_each_subject_and_not_for_moderators(autojump_clock: MockClock) -> None:
    async with moderated() as tester:
        mod, ann, again, bob = [await tester.join("a", name) for name in ("mod", "ann", "ann", "bob")]
        await mod.call("moderation.slow", {"seconds": 10})
        await ann.publish("1")
        await bob.publish("2")
        await trio.sleep(4)
        with pytest.raises(Refused) as caught:
            await again.publish("3")
        assert (caught.value.code, caught.value.retry_after) == ("slow_mode", 6)
        await mod.publish("4")
        await mod.publish("5")
        await trio.sleep(6)
        await ann.publish("6")
        await mod.call("moderation.slow", {"seconds": 0})
        await ann.publish("7")


async def test_slow_mode_of_the_settings_is_named(autojump_clock: MockClock) -> None:
    async with moderated(slow_seconds=5.0) as tester:
        ann = await tester.join("a", "ann")
        await ann.publish("1")
        with pytest.raises(Refused) as caught:
            await ann.publish("2")
        assert caught.value.setting == "plugins.moderation.slow_seconds"


async def test_nobody_else_moderates_and_moderators_are_left_alone() -> None:
    async with moderated() as tester:
        ann, mod = await tester.join("a", "ann"), await tester.join("a", "mod")
        for method, words in (
            ("ban", {"subject": "x"}),
            ("unmute", {"subject": "x"}),
            ("slow", {"seconds": 1}),
            ("list", {}),
        ):
            with pytest.raises(Refused, match="forbidden"):
                await ann.call(f"moderation.{method}", words)
        with pytest.raises(Refused, match="moderators are left alone"):
            await mod.call("moderation.ban", {"subject": "mod"})
        with pytest.raises(Refused, match="bad_request"):
            await mod.call("moderation.ban", {"subject": ""})


async def test_a_token_may_grant_to_moderate_one_room() -> None:
    async with moderated(token_grant=True) as tester:
        ann = await tester.join("a", "ann")
        ann.granted = {"moderation:a"}
        await ann.call("moderation.mute", {"subject": "bob"})
        with pytest.raises(Refused, match="forbidden"):
            await ann.call("moderation.mute", {"subject": "bob", "everywhere": True})
        await ann.join("b")
        with pytest.raises(Refused, match="forbidden"):
            await ann.call("moderation.mute", {"subject": "bob"}, room="b")
    async with moderated() as tester:
        ann = await tester.join("a", "ann")
        ann.granted = {"moderation:a"}
        with pytest.raises(Refused, match="forbidden"):
            await ann.call("moderation.list")


async def test_a_word_is_masked_wherever_it_stands_and_the_rest_stays() -> None:
    async with moderated(words=["darn", "Heck"], action="mask") as tester:
        ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
        await ann.publish("DARN it, heck! darned", channel="urgent", key="k")
        await ann.publish({"text": ["oh darn"], "n": 1, "darn": None})
        await ann.publish(Payload(Kind.JSON, b'"d\\u0061rn"'))
        await ann.publish("fine")
        assert bob.received == ["**** it, ****! darned", {"text": ["oh ****"], "n": 1, "****": None}, "****", "fine"]
        assert (bob.messages[0].channel, bob.messages[0].key, bob.messages[0].sender) == ("urgent", "k", "ann")


async def test_a_word_is_refused_and_the_setting_named(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("darn\n\n heck \n")
    async with moderated(words_file=str(tmp_path / "words")) as tester:
        ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
        for said in ("oh heck", {"a": "darn"}):
            with pytest.raises(Refused) as caught:
                await ann.publish(said)
            assert (caught.value.code, caught.value.setting) == ("language", "plugins.moderation.words")
        with pytest.raises(Refused, match="bad_request"):
            await ann.publish(Payload(Kind.JSON, b"{broken"))
        await ann.publish(b"darn")
        assert bob.received == [b"darn"]
        assert tester.failures == []


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_every_word_finds_itself_and_is_no_pattern(words: list[str]) -> None:
    pattern = word_pattern(words)
    for word in words:
        assert pattern.fullmatch(word.strip()) is not None
    assert word_pattern(["a.c"]).search("abc") is None


async def test_bans_outlive_a_restart_and_those_that_are_over_do_not(tmp_path: Path, wall: list[float]) -> None:
    file = tmp_path / "moderation.json"
    async with moderated(file=str(file)) as tester:
        mod = await tester.join("a", "mod")
        await mod.call("moderation.ban", {"subject": "bob"})
        await mod.call("moderation.mute", {"subject": "carl", "seconds": 10})
        await mod.call("moderation.slow", {"seconds": 3})
    wall[0] += 11
    assert os.listdir(tmp_path) == ["moderation.json"]
    async with moderated(file=str(file)) as tester:
        with pytest.raises(Refused, match="banned"):
            await tester.join("a", "bob")
        mod = await tester.join("a", "mod")
        listed = await mod.call("moderation.list")
        assert ([one["subject"] for one in listed["sentences"]], listed["slow"]) == (["bob"], 3)


async def test_each_change_is_written_while_the_relay_runs(tmp_path: Path) -> None:
    file = tmp_path / "moderation.json"
    async with moderated(file=str(file)) as tester:
        mod = await tester.join("a", "mod")
        await mod.call("moderation.ban", {"subject": "bob"})
        with trio.fail_after(10):
            while not file.exists():  # noqa: ASYNC110
                await trio.sleep(0.001)
        assert msgspec.json.decode(file.read_bytes())["sentences"][0]["subject"] == "bob"


async def test_there_are_so_many_sentences_and_old_ones_make_room(wall: list[float]) -> None:
    async with moderated(max_entries=2) as tester:
        mod = await tester.join("a", "mod")
        await mod.call("moderation.mute", {"subject": "x", "seconds": 5})
        await mod.call("moderation.ban", {"subject": "y"})
        with pytest.raises(Refused, match="too many bans and mutes"):
            await mod.call("moderation.ban", {"subject": "z"})
        await mod.call("moderation.ban", {"subject": "y", "reason": "still"})  # in the place of the other
        wall[0] += 6
        await mod.call("moderation.ban", {"subject": "z"})
        for room in "ab":
            await (await tester.join(room, "mod")).call("moderation.slow", {"seconds": 1})
        with pytest.raises(Refused, match="too many slow modes"):
            await (await tester.join("c", "mod")).call("moderation.slow", {"seconds": 1})
        await (await tester.join("b", "mod")).call("moderation.slow", {"seconds": 2})


async def test_what_could_not_be_written_is_written_when_it_can_be(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "not there yet"
    failed, written = threading.Event(), threading.Event()
    async with moderated(file=str(folder / "moderation.json")) as tester:
        writes = tester.plugin._write

        def write(number: int, data: bytes) -> None:
            try:
                writes(number, data)
            except OSError:
                failed.set()
                raise
            written.set()

        monkeypatch.setattr(tester.plugin, "_write", write)
        mod = await tester.join("a", "mod")
        await mod.call("moderation.ban", {"subject": "bob"})
        # It is written in a thread, which the clock that jumps does not wait for: so these waits are real.
        assert await trio.to_thread.run_sync(failed.wait, 10)
        folder.mkdir()
        assert await trio.to_thread.run_sync(written.wait, 10)
        assert tester.failures
    assert msgspec.json.decode((folder / "moderation.json").read_bytes())["sentences"][0]["subject"] == "bob"


async def test_the_page_is_for_moderators() -> None:
    async with moderated() as tester:
        mod = await tester.join("a", "mod")
        await mod.call("moderation.ban", {"subject": "bob"})
        await mod.call("moderation.ban", {"subject": "carl", "everywhere": True})

        def asked(subject: str, **query: str) -> list[str]:
            request = WebRequest("GET", "/list", query, {}, b"", subject)
            return [one.subject for one in tester.plugin.listed(request).sentences]

        assert asked("mod") == ["bob", "carl"]
        assert asked("mod", room="a") == ["bob"]
        with pytest.raises(Refused, match="forbidden"):
            asked("ann")


def test_a_broken_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(msgspec.DecodeError):
        moderated(file=str(tmp_path / "m.json"))
    with pytest.raises(ConfigError, match="empty"):
        moderated(words=[" "])
