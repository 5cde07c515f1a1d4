"""Plugins that raise, hang or answer nonsense: a bug costs the request that met it, and nothing else.

Also plugins and settings that are not there: the relay does not start, and says everything that is wrong at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.errors import ConfigError
from tests.components import ROOT
from tests.e2e.harness import Overrides
from tests.security.attack import TEXT, V1_JSON, Socket, frame, open_socket, socket_to, tls
from tests.security.siege import RelayThread, besieged, folder_with, under_attack

pytestmark = pytest.mark.e2e

FAULTY = '''
import time
from relay.plugin.api import Plugin, Refused

class Faulty(Plugin):
    """The last part of a room's name says what goes wrong in it."""

    def fail(self, room, hook):
        if room.name.endswith(":" + hook):
            raise ZeroDivisionError(hook)

    def on_open(self, room): self.fail(room, "open")
    def on_empty(self, room): self.fail(room, "empty")
    def on_join(self, room, peer): self.fail(room, "join")
    def on_leave(self, room, peer): self.fail(room, "leave")

    def on_message(self, room, sender, message):
        what = message.data.text().strip('"')
        if what == "raise": raise ZeroDivisionError("message")
        if what == "group": raise ExceptionGroup("several", [ValueError("a"), ExceptionGroup("more", [KeyError("b")])])
        if what == "recurse": return self.on_message(room, sender, message)
        if what == "hold": time.sleep(0.3)
        if what == "unsendable": sender.send(room, object())
        if what == "nowhere": sender.send(room, "x", channel="nowhere")
        if what == "odd refusal": raise Refused({"no": "word"}, ["no", "text"])
        if what == "unsendable refusal": raise Refused(object(), object())
        sender.send(room, message.data)

    def on_call(self, room, caller, method, data):
        if method == "raise": raise ZeroDivisionError("call")
        return {"object": object(), "cycle": self.cycle(), "nan": float("nan")}[method]

    def cycle(self):
        ring = []
        ring.append(ring)
        return ring
'''
SLOW = '''
import trio
from relay.plugin.api import Plugin

class Slow(Plugin):
    """Hooks that never end, in rooms named after them."""

    async def never(self, room, hook):
        if room.name.endswith(":" + hook):
            await trio.sleep_forever()

    async def on_join(self, room, peer): await self.never(room, "join")
    async def on_leave(self, room, peer): await self.never(room, "leave")
    async def on_message(self, room, sender, message):
        await self.never(room, "message")
        sender.send(room, message.data)
    async def on_call(self, room, caller, method, data): await self.never(room, "call")
'''
PLUGINS = {
    "chat": {"rooms": "chat:*"},
    "faulty": {"rooms": "faulty:*"},
    "slow": {"rooms": "slow:*", "hook_timeout": 0.3},
}


@pytest.fixture(scope="module")
def plugged(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayThread]:
    folder = folder_with(certificates, tmp_path_factory.mktemp("plugged"), faulty=FAULTY, slow=SLOW)
    with besieged(folder, {"plugins": PLUGINS, "limits": {"requests_waiting": 8}}) as relay:
        yield relay


async def heard(client: Socket) -> dict[str, Any]:
    found = json.loads(await client.hear())
    assert isinstance(found, dict)
    return found


async def asks(client: Socket, **request: Any) -> dict[str, Any]:
    """The answer to a request, whatever is said in between."""
    await client.say(json.dumps({"id": "asked", **request}))
    while (answer := await heard(client)).get("id") != "asked":
        pass
    return answer


async def still_served(client: Socket) -> bool:
    return bool((await asks(client, t="ping"))["t"] == "pong")


@pytest.mark.parametrize("hook", ["open", "join"])
async def test_a_hook_that_raises_refuses_the_join_and_nothing_more(plugged: RelayThread, hook: str) -> None:
    counts = {"plugin_failures:faulty": 1, "requests_refused:internal": 1}
    async with (
        under_attack(plugged, counts, tells='"plugin":"faulty"'),
        socket_to(plugged, "/ws", subprotocol=V1_JSON) as client,
    ):
        assert (await asks(client, t="join", room=f"faulty:{hook}"))["code"] == "internal"
        assert await still_served(client)


@pytest.mark.parametrize("hook", ["leave", "empty"])
async def test_a_hook_that_raises_keeps_nobody_in_a_room(plugged: RelayThread, hook: str) -> None:
    async with (
        under_attack(plugged, {"plugin_failures:faulty": 1}, tells='"plugin":"faulty"'),
        socket_to(plugged, "/ws", subprotocol=V1_JSON) as client,
    ):
        assert (await asks(client, t="join", room=f"faulty:{hook}"))["t"] == "ok"
        assert (await asks(client, t="leave", room=f"faulty:{hook}"))["t"] == "ok"
        assert (await asks(client, t="presence", room=f"faulty:{hook}"))["count"] == 0


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("raise", "internal"), ("group", "internal"), ("recurse", "internal"), ("unsendable", "internal"),
        ("odd refusal", "internal"), ("unsendable refusal", "internal"), ("nowhere", "no_such_channel"),
    ],
)  # fmt: skip
async def test_a_hook_that_cannot_cope_with_a_message_refuses_that_one(
    plugged: RelayThread, what: str, code: str
) -> None:
    failures = {} if code == "no_such_channel" else {"plugin_failures:faulty": 1}
    async with (
        under_attack(plugged, {**failures, f"requests_refused:{code}": 1}, tells='"plugin":"faulty"'),
        socket_to(plugged, "/ws", subprotocol=V1_JSON) as client,
    ):
        assert (await asks(client, t="join", room="faulty:room"))["t"] == "ok"
        assert (await asks(client, t="publish", room="faulty:room", data=what))["code"] == code
        assert (await asks(client, t="publish", room="faulty:room", data="fine"))["t"] == "ok"


@pytest.mark.parametrize("method", ["raise", "object", "cycle", "nothing"])
async def test_an_answer_that_cannot_be_sent_is_the_plugins_failure(plugged: RelayThread, method: str) -> None:
    async with (
        under_attack(plugged, {"plugin_failures:faulty": 1, "requests_refused:internal": 1}, tells='"plugin":"faulty"'),
        socket_to(plugged, "/ws", subprotocol=V1_JSON) as client,
    ):
        assert (await asks(client, t="join", room="faulty:room"))["t"] == "ok"
        assert (await asks(client, t="call", room="faulty:room", method=method))["code"] == "internal"
        assert await still_served(client)


async def test_a_hook_that_holds_the_loop_is_named(plugged: RelayThread) -> None:
    async with (
        under_attack(plugged, {"plugin_stalls:faulty": 1}),
        socket_to(plugged, "/rooms/faulty:room") as client,
    ):
        await client.say("hold")
        assert await client.hear() == "hold"
    assert [
        fields for fields in (getattr(r, "fields", {}) for r in plugged.records) if fields.get("hook") == "on_message"
    ]


async def test_a_join_that_never_ends_is_refused_at_its_deadline(plugged: RelayThread) -> None:
    async with (
        under_attack(plugged, {"requests_refused:timeout": 1}),
        socket_to(plugged, "/ws", subprotocol=V1_JSON) as client,
    ):
        refused = await asks(client, t="join", room="slow:join")
        assert refused["code"] == "timeout"
        assert refused["limit"] == "plugins.slow.hook_timeout"


async def test_a_plain_client_whose_join_never_ends_is_told_whose_fault_it_is(plugged: RelayThread) -> None:
    """Not forbidden: it may come back."""
    async with under_attack(plugged, {"connections_closed:1011": 1}), socket_to(plugged, "/rooms/slow:join") as client:
        await client.say("too early")
        code, reason = await client.closed()
        assert code == 1011
        assert reason.endswith("[plugins.slow.hook_timeout]")


async def test_who_waits_for_a_hook_is_served_elsewhere_meanwhile(plugged: RelayThread) -> None:
    async with (
        under_attack(plugged, {"requests_refused:timeout": 2}),
        socket_to(plugged, "/ws", subprotocol=V1_JSON) as client,
    ):
        for room in ("slow:message", "slow:call", "faulty:room"):
            assert (await asks(client, t="join", room=room))["t"] == "ok"
        await client.say('{"t":"publish","id":"slow","room":"slow:message","data":1}')
        assert await still_served(client)
        assert (await asks(client, t="publish", room="faulty:room", data="fine"))["t"] == "ok"
        assert (await asks(client, t="call", room="slow:call", method="x"))["code"] == "timeout"


@pytest.mark.parametrize("room", ["slow:join", "slow:message", "slow:call", "slow:leave"])
async def test_who_leaves_while_a_hook_runs_takes_the_hook_along(plugged: RelayThread, room: str) -> None:
    """What a hook still does when its connection has gone ends at its deadline at the latest."""
    requests = [
        {"t": "join", "id": 1, "room": room},
        {"t": "publish", "id": 2, "room": room, "data": 1},
        {"t": "call", "id": 3, "room": room, "method": "x"},
        {"t": "leave", "id": 4, "room": room},
    ]
    async with under_attack(plugged), socket_to(plugged, "/ws", subprotocol=V1_JSON) as client:
        for request in requests:
            await client.say(json.dumps(request))
        assert (await heard(client))["t"] == "hello"


async def test_hooks_that_hang_are_bounded_however_many_messages_wait_for_them(plugged: RelayThread) -> None:
    """Reading pauses: the flood waits in the kernel, and none of it has a task of its own."""
    async with under_attack(plugged) as bystander, socket_to(plugged, "/rooms/slow:message") as client:
        await bystander.a_word()
        before = (await plugged.standing())["tasks"]
        await client.send(frame(TEXT, b"x") * 2000)
        for _ in range(5):
            await bystander.a_word()
            assert (await plugged.standing())["tasks"] < before + 10


async def test_a_second_socket_is_no_way_around_that(plugged: RelayThread) -> None:
    """Neither one that was there before, nor one that comes when too much waits already."""
    flood = frame(TEXT, b'{"t":"publish","room":"slow:message","data":1}') * 1900  # less than its rate allows at once
    async with (
        under_attack(plugged) as bystander,
        socket_to(plugged, "/ws", subprotocol=V1_JSON) as first,
        tls(plugged) as before,
        tls(plugged) as after,
    ):
        session = (await heard(first))["session"]
        assert (await asks(first, t="join", room="slow:message"))["t"] == "ok"
        for stream in (before, after):
            leg = await open_socket(plugged, stream, f"/ws?session={session}&channels=urgent", subprotocol=V1_JSON)
            await leg.send(flood)
            for _ in range(5):
                await bystander.a_word()
        main = next(link.connection.main for link in plugged.server.state.links if link.connection.session == session)
        assert main.messages < 1900 / 2


async def test_channels_that_do_not_exist_get_no_queue_of_their_own(plugged: RelayThread) -> None:
    async with (
        under_attack(plugged, {"requests_refused:no_such_channel": 500}) as bystander,
        socket_to(plugged, "/ws", subprotocol=V1_JSON) as client,
    ):
        assert (await asks(client, t="join", room="slow:message"))["t"] == "ok"
        before = (await plugged.standing())["tasks"]
        publish = '{{"t":"publish","id":{0},"room":"slow:message","channel":"c{0}","data":1}}'
        await client.send(b"".join(frame(TEXT, publish.format(number).encode()) for number in range(500)))
        await bystander.a_word()
        assert (await plugged.standing())["tasks"] < before + 10
        assert {(await heard(client))["code"] for _ in range(500)} == {"no_such_channel"}


async def test_a_plugin_that_fails_too_often_is_switched_off_and_the_others_go_on(
    certificates: Path, tmp_path: Path
) -> None:
    folder = folder_with(certificates, tmp_path, faulty=FAULTY, slow=SLOW)
    with besieged(folder, {"plugins": PLUGINS, "supervision": {"failures": 3}}) as relay:
        counts = {"plugin_failures:faulty": 4, "requests_refused:internal": 4, "requests_refused:plugin_off": 1}
        async with (
            under_attack(relay, counts, tells='"plugin":"faulty"'),
            socket_to(relay, "/ws", subprotocol=V1_JSON) as client,
        ):
            assert (await asks(client, t="join", room="faulty:room"))["t"] == "ok"
            for _ in range(4):
                assert (await asks(client, t="publish", room="faulty:room", data="raise"))["code"] == "internal"
            refused = await asks(client, t="publish", room="faulty:room", data="fine")
            assert refused["code"] == "plugin_off"
            assert refused["limit"] == "supervision.failures"


# What is wrong before anything runs.

BROKEN = {
    "raises": "raise ImportError('no such library')",
    "syntax": "def :",
    "empty": "x = 1",
    "misspelt": "from relay.plugin.api import Plugin\nclass P(Plugin):\n    def on_mesage(self, room, sender, m): ...",
    "newer": "from relay.plugin.api import Plugin\nclass P(Plugin):\n    api = 99",
    "unmade": "from relay.plugin.api import Plugin\nclass P(Plugin):\n    def __init__(self, *a): raise OSError('no')",
}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        pytest.param({"limits": {"mesage_bytes": 1}}, ["limits.mesage_bytes", "message_bytes"], id="an unknown key"),
        pytest.param({"limts": {"message_bytes": 1}}, ["limts: no such setting"], id="an unknown table"),
        pytest.param({"timeouts": {"tls": "soon"}}, ["timeouts.tls"], id="a wrong type"),
        pytest.param({"timeouts": {"tls": -1.0}}, ["timeouts.tls"], id="a negative time"),
        pytest.param({"limits": {"head_bytes": 1}}, ["limits.head_bytes", "256"], id="too small"),
        pytest.param({"channels": {"default": {"overflow": "explode"}}}, ["channels.default.overflow"], id="no policy"),
        pytest.param({"plugins": {"chta": {"rooms": "a:*"}}}, ["chta", "chat"], id="an unknown plugin"),
        pytest.param({"plugins": {"chat": {"rooms": "a:*", "hystory": 1}}}, ["plugins.chat", "hystory"], id="its key"),
        pytest.param({"plugins": {"chat": {"rooms": "a**"}}}, ["plugins.chat.rooms"], id="no pattern"),
        pytest.param({"plugins": {"chat": {"rooms": []}}}, ["plugins.chat.rooms"], id="no rooms"),
        *[pytest.param({"plugins": {name: {"rooms": "a:*"}}}, [f"plugins.{name}"], id=name) for name in BROKEN],
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused_at_start(
    certificates: Path, tmp_path: Path, overrides: Overrides, said: list[str]
) -> None:
    folder = folder_with(certificates, tmp_path, **BROKEN)
    with pytest.raises(ConfigError) as caught, besieged(folder, overrides):
        pass
    assert "Traceback" not in str(caught.value)
    for word in said:
        assert word in str(caught.value)


def test_all_problems_are_told_at_once_with_their_lines(certificates: Path, tmp_path: Path) -> None:
    folder = folder_with(certificates, tmp_path, **BROKEN)
    lines = ["[limits]", "mesage_bytes = 1", "[timeouts]", 'tls = "soon"', "[plugins.chta]", 'rooms = "a:*"']
    (folder / "config.toml").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "relay", "check", "-c", "config.toml"],
        cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    told = done.stdout + done.stderr
    assert "Traceback" not in told
    for place in ("config.toml:2", "config.toml:4"):
        assert place in told
