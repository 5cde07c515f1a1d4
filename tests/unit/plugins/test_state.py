"""Values that a room shares: told to all, the newest of each key survives, and versions decide."""

from __future__ import annotations

from typing import Any
from unittest.mock import ANY

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from plugins.state import State, merged
from relay.errors import ConfigError, Refused
from relay.plugin.api import Kind, Payload
from relay.plugin.testing import Member, PluginTester


def changes(member: Member) -> list[tuple[str | None, str | None, Any]]:
    """(sender, key, value) of what was heard in `state`, "gone" for what was deleted."""
    told = [(one, one.data.value()) for one in member.messages if one.channel == "state"]
    assert [said["version"] for _, said in told] == sorted({said["version"] for _, said in told})
    return [(one.sender, one.key, "gone" if said.get("deleted") else said["value"]) for one, said in told]


def snapshot(member: Member) -> dict[str, Any]:
    """The values of the last snapshot."""
    said = [one.data.value() for one in member.messages if one.channel == "bulk"][-1]
    assert all(entry["version"] <= said["version"] for entry in said["state"].values())
    return {key: entry["value"] for key, entry in said["state"].items()}


async def test_a_value_is_heard_by_all_its_writer_too_and_a_newcomer_finds_it() -> None:
    async with PluginTester(State) as tester:
        ann, bob = await tester.join("s", "ann"), await tester.join("s", "bob")
        assert snapshot(ann) == {}
        await ann.publish({"set": {"x": 1}}, key="a")
        await bob.publish({"set": [1, None, "text"]}, key="b")
        assert changes(ann) == changes(bob) == [("ann", "a", {"x": 1}), ("bob", "b", [1, None, "text"])]
        assert snapshot(await tester.join("s", "carl")) == {"a": {"x": 1}, "b": [1, None, "text"]}


async def test_a_patch_changes_what_it_names_and_all_hear_the_whole_value() -> None:
    async with PluginTester(State) as tester:
        ann = await tester.join("s", "ann")
        await ann.publish({"set": {"x": 1, "deep": {"y": 2, "z": 3}}}, key="a")
        await ann.publish({"patch": {"x": None, "deep": {"y": 5}, "new": [None]}}, key="a")
        await ann.publish({"patch": {"only": 1}}, key="fresh")
        assert changes(ann)[1:] == [
            ("ann", "a", {"deep": {"y": 5, "z": 3}, "new": [None]}),
            ("ann", "fresh", {"only": 1}),
        ]


async def test_what_is_deleted_is_told_once_and_is_gone() -> None:
    async with PluginTester(State) as tester:
        ann = await tester.join("s", "ann")
        await ann.publish({"set": None}, key="a")
        await ann.publish({"delete": True}, key="a")
        await ann.publish({"delete": True}, key="a")
        assert changes(ann) == [("ann", "a", None), ("ann", "a", "gone")]
        assert await ann.call("get", {"key": "a"}) == {"value": None, "version": 0}
        assert snapshot(await tester.join("s", "bob")) == {}


async def test_methods_do_the_same_and_answer_with_the_version() -> None:
    async with PluginTester(State) as tester:
        ann = await tester.join("s", "ann")
        first = (await ann.call("set", {"key": "a", "value": {"x": 1}}))["version"]
        second = (await ann.call("patch", {"key": "a", "patch": {"y": 2}}))["version"]
        assert second > first
        assert await ann.call("get", {"key": "a"}) == {"value": {"x": 1, "y": 2}, "version": second}
        assert (await ann.call("delete", {"key": "a"}))["version"] > second
        assert await ann.call("delete", {"key": "a"}) == {"version": 0}
        assert (await ann.call("all"))["keys"] == 0


async def test_of_two_who_read_the_same_version_one_alone_writes() -> None:
    async with PluginTester(State) as tester:
        ann, bob = await tester.join("s", "ann"), await tester.join("s", "bob")
        version = (await ann.call("set", {"key": "n", "value": 1, "if_version": 0}))["version"]
        await bob.publish({"set": 2, "if_version": version}, key="n")
        for late in ({"set": 3}, {"patch": {"x": 1}}, {"delete": True}, {"set": 3, "if_version": 0}):
            with pytest.raises(Refused, match="version_conflict: the version of 'n' is"):
                await ann.publish({"if_version": version, **late}, key="n")
        assert changes(ann) == [("ann", "n", 1), ("bob", "n", 2)]


async def test_a_version_never_comes_again_in_a_later_life_of_the_room() -> None:
    async with PluginTester(State) as tester:
        ann = await tester.join("s", "ann")
        before = (await ann.call("set", {"key": "a", "value": 1}))["version"]
        await ann.disconnect()
        bob = await tester.join("s", "bob")
        assert snapshot(bob) == {}
        assert (await bob.call("set", {"key": "a", "value": 1}))["version"] > before


async def test_who_reads_slowly_gets_the_newest_of_each_key() -> None:
    async with PluginTester(State) as tester:
        ann, slow = await tester.join("s", "ann"), await tester.join("s", "slow")
        slow.stop_reading()
        for number in range(50):
            await ann.publish({"set": number}, key=f"k{number % 2}")
        slow.read_on()
        assert sorted(changes(slow)) == [("ann", "k0", 48), ("ann", "k1", 49)]
        assert slow.gaps == []


async def test_a_member_without_the_grant_to_publish_changes_nothing_by_calling() -> None:
    async with PluginTester(State) as tester:
        reader = await tester.join("s", "reader", may_publish=False)
        for method, words in (("set", {"value": 1}), ("patch", {"patch": {}}), ("delete", {})):
            with pytest.raises(Refused, match="forbidden"):
                await reader.call(method, {"key": "a", **words})
        assert (await reader.call("all"))["keys"] == 0


@pytest.mark.parametrize(
    ("subject", "good", "bad"),
    [
        ("ann", ["ann", "ann/", "ann/x", "ann/x/y"], ["bob", "ann:x", "annx", "", "an"]),
        ("a/b", ["a%2Fb", "a%2Fb/x"], ["a/b", "a/b/x", "a"]),
        ("a%2Fb", ["a%252Fb/x"], ["a%2Fb", "a%2Fb/x"]),
    ],
)
async def test_a_subject_writes_its_own_keys_only(subject: str, good: list[str], bad: list[str]) -> None:
    async with PluginTester(State, settings={"own_keys": True}) as tester:
        ann = await tester.join("s", subject)
        for key in good:
            await ann.publish({"set": 1}, key=key)
        for key in bad:
            with pytest.raises(Refused, match=r"forbidden|bad_request"):
                await ann.publish({"set": 1}, key=key)
        assert (await ann.call("all"))["keys"] == len(good)


async def test_own_keys_go_with_the_last_connection_of_their_owner() -> None:
    async with PluginTester(State, settings={"own_keys": True, "forget_owner": True}) as tester:
        here, there = await tester.join("s", "ann"), await tester.join("s", "ann")
        bob = await tester.join("s", "bob")
        await here.publish({"set": 1}, key="ann/cursor")
        await bob.publish({"set": 2}, key="bob")
        await here.leave()
        assert (await bob.call("all"))["keys"] == 2
        await there.disconnect()
        assert changes(bob)[-1] == (None, "ann/cursor", "gone")
        assert (await bob.call("all"))["keys"] == 1


async def test_a_room_is_bounded_in_keys_and_bytes_and_deleting_makes_room() -> None:
    async with PluginTester(State, name="board", settings={"max_keys": 2, "max_bytes": 100}) as tester:
        ann = await tester.join("s", "ann")
        await ann.publish({"set": 1}, key="a")
        await ann.publish({"set": 2}, key="b")
        with pytest.raises(Refused) as caught:
            await ann.publish({"set": 3}, key="c")
        assert (caught.value.code, caught.value.setting) == ("too_large", "plugins.board.max_keys")
        with pytest.raises(Refused) as caught:
            await ann.publish({"set": "x" * 100}, key="a")
        assert (caught.value.code, caught.value.setting) == ("too_large", "plugins.board.max_bytes")
        await ann.publish({"delete": True}, key="b")
        await ann.publish({"set": "x" * 90}, key="c")
        assert snapshot(await tester.join("s", "bob")) == {"a": 1, "c": "x" * 90}


async def test_what_does_not_fit_the_channel_changes_nothing() -> None:
    async with PluginTester(State) as tester:
        ann = await tester.join("s", "ann")
        with pytest.raises(Refused) as caught:
            await ann.publish({"set": "x" * 300_000}, key="a")
        assert (caught.value.code, caught.value.setting) == ("too_large", "channels.state.capacity")
        assert (await ann.call("all"))["keys"] == 0


async def test_an_empty_room_is_remembered_for_a_while(autojump_clock: MockClock) -> None:
    async with PluginTester(State, settings={"keep_seconds": 10.0}) as tester:
        ann = await tester.join("s", "ann")
        version = (await ann.call("set", {"key": "a", "value": 1}))["version"]
        await ann.disconnect()
        await trio.sleep(9)
        bob = await tester.join("s", "bob")
        assert await bob.call("get", {"key": "a"}) == {"value": 1, "version": version}
        await bob.disconnect()
        await trio.sleep(21)
        assert tester.plugin._kept == {}, "what is over is let go of, even if nobody comes"
        assert snapshot(await tester.join("s", "carl")) == {}


async def test_an_empty_room_that_is_renamed_takes_along_what_it_holds(autojump_clock: MockClock) -> None:
    async with PluginTester(State, settings={"keep_seconds": 1000.0}, history=10) as tester:
        for room in "ab":
            ann = await tester.join(room, "ann")
            await ann.publish({"set": room}, key="k")
            await ann.disconnect()
        tester.rename("a", "c")
        assert list(tester.plugin._kept) == ["c", "b"]
        assert await (await tester.join("c", "bob")).call("get", {"key": "k"}) == {"value": "a", "version": ANY}


async def test_empty_rooms_take_a_bounded_number_of_bytes_the_oldest_go_first(autojump_clock: MockClock) -> None:
    async with PluginTester(State, settings={"keep_seconds": 1000.0, "keep_bytes": 100}) as tester:
        for room in "abc":
            ann = await tester.join(room, "ann")
            await ann.publish({"set": "x" * 40}, key="k")
            await ann.disconnect()
        assert [list(snapshot(await tester.join(room, "bob"))) for room in "abc"] == [[], ["k"], ["k"]]


async def test_a_reload_keeps_what_empty_rooms_hold(autojump_clock: MockClock) -> None:
    async with PluginTester(State, settings={"keep_seconds": 100.0}) as tester:
        ann = await tester.join("s", "ann")
        await ann.publish({"set": 1}, key="a")
        await ann.disconnect()
        new = State("state", tester.plugin.settings, tester.plugin.relay)
        new.on_reload(tester.plugin)
        assert list(new._kept) == ["s"]


@pytest.mark.parametrize(
    "data",
    [
        "text", b"\0", [1], {}, {"set": 1, "patch": {}}, {"delete": False}, {"set": 1, "else": 2},
        {"set": 1, "if_version": -1}, {"set": 1, "if_version": "1"}, Payload(Kind.JSON, b"{broken"),
        Payload(Kind.MSGPACK, msgspec.msgpack.encode({"set": msgspec.msgpack.Ext(1, b"x")})),
        {"patch": {"a": 1}, "set": None},
    ],
)  # fmt: skip
async def test_anything_else_is_refused(data: Any) -> None:
    async with PluginTester(State) as tester:
        ann = await tester.join("s", "ann")
        with pytest.raises(Refused, match="bad_request"):
            await ann.publish(data, key="a")
        assert (await ann.call("all"))["keys"] == 0
        assert tester.failures == []


async def test_a_change_needs_a_key_and_a_patch_has_a_depth() -> None:
    async with PluginTester(State) as tester:
        ann = await tester.join("s", "ann")
        deep: Any = 1
        for _ in range(70):
            deep = {"a": deep}
        for data, key in (({"set": 1}, None), ({"set": 1}, "k" * 257), ({"patch": deep}, "a")):
            with pytest.raises(Refused, match="bad_request"):
                await ann.publish(data, key=key)
        assert tester.failures == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=10,
)


@given(JSON, JSON)
def test_a_patch_that_was_applied_changes_nothing_a_second_time(value: Any, patch: Any) -> None:
    once = merged(value, patch)
    assert merged(once, patch) == once


@pytest.mark.parametrize(
    ("value", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}), ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}), ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}), ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}), (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]), ({"a": "foo"}, None, None), ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}), ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)  # fmt: skip
def test_the_cases_of_rfc_7396_appendix_a(value: Any, patch: Any, result: Any) -> None:
    assert merged(value, patch) == result


def test_keys_that_go_with_their_owner_need_owners() -> None:
    with pytest.raises(ConfigError, match="forget_owner needs own_keys"):
        PluginTester(State, settings={"forget_owner": True})
