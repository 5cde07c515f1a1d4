"""Listeners that a reload exchanges: new ones open before old ones close, and all stay where one cannot be had."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest
import trio

from relay.config import LoadedConfig, load
from relay.errors import ConfigError
from relay.process.listening import Listening, adopt, prepare


@pytest.fixture(autouse=True)
def _here(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(short)


def config(*public: str, internal: tuple[str, ...] = (), mode: str = "0660") -> LoadedConfig:
    file = Path("config.toml")
    file.write_text(f"[server]\nlisten = {list(public)}\nunix_mode = '{mode}'\n[internal]\nlisten = {list(internal)}\n")
    return load(file, environ={})


def both() -> list[Listening]:
    return [Listening("server"), Listening("internal", backlog=64)]


def change(listening: list[Listening], loaded: LoadedConfig) -> None:
    adopt(listening, loaded, prepare(listening, loaded))


def is_there(path: str) -> bool:
    return Path(path).is_socket()


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


class Guests:
    def __init__(self) -> None:
        self.come, self.came = trio.open_memory_channel[str](10)

    def handle(self, sock: socket.socket, address: str) -> None:
        sock.close()
        self.come.send_nowait(address)


async def test_a_reload_opens_what_is_new_closes_what_is_gone_and_leaves_the_rest(short: Path) -> None:
    listening, guests = both(), Guests()
    change(listening, config("127.0.0.1:0"))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for one in listening:
                one.begin(nursery, guests.handle, trio.lowlevel.checkpoint)
            (stays,) = listening[0].addresses
            change(listening, config("127.0.0.1:0", "unix:./public.sock", internal=("127.0.0.1:0",)))
            assert listening[0].addresses == [stays, (f"unix:{short}/public.sock", 0)]
            assert len(listening[1].addresses) == 1
            for wanted in (stays, listening[1].addresses[0]):
                socket.create_connection(wanted, timeout=5).close()
                assert await guests.came.receive() == "127.0.0.1"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect("public.sock")
                assert await guests.came.receive() == "unix"
            change(listening, config("127.0.0.1:0", "unix:./public.sock", mode="0600"))
            assert mode_of("public.sock") == 0o600
            assert listening[1].addresses == []
            change(listening, config("unix:./public.sock"))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(stays, timeout=5)
            nursery.cancel_scope.cancel()
    assert not is_there("public.sock")


async def test_where_one_cannot_be_had_nothing_changes_and_all_that_cannot_are_told() -> None:
    listening = both()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        wanted = config("127.0.0.1:0", "unix:./public.sock", address, internal=("unix:./nowhere/internal.sock",))
        with pytest.raises(ConfigError) as caught:
            prepare(listening, wanted)
    told = [str(problem).split(": ", 2) for problem in caught.value.problems]
    assert [problem[:2] for problem in told] == [
        ["config.toml:2", "server.listen[2]"],
        ["config.toml:5", "internal.listen[0]"],
    ]
    assert "Address already in use" in told[0][2]
    assert "there is no folder" in told[1][2]
    assert not is_there("public.sock")
    assert [one.addresses for one in listening] == [[], []]


def test_what_never_began_is_closed() -> None:
    listening = both()
    change(listening, config("unix:./public.sock"))
    change(listening, config("unix:./other.sock"))
    assert not is_there("public.sock")
    listening[0].close()
    assert not is_there("other.sock")
