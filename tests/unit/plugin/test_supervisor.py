"""Nothing comes out of a plugin but Refused and cancellation."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from relay.config.schema import Supervision, default_channels
from relay.counters import Counters
from relay.delivery.channels import Channels
from relay.errors import ConfigError, Refused
from relay.model import Message, Payload
from relay.plugin.api import Peer, Plugin, Room
from relay.plugin.crew import run_all, supervise
from relay.plugin.loader import LoadedPlugin
from relay.plugin.testing import PluginTester
from relay.plugin.watchdog import Watchdog
from relay.rooms.hub import Hub
from relay.rooms.room import RoomRule


def made(**members: Any) -> type[Plugin]:
    return type("Made", (Plugin,), members)


def fails(*args: Any) -> None:
    raise ZeroDivisionError("oh")


def refuses(*args: Any) -> None:
    raise Refused("not_your_turn", "white moves first")


async def fails_later(*args: Any) -> None:
    raise ZeroDivisionError("oh")


def accept_any(self: Any, room: Room, sender: Peer, message: Message) -> int:
    return room.broadcast(message)


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


# The background task.


async def test_a_background_task_that_fails_is_started_again_with_longer_and_longer_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    started: list[float] = []

    async def run(self: Any) -> None:
        started.append(trio.current_time())
        await fails_later()

    async with PluginTester(made(run=run)) as tester:
        await trio.sleep(300)
    pauses = [later - before for before, later in itertools.pairwise(started)]
    for pause, whole in zip(pauses, (1, 2, 4, 8, 16, 32, 60, 60), strict=False):
        assert whole / 2 <= pause <= whole
    assert len(pauses) > 7
    assert len(tester.failures) == len(started)


async def test_pauses_are_short_again_after_a_long_good_time(autojump_clock: trio.testing.MockClock) -> None:
    started: list[float] = []

    async def run(self: Any) -> None:
        started.append(trio.current_time())
        await trio.sleep(100)
        fails()

    async with PluginTester(made(run=run)):
        await trio.sleep(1000)
    assert all(later - before <= 101 for before, later in itertools.pairwise(started))


async def test_a_background_task_that_returns_is_done(autojump_clock: trio.testing.MockClock) -> None:
    started: list[float] = []

    async def run(self: Any) -> None:
        started.append(trio.current_time())

    async with PluginTester(made(run=run)):
        await trio.sleep(100)
    assert len(started) == 1


async def test_groups_out_of_a_background_task_are_failures(autojump_clock: trio.testing.MockClock) -> None:
    async def run(self: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_later)
            nursery.start_soon(trio.sleep_forever)

    async with PluginTester(made(run=run)) as tester:
        await trio.sleep(0.1)
    assert len(tester.failures) == 1


async def test_cancellation_ends_a_background_task_that_fails_on_its_way_out() -> None:
    async def stubborn() -> None:
        try:
            await trio.sleep_forever()
        finally:
            fails()

    async def run(self: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stubborn)
            nursery.start_soon(trio.sleep_forever)

    with trio.fail_after(5):
        async with PluginTester(made(run=run)) as tester:
            await tester.settle()
    assert len(tester.failures) == 1


async def test_a_plugin_that_is_switched_off_loses_its_background_task() -> None:
    ended = trio.Event()

    async def run(self: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with PluginTester(made(run=run, on_message=lambda self, *args: fails()), failures=1) as tester:
        ann = await tester.join("a", "ann")
        for _ in range(2):
            with pytest.raises(Refused):
                await ann.publish("hi")
        with trio.fail_after(5):
            await ended.wait()


async def test_run_all_runs_those_that_have_a_task_and_one_failing_disturbs_no_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    beats: list[float] = []

    async def run(self: Any) -> None:
        while True:
            beats.append(trio.current_time())
            await trio.sleep(1)

    def loaded(name: str, plugin: type[Plugin]) -> LoadedPlugin:
        return LoadedPlugin(name, plugin, None, RoomRule(name, 2), (), 0.0, "")

    async def fail(self: Any) -> None:
        await fails_later()

    counters = Counters()
    plugins = supervise(
        [loaded("a", made(run=fail)), loaded("b", made(run=run)), loaded("c", made())], hub(),
        counters=counters, watchdog=Watchdog(counters, 0), supervision=Supervision(), hook_timeout=1,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        await nursery.start(run_all, plugins)
        await trio.sleep(10.5)
        nursery.cancel_scope.cancel()
    assert beats == list(range(11))
    assert counters.plugin_failures["a"] >= 3


def hub() -> Hub:
    return Hub(Channels(default_channels()), lambda room: None, clock=lambda: 0.0, new_epoch=lambda: "e")


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


# What a plugin may use of the relay.


async def test_publishing_into_a_room_nobody_is_in_opens_and_frees_it() -> None:
    told: list[str] = []
    plugin = made(
        on_open=lambda self, room: told.append(f"open {room.name}"),
        on_empty=lambda self, room: told.append(f"empty {room.name}"),
    )
    async with PluginTester(plugin, rooms="a:*") as tester:
        forwarded: list[Message] = []
        tester.hub.forward = forwarded.append
        tester.plugin.relay.publish("a:b", {"x": 1}, channel="urgent", key="k")
        assert told == ["open a:b", "empty a:b"]
        assert tester.hub.rooms == {}
        (message,) = forwarded
        assert (message.data.value(), message.sender, message.channel, message.key) == ({"x": 1}, None, "urgent", "k")


async def test_publishing_into_an_open_room_is_heard_by_its_members() -> None:
    async with PluginTester(made(), rooms="a:*") as tester:
        ann = await tester.join("a:b", "ann")
        tester.plugin.relay.publish("a:b", "hi")
        assert ann.received == ["hi"]
        assert len(tester.room("a:b")) == 1


async def test_a_plugin_cannot_publish_into_a_room_that_is_not_its_own() -> None:
    async with PluginTester(made(), rooms="a:*") as tester:
        with pytest.raises(Refused, match="no_such_room"):
            tester.plugin.relay.publish("b", "hi")


async def test_a_message_that_cannot_be_expressed_leaves_no_room_behind() -> None:
    async with PluginTester(made()) as tester:
        with pytest.raises(TypeError):
            tester.plugin.relay.publish("a", object())
        assert tester.hub.rooms == {}


async def test_a_plugin_sees_its_own_open_rooms() -> None:
    async with PluginTester(made(), rooms="a:*") as tester:
        relay = tester.plugin.relay
        assert (relay.room("a:b"), relay.rooms()) == (None, [])
        await tester.join("a:b", "ann")
        assert relay.room("a:b") is tester.room("a:b")
        assert relay.rooms() == [tester.room("a:b")]


async def test_a_plugin_does_not_see_rooms_of_others() -> None:
    async with PluginTester(made(), rooms="a:*", filters="none:*", owner=made()) as tester:
        await tester.join("a:b", "ann")
        relay = tester.plugin.relay
        assert (relay.room("a:b"), relay.rooms()) == (None, [])


async def test_blocking_work_goes_to_a_thread_and_comes_back() -> None:
    async with PluginTester(made()) as tester:
        assert await tester.plugin.relay.to_thread(sum, [1, 2]) == 3


async def test_the_hub_finds_a_plugins_handler_sync_and_without_checkpoints() -> None:
    async with PluginTester(made(on_message=accept_any)) as tester:
        ann = await tester.join("a", "ann")
        room = tester.room("a")
        with trio.testing.assert_no_checkpoints():
            tester.supervised.join(room, ann)
            tester.supervised.message(room, ann, Message("a", Payload.of("x"), "ann"))
            tester.supervised.leave(room, ann)
