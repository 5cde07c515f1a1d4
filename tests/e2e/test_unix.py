"""A relay on Unix sockets: clients and real proxies of this machine; what a dead relay left behind; reloads."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.client import ConnectFailed, connect, connect_plain
from tests.components import ROOT
from tests.e2e.harness import RelayProcess, running_relay
from tests.e2e.proxies import haproxy_before, nginx_before
from tests.security.attack import ask, open_socket, tcp, tls, upgrade

pytestmark = pytest.mark.e2e

ANN, BOB = "127.0.0.11", "127.0.0.12"
ROOM = "/rooms/echo:a"
ONE_EACH = {"connections_per_address": 1}


def listening(at: Path, **more: Any) -> dict[str, Any]:
    return {"server": {"listen": ["127.0.0.1:0", f"unix:{at}"], **more}}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_all(folder: Path) -> None:
    folder.chmod(0o711)


def files(*paths: Path) -> list[bool]:
    return [path.is_socket() for path in paths]


@asynccontextmanager
async def client(relay: RelayProcess, at: Path) -> AsyncIterator[Any]:
    authority = relay.certificates.authority
    async with connect("wss://localhost/ws", token=relay.token(), ca_file=authority, unix=at) as found:
        yield found


async def command(relay: RelayProcess, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [sys.executable, "-m", "relay", *arguments, "-c", str(relay.config_path)],
        cwd=relay.folder, env={"PYTHONPATH": str(ROOT)}, capture_stdout=True, capture_stderr=True, check=False,
    )  # fmt: skip


async def test_a_client_of_this_machine_comes_by_the_socket_with_tls_or_without(short: Path, tmp_path: Path):
    at = short / "public.sock"
    with trio.fail_after(30):
        async with running_relay(tmp_path, listening(at, unix_mode="0600")) as relay:
            assert mode_of(at) == 0o600
            async with client(relay, at) as ann, client(relay, at) as bob:
                await ann.join("chat:a")
                await bob.join("chat:a")
                await ann.publish("chat:a", "by the socket")
                assert (await bob.receive()).data == "by the socket"
            assert (await relay.until_log("connection closed"))["address"] == "unix"
        assert files(at) == [False]
        plain = tmp_path / "plain"
        plain.mkdir()
        async with (
            running_relay(plain, listening(at, insecure_plaintext=True)) as relay,
            connect_plain(f"ws://localhost{ROOM}", token=relay.token(), unix=at) as ann,
        ):
            await ann.send("hello")
            assert await ann.receive() == "hello"
    with pytest.raises(ConnectFailed, match=r"cannot connect to .*public.sock: No such file"):
        async with connect_plain("ws://localhost/ws", unix=at):
            pass


async def test_a_dead_relay_s_socket_makes_way_and_a_live_one_s_does_not(short: Path, tmp_path: Path):
    at = short / "public.sock"
    with trio.fail_after(60):
        async with running_relay(tmp_path, listening(at)) as relay:
            relay.process.kill()
            await trio.to_thread.run_sync(relay.stop)
            assert files(at) == [True], "it is left behind"
            await trio.to_thread.run_sync(relay.start)
            result = await command(relay, "serve")
            assert result.returncode == 78
            told = f"config.toml:2: server.listen[1]: cannot listen on unix:{at}: Address already in use"
            assert told in result.stderr.decode()
            async with client(relay, at) as ann:
                await ann.join("chat:a")
        assert files(at) == [False]


async def test_a_folder_that_is_missing_is_told_before(short: Path, tmp_path: Path):
    relay = RelayProcess(tmp_path, listening(short / "missing" / "public.sock"))
    result = await command(relay, "check")
    assert result.returncode == 78
    assert f"config.toml:2: server.listen[1]: there is no folder {short}/missing" in result.stderr.decode()
    relay.configure(listening(short / "public.sock"))
    result = await command(relay, "check")
    assert result.returncode == 0
    assert b"warning: proxy.trusted: limits by address do not hold" in result.stderr


async def test_the_internal_listener_may_be_a_socket_too_and_the_commands_find_it(short: Path, tmp_path: Path):
    at = short / "internal.sock"
    keys = ["a-key-of-the-operator-s"]
    overrides = {"internal": {"listen": [f"unix:{at}", "127.0.0.1:0"], "api_keys": keys, "unix_mode": "600"}}
    with trio.fail_after(60):
        async with running_relay(tmp_path, overrides) as relay:
            for arguments, said in (
                (("health",), b"http://localhost/readyz: 200"),
                (("explain", "address", "127.0.0.1"), b"127.0.0.1"),
            ):
                result = await command(relay, *arguments)
                assert (result.returncode, said in result.stdout) == (0, True), result
        result = await command(relay, "explain", "address", "127.0.0.1")
        assert f"no answer from {at}: " in result.stderr.decode()


async def test_a_reload_opens_and_closes_listeners_and_whoever_is_inside_stays(short: Path, tmp_path: Path):
    first, second = short / "first.sock", short / "second.sock"
    with trio.fail_after(30):
        async with running_relay(tmp_path, listening(first)) as relay, client(relay, first) as ann:
            await ann.join("chat:a")
            relay.configure(listening(second))
            relay.process.send_signal(signal.SIGHUP)
            assert (await relay.until_log("reloaded"))["needs_restart"] == ""
            async with client(relay, second) as bob:
                await bob.join("chat:a")
                await bob.publish("chat:a", "by the other one")
                assert (await ann.receive()).data == "by the other one"
            assert files(first, second) == [False, True]
            relay.configure(listening(short / "missing" / "third.sock"))
            relay.process.send_signal(signal.SIGHUP)
            refused = await relay.until_log("reload refused, everything stays as it was")
            assert f"{short}/missing" in refused["problems"]
            assert (await ask(relay, upgrade(ROOM, relay.token()))).status == 101
            assert files(first, second) == [False, True]


async def test_limits_count_the_clients_behind_nginx(nginx: str, short: Path, tmp_path: Path):
    at = short / "public.sock"
    open_to_all(short)  # where tests are root, nginx's workers are not
    overrides = {
        **listening(at, insecure_plaintext=True, unix_mode="0666"), "limits": ONE_EACH,
        "proxy": {"trusted": ["unix"], "forwarded": "x-forwarded-for"},
    }  # fmt: skip
    header = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
    with trio.fail_after(30):
        async with (
            running_relay(tmp_path, overrides) as relay,
            nginx_before(nginx, tmp_path, at, header) as front,
            tcp(relay, source=BOB, to=front) as bobs,
        ):
            bob = await open_socket(relay, bobs, ROOM)
            async with tcp(relay, source=ANN, to=front) as stream:
                ann = await open_socket(relay, stream, ROOM, relay.token("ann"))
                await ann.say("hello")
                assert await ann.hear() == "hello"
                async with tcp(relay, source=ANN, to=front) as another:
                    await another.send_all(upgrade(ROOM, relay.token("ann")))
                    assert b" 429 " in await another.receive_some()
            assert (await relay.until_log("connection closed", subject="ann"))["address"] == ANN
            await bob.say("still here")
            assert await bob.hear() == "still here"


async def test_limits_count_the_clients_behind_haproxy(haproxy: str, short: Path, tmp_path: Path):
    at = short / "public.sock"
    overrides = {**listening(at), "limits": ONE_EACH, "proxy": {"trusted": ["unix"], "protocol": "v2"}}
    with trio.fail_after(30):
        async with (
            running_relay(tmp_path, overrides) as relay,
            haproxy_before(haproxy, tmp_path, at, "send-proxy-v2") as front,
            tls(relay, source=ANN, to=front) as stream,
        ):
            ann = await open_socket(relay, stream, ROOM, relay.token("ann"))
            await ann.say("hello")
            assert await ann.hear() == "hello"
            refused = await ask(relay, upgrade(ROOM, relay.token("ann")), source=ANN, to=front)
            assert (refused.status, refused.json()["setting"]) == (429, "limits.connections_per_address")
            assert (await ask(relay, upgrade(ROOM, relay.token("ann")), source=BOB, to=front)).status == 101


async def test_who_has_no_address_is_not_limited_by_it(short: Path, tmp_path: Path):
    at = short / "public.sock"
    limits = {**ONE_EACH, "handshakes_per_address": 1.0, "handshakes_burst": 1, "auth_failures": 1}
    with trio.fail_after(30):
        async with running_relay(tmp_path, {**listening(at), "limits": limits}) as relay:
            warned = await relay.until_log("limits by address do not hold for whoever comes through a Unix socket")
            assert warned["setting"] == "proxy.trusted"
            url, ca_file = f"wss://localhost{ROOM}", relay.certificates.authority
            for _ in range(3):
                with pytest.raises(Exception, match="token"):
                    async with connect_plain(url, token="bad", ca_file=ca_file, unix=at):
                        pass
            async with client(relay, at) as ann, client(relay, at):
                await ann.join("chat:a")
