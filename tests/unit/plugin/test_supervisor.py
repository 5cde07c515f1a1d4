"""Nothing comes out of a plugin but Refused and cancellation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from relay.config.schema import Supervision
from relay.counters import Counters
from relay.errors import ConfigError, Refused
from relay.model import Message, Payload
from relay.plugin.api import Peer, Plugin, Room
from relay.plugin.crew import supervise
from relay.plugin.loader import LoadedPlugin
from relay.plugin.testing import PluginTester
from relay.plugin.watchdog import Watchdog
from relay.rooms.room import RoomRule
from tests.unit.plugin.kit import accept_any, fails, fails_later, hub, made, refuses


async def publish(plugin: type[Plugin], **options: Any) -> tuple[PluginTester, Refused]:
    async with PluginTester(plugin, **options) as tester:
        ann = await tester.join("a", "ann")
        with pytest.raises(Refused) as caught:
            await ann.publish("hi")
    return tester, caught.value


# What comes out of hooks.


async def test_a_refusal_goes_through_and_is_counted() -> None:
    tester, refused = await publish(made(on_message=lambda self, *args: refuses()), name="chess")
    assert (refused.code, refused.message) == ("not_your_turn", "white moves first")
    assert tester.counters.plugin_refusals == {"chess": 1}
    assert tester.failures == []


async def test_a_plugin_without_on_message_refuses_what_is_published() -> None:
    assert (await publish(made()))[1].code == "forbidden"


async def test_a_plugin_without_on_call_knows_no_method() -> None:
    async with PluginTester(made()) as tester:
        ann = await tester.join("a", "ann")
        with pytest.raises(Refused, match="no_such_method"):
            await ann.call("anything")


@pytest.mark.parametrize("hook", [fails, fails_later])
async def test_any_other_exception_is_the_plugins_failure(
    hook: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def later(self: Any, *args: Any) -> None:
        await fails_later()

    plugin = made(on_message=later if hook is fails_later else lambda self, *args: fails())
    tester, refused = await publish(plugin, name="chess")
    assert (refused.code, refused.message) == ("internal", "a bug on our side; it was logged")
    assert refused.__cause__ is None
    assert [type(problem) for problem in tester.failures] == [ZeroDivisionError]
    assert tester.counters.plugin_failures == {"chess": 1}
    (record,) = caplog.records
    assert record.getMessage() == "plugin chess: on_message in room a failed: ZeroDivisionError: oh"
    assert record.exc_info is not None
    assert record.__dict__["fields"] == {"plugin": "chess", "hook": "on_message", "room": "a"}


async def test_a_refusal_out_of_a_plugins_nursery_is_still_a_refusal() -> None:
    async def on_message(self: Any, room: Room, sender: Peer, message: Message) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.check)

    async def check(self: Any) -> None:
        raise Refused("rude")

    tester, refused = await publish(made(on_message=on_message, check=check))
    assert refused.code == "rude"
    assert tester.failures == []


async def test_a_group_of_exceptions_is_a_failure() -> None:
    async def on_message(self: Any, room: Room, sender: Peer, message: Message) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_later)
            raise Refused("rude")

    tester, refused = await publish(made(on_message=on_message))
    assert refused.code == "internal"
    assert isinstance(tester.failures[0], ExceptionGroup)


async def test_a_sync_hook_that_returns_a_coroutine_is_told_to_be_async() -> None:
    async def late() -> None: ...

    tester, refused = await publish(made(on_message=lambda self, *args: late()))
    assert refused.code == "internal"
    assert "returned a coroutine; write `async def`" in str(tester.failures[0])


async def test_what_else_a_hook_returns_does_not_matter() -> None:
    async with PluginTester(made(on_message=accept_any)) as tester:
        ann = await tester.join("a", "ann")
        await ann.publish("hi")
        assert ann.received == ["hi"]


async def test_a_refusal_raised_again_and_again_does_not_collect_tracebacks() -> None:
    always = Refused("closed")

    def on_message(self: Any, *args: Any) -> None:
        raise always

    async with PluginTester(made(on_message=on_message)) as tester:
        ann = await tester.join("a", "ann")
        lengths = []
        for _ in range(5):
            with pytest.raises(Refused) as caught:
                await ann.publish("hi")
            lengths.append(len(caught.traceback))
    assert len(set(lengths)) == 1


async def test_what_is_no_exception_of_the_plugins_passes() -> None:
    def on_message(self: Any, *args: Any) -> None:
        raise KeyboardInterrupt

    async with PluginTester(made(on_message=on_message)) as tester:
        ann = await tester.join("a", "ann")
        with pytest.raises(KeyboardInterrupt):
            await ann.publish("hi")


# Opening and freeing.


async def test_on_open_may_refuse_and_then_there_is_no_room() -> None:
    async with PluginTester(made(on_open=lambda self, room: refuses())) as tester:
        for _ in range(2):
            with pytest.raises(Refused, match="not_your_turn"):
                await tester.join("a", "ann")
        assert tester.hub.rooms == {}


async def test_on_empty_may_fail_and_the_room_is_gone_all_the_same() -> None:
    async with PluginTester(made(on_empty=lambda self, room: fails())) as tester:
        ann = await tester.join("a", "ann")
        await ann.leave()
        assert tester.hub.rooms == {}
        assert len(tester.failures) == 1


async def test_nobody_is_kept_from_leaving() -> None:
    async with PluginTester(made(on_leave=lambda self, room, peer: refuses())) as tester:
        ann = await tester.join("a", "ann")
        await ann.leave()
        assert tester.hub.rooms == {}


async def test_on_empty_comes_after_the_last_on_leave() -> None:
    told: list[str] = []
    plugin = made(
        on_open=lambda self, room: told.append("open"),
        on_join=lambda self, room, peer: told.append("join"),
        on_leave=lambda self, room, peer: told.append("leave"),
        on_empty=lambda self, room: told.append("empty"),
    )
    async with PluginTester(plugin) as tester:
        ann = await tester.join("a", "ann")
        await ann.disconnect()
    assert told == ["open", "join", "leave", "empty"]


async def test_a_new_name_is_told_for_open_and_for_remembered_rooms_and_a_failure_changes_nothing() -> None:
    told: list[tuple[str, str]] = []

    def on_renamed(self: Any, was: str, name: str) -> None:
        told.append((was, name))
        raise RuntimeError

    plugin = made(on_renamed=on_renamed, on_message=lambda self, room, sender, message: room.broadcast(message))
    async with PluginTester(plugin, history=10) as tester:
        ann = await tester.join("a", "ann")
        await ann.publish("hi")
        tester.rename("a", "b")
        assert "ann" in tester.room("b")
        await ann.disconnect()
        tester.rename("b", "c")
        assert (await tester.join("c", "bob", last=10)).received == ["hi"]
        assert told == [("a", "b"), ("b", "c")]
        assert len(tester.failures) == 2


async def test_a_hook_that_is_not_overridden_is_marked_so() -> None:
    async with PluginTester(made(on_message=accept_any)) as tester:
        plugin = tester.supervised
        assert (plugin.has_join, plugin.has_leave, plugin.has_message, plugin.has_call, plugin.has_run) == (
            False, False, True, False, False,
        )  # fmt: skip
        asynchronous = (plugin.join_is_async, plugin.leave_is_async, plugin.message_is_async, plugin.call_waits("x"))
        assert not any(asynchronous)


# Answers.


@pytest.mark.parametrize("answer", [None, 3, "text", b"bytes", {"a": [1]}])
async def test_an_answer_is_what_the_plugin_returned(answer: Any) -> None:
    async def later(self: Any, *args: Any) -> Any:
        return answer

    for plugin in (made(on_call=lambda self, *args: answer), made(on_call=later)):
        async with PluginTester(plugin) as tester:
            ann = await tester.join("a", "ann")
            assert await ann.call("get") == answer


async def test_an_answer_that_cannot_be_expressed_is_the_plugins_failure() -> None:
    async def later(self: Any, *args: Any) -> Any:
        return object()

    for plugin in (made(on_call=lambda self, *args: object()), made(on_call=later)):
        async with PluginTester(plugin) as tester:
            ann = await tester.join("a", "ann")
            with pytest.raises(Refused, match="internal"):
                await ann.call("get")
            assert isinstance(tester.failures[0], TypeError)


# Deadlines.


async def never(self: Any, *args: Any) -> None:
    await trio.sleep_forever()


async def test_an_async_hook_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    tester, refused = await publish(made(on_message=never), hook_timeout=7)
    assert (refused.code, refused.setting) == ("timeout", "timeouts.hook")
    assert trio.current_time() == 7
    assert tester.failures == []
    assert tester.counters.plugin_failures == {}


async def test_a_table_may_have_its_own_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with PluginTester(made(on_join=never), name="chess", hook_timeout=3) as tester:
        with pytest.raises(Refused) as caught:
            await tester.join("a", "ann")
        assert caught.value.setting == "timeouts.hook"
        assert len(tester.hub.rooms) == 0
    rule = RoomRule("chess", 2)
    loaded = LoadedPlugin("chess", made(), None, rule, (), 2.0, "")
    (own,) = supervise(
        [loaded], tester.hub, counters=Counters(), watchdog=Watchdog(Counters(), 0), supervision=Supervision(),
        hook_timeout=10,
    )  # fmt: skip
    assert (own.timeout, own.timeout_setting) == (2.0, "plugins.chess.hook_timeout")


async def test_a_caller_can_only_shorten_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with PluginTester(made(on_call=never), hook_timeout=5) as tester:
        ann = await tester.join("a", "ann")
        for asked, took in ((2.0, 2.0), (60.0, 5.0), (0.0, 0.0)):
            before = trio.current_time()
            with pytest.raises(Refused, match="timeout"):
                await ann.call("get", timeout=asked)
            assert trio.current_time() - before == took


async def test_cancelling_what_waits_for_a_hook_cancels_the_hook(autojump_clock: trio.testing.MockClock) -> None:
    async with PluginTester(made(on_message=never), hook_timeout=math.inf) as tester:
        ann = await tester.join("a", "ann")
        with trio.move_on_after(1) as scope:
            await ann.publish("hi")
        assert scope.cancelled_caught
        assert tester.failures == []


async def test_a_hook_that_fails_while_it_is_cancelled_is_told_and_stays_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def on_message(self: Any, *args: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError

    async def two(self: Any, *args: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_message, self)
            nursery.start_soon(trio.sleep_forever)

    async with PluginTester(made(on_message=two), hook_timeout=1) as tester:
        ann = await tester.join("a", "ann")
        with pytest.raises(Refused):
            await ann.publish("hi")
        assert len(tester.failures) == 1


# Too many failures.


async def test_one_traceback_in_ten_seconds_and_the_rest_is_counted(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async with PluginTester(made(on_message=lambda self, *args: fails()), name="chess") as tester:
        ann = await tester.join("a", "ann")
        for pause in (1, 1, 9):
            with pytest.raises(Refused):
                await ann.publish("hi")
            await tester.advance(pause)
        assert [bool(record.exc_info) for record in caplog.records] == [True]
        with pytest.raises(Refused):
            await ann.publish("hi")
    assert [bool(record.exc_info) for record in caplog.records] == [True, False, True]
    assert caplog.messages[1] == "plugin chess: on_message: 2 times more since this was last told"
    assert tester.counters.plugin_failures == {"chess": 4}


async def test_a_plugin_that_keeps_failing_is_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    def on_message(self: Any, room: Room, sender: Peer, message: Message) -> None:
        fails()

    async def on_call(self: Any, *args: Any) -> None: ...

    left: list[str] = []
    plugin = made(on_message=on_message, on_call=on_call, on_leave=lambda self, room, peer: left.append(peer.subject))
    async with PluginTester(plugin, name="chess", failures=3) as tester:
        ann = await tester.join("a", "ann")
        for _ in range(4):
            assert not tester.supervised.off
            with pytest.raises(Refused, match="internal"):
                await ann.publish("hi")
        for refused in (ann.publish("hi"), ann.call("get"), ann.join("b"), tester.join("a", "bob")):
            with pytest.raises(Refused) as caught:
                await refused
            assert (caught.value.code, caught.value.setting) == ("plugin_off", "supervision.failures")
        with pytest.raises(Refused, match="plugin_off"):
            await tester.supervised.later("on_call", tester.room("a"), ann, "get", None)
        await ann.leave()
        assert left == []
        assert tester.hub.rooms == {}
    assert tester.counters.plugin_failures == {"chess": 4}
    assert tester.counters.plugin_refusals == {}
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.CRITICAL]
    assert "more than 3 failures within 60 s" in caplog.messages[1]


async def test_failures_that_are_far_apart_switch_nothing_off(autojump_clock: trio.testing.MockClock) -> None:
    async with PluginTester(made(on_message=lambda self, *args: fails()), failures=2) as tester:
        ann = await tester.join("a", "ann")
        for _ in range(10):
            with pytest.raises(Refused, match="internal"):
                await ann.publish("hi")
            await tester.advance(31)
        assert not tester.supervised.off


async def test_no_number_of_failures_switches_off_where_that_is_zero() -> None:
    async with PluginTester(made(on_message=lambda self, *args: fails()), failures=0) as tester:
        ann = await tester.join("a", "ann")
        for _ in range(300):
            with pytest.raises(Refused, match="internal"):
                await ann.publish("hi")


# At the start, and for the hub.


def test_plugins_that_cannot_be_made_are_all_told_with_their_line() -> None:
    broken = made(__init__=lambda self, *args: fails())
    loaded = [LoadedPlugin(name, broken, None, RoomRule(name, 2), (), 0.0, f"config.toml:{name}") for name in "ab"]
    with pytest.raises(ConfigError) as caught:
        supervise(
            loaded, hub(), counters=Counters(), watchdog=Watchdog(Counters(), 0), supervision=Supervision(),
            hook_timeout=1,
        )  # fmt: skip
    assert list(map(str, caught.value.problems)) == [
        "config.toml:a: plugins.a: Made could not be made: ZeroDivisionError: oh",
        "config.toml:b: plugins.b: Made could not be made: ZeroDivisionError: oh",
    ]


async def test_the_hub_finds_a_plugins_handler_sync_and_without_checkpoints() -> None:
    async with PluginTester(made(on_message=accept_any)) as tester:
        ann = await tester.join("a", "ann")
        room = tester.room("a")
        with trio.testing.assert_no_checkpoints():
            tester.supervised.join(room, ann)
            tester.supervised.message(room, ann, Message("a", Payload.of("x"), "ann"))
            tester.supervised.leave(room, ann)
