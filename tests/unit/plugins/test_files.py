"""Files are announced, handed around, kept within bounds, and fetched."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.files import Files
from relay.errors import ConfigError, Refused
from relay.plugin.api import Kind, Message, Payload
from relay.plugin.testing import Member, PluginTester


def heard(member: Member) -> list[tuple[str | None, str | None, Any]]:
    """(channel, key, data) of all that was heard."""
    return [(one.channel, one.key, one.data.value()) for one in member.messages]


async def test_a_file_is_announced_and_then_comes_in_bulk_under_its_name() -> None:
    async with PluginTester(Files) as tester:
        ann, bob = await tester.join("files:a", "ann"), await tester.join("files:a", "bob")
        await ann.publish(b"\x00\xff" * 1000, key="cat.jpg")
        assert heard(bob) == [
            (None, None, {"file": "cat.jpg", "size": 2000, "from": "ann"}),
            ("bulk", "cat.jpg", b"\x00\xff" * 1000),
        ]
        assert {message.sender for message in bob.messages} == {"ann"}
        assert heard(ann) == []


async def test_a_small_file_of_a_msgpack_client_is_the_same_as_a_large_one_in_parts() -> None:
    async with PluginTester(Files) as tester:
        ann, bob = await tester.join("files:a", "ann"), await tester.join("files:a", "bob")
        await ann.publish(Payload(Kind.MSGPACK, msgspec.msgpack.encode(b"small")), key="a")
        assert heard(bob)[-1] == ("bulk", "a", b"small")
        assert bob.messages[-1].data.kind is Kind.BINARY


async def test_an_echo_is_heard_if_asked_for() -> None:
    async with PluginTester(Files) as tester:
        ann = await tester.join("files:a", "ann")
        await ann.publish(b"x", key="a", echo=True)
        assert [channel for channel, _, _ in heard(ann)] == [None, "bulk"]


async def test_a_file_for_one_is_heard_by_that_one_and_not_kept() -> None:
    async with PluginTester(Files) as tester:
        ann, bob, cat = [await tester.join("files:a", subject) for subject in ("ann", "bob", "cat")]
        await ann.publish(b"secret", key="a", to="bob")
        assert [data for _, _, data in heard(bob)] == [{"file": "a", "size": 6, "from": "ann"}, b"secret"]
        assert heard(cat) == []
        assert await cat.call("list") == []


async def test_who_comes_later_finds_the_newest_files_and_fetches_them() -> None:
    async with PluginTester(Files, settings={"keep": 2}) as tester:
        ann = await tester.join("files:a", "ann")
        for number in range(3):
            await ann.publish(bytes(number + 1), key=f"file{number}")
        late = await tester.join("files:a", "late")
        assert await late.call("list") == [
            {"file": "file1", "size": 2, "from": "ann"},
            {"file": "file2", "size": 3, "from": "ann"},
        ]
        assert await late.call("get", "file2") == {"file": "file2", "size": 3, "from": "ann"}
        assert heard(late) == [("bulk", "file2", bytes(3))]
        assert heard(ann) == []
        for name in ("file0", None, 7, ["file2"]):
            with pytest.raises(Refused, match="no_such_file"):
                await late.call("get", name)


async def test_a_new_file_of_a_name_takes_the_place_of_the_old_one() -> None:
    async with PluginTester(Files, settings={"keep": 2}) as tester:
        ann = await tester.join("files:a", "ann")
        for name, data in (("a", b"old"), ("b", b"b"), ("a", b"newer")):
            await ann.publish(data, key=name)
        assert [(one["file"], one["size"]) for one in await ann.call("list")] == [("b", 1), ("a", 5)]


async def test_rooms_share_what_may_be_kept_and_the_oldest_of_all_goes_first() -> None:
    async with PluginTester(Files, settings={"keep_bytes": 100}) as tester:
        ann, bob = await tester.join("files:a", "ann"), await tester.join("files:b", "bob")
        await ann.publish(bytes(60), key="first")
        await bob.publish(bytes(30), key="second")
        await ann.publish(bytes(40), key="third")
        assert [one["file"] for one in await ann.call("list")] == ["third"]
        assert [one["file"] for one in await bob.call("list")] == ["second"]
        await bob.publish(bytes(101), key="larger than all")
        assert await ann.call("list") == await bob.call("list") == []


async def test_an_empty_room_keeps_nothing() -> None:
    async with PluginTester(Files, settings={"keep_bytes": 100}) as tester:
        ann, bob = await tester.join("files:a", "ann"), await tester.join("files:b", "bob")
        await ann.publish(bytes(90), key="a")
        await ann.leave()
        await bob.publish(bytes(90), key="b")
        await ann.join("files:a")
        assert await ann.call("list") == []
        assert [one["file"] for one in await bob.call("list")] == ["b"]


async def test_with_keep_0_nothing_is_kept() -> None:
    async with PluginTester(Files, settings={"keep": 0}) as tester:
        ann, bob = await tester.join("files:a", "ann"), await tester.join("files:a", "bob")
        await ann.publish(b"x", key="a")
        assert len(bob.received) == 2
        assert await bob.call("list") == []


@pytest.mark.parametrize("data", ["text", {"a": 1}, Payload(Kind.JSON, b'"base64"')])
async def test_a_file_is_binary(data: Any) -> None:
    async with PluginTester(Files) as tester:
        ann = await tester.join("files:a", "ann")
        with pytest.raises(Refused, match="bad_request: a file is a binary message"):
            await ann.publish(data, key="a")


@pytest.mark.parametrize("name", [None, "", ".", "..", "a/b", "..\\b", "a\nb", "a\0", "a" * 201])
async def test_a_file_has_a_name_that_is_no_path(name: str | None) -> None:
    async with PluginTester(Files) as tester:
        ann, bob = await tester.join("files:a", "ann"), await tester.join("files:a", "bob")
        with pytest.raises(Refused, match="bad_request: the key is the file's name"):
            await ann.publish(b"x", key=name)
        assert bob.received == []


@pytest.mark.parametrize("name", ["a", ".profile", "...", "Ünter lagen (2).tar.gz", "a" * 200])
async def test_any_other_name_will_do(name: str) -> None:
    async with PluginTester(Files) as tester:
        ann = await tester.join("files:a", "ann")
        await ann.publish(b"", key=name)
        assert await ann.call("list") == [{"file": name, "size": 0, "from": "ann"}]


async def test_a_file_is_bounded() -> None:
    async with PluginTester(Files, name="drop", settings={"max_bytes": 100}) as tester:
        ann = await tester.join("files:a", "ann")
        await ann.publish(bytes(100), key="fits")
        with pytest.raises(Refused) as caught:
            await ann.publish(bytes(101), key="large")
        assert (caught.value.code, caught.value.setting) == ("too_large", "plugins.drop.max_bytes")


async def test_only_members_hand_files_around() -> None:
    async with PluginTester(Files) as tester:
        await tester.join("files:a", "ann")
        with pytest.raises(Refused, match="not_joined"):
            await tester.connect("eve").publish(b"x", room="files:a", key="a")


async def test_another_method_is_refused() -> None:
    async with PluginTester(Files) as tester:
        ann = await tester.join("files:a", "ann")
        with pytest.raises(Refused, match="no_such_method"):
            await ann.call("delete", "a")


def test_settings_have_bounds() -> None:
    with pytest.raises(ConfigError, match=r"plugins\.files\.max_bytes"):
        PluginTester(Files, settings={"max_bytes": 0})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("wxyz"), st.integers(0, 60)), max_size=30))
def test_what_is_kept_is_bounded_whatever_comes(published: list[tuple[str, str, int]]) -> None:
    async def go() -> None:
        async with PluginTester(Files, settings={"keep": 3, "keep_bytes": 100}) as tester:
            members = {name: await tester.join(f"files:{name}", "ann") for name in "ab"}
            expected: list[tuple[str, str, int]] = []
            for room, name, size in published:
                await members[room].publish(bytes(size), key=name)
                expected = [one for one in expected if one[:2] != (room, name)] + [(room, name, size)]
                mine = [one for one in expected if one[0] == room]
                if len(mine) > 3:
                    expected.remove(mine[0])
                while sum(size for _, _, size in expected) > 100:
                    expected.pop(0)
                for one, member in members.items():
                    listed = [(one, file["file"], file["size"]) for file in await member.call("list")]
                    assert listed == [file for file in expected if file[0] == one]

    trio.run(go)


async def test_a_reload_goes_on_counting_what_is_kept() -> None:
    async with PluginTester(Files, settings={"keep": 2}) as tester:
        ann = await tester.join("files:a", "ann")
        await ann.publish(bytes(10), key="old")
        new = Files("files", tester.plugin.settings, tester.plugin.relay)
        new.on_reload(tester.plugin)
        room = tester.room("files:a")
        for name in ("old", "b", "c"):
            message = Message("files:a", Payload(Kind.BINARY, bytes(5)), "ann", None, name)
            new.on_message(room, ann, message)
        assert [file["file"] for file in new.on_call(room, ann, "list", None)] == ["b", "c"]
        assert new._bytes == 10
        new.on_empty(room)
        assert (new._kept, new._bytes) == ({}, 0)
