"""Unix sockets to listen on: their files have a mode, make way for nobody who is alive, and go with the socket."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from relay.net import unix
from relay.net.listener import accept_from
from relay.net.transport import Transport


@pytest.fixture
def path(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(short)
    return Path("relay.sock")


@contextmanager
def listening(path: Path, mode: int = 0o660) -> Iterator[unix.UnixListener]:
    sock = unix.listen_on(path, mode, 16)
    try:
        yield sock
    finally:
        sock.close()


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(str(path))
    return client


def leave_behind(path: Path) -> None:
    """The file of a relay that was killed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_its_file_has_the_mode_that_was_asked_for_and_goes_with_it(path: Path, mode: int) -> None:
    before = os.umask(0o22)
    try:
        with listening(path, mode) as sock:
            assert stat.S_IMODE(path.stat().st_mode) == mode
            assert not sock.getblocking()
            connected(path).close()
            sock.set_mode(0o640)
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert not path.exists()
        assert os.umask(0o22) == 0o22, "the mask is as it was"
    finally:
        os.umask(before)


def test_the_file_of_a_relay_that_was_killed_makes_way(path: Path) -> None:
    leave_behind(path)
    with listening(path):
        connected(path).close()


@pytest.mark.parametrize("backlog", [0, 16])
def test_one_that_somebody_answers_on_stays_however_much_he_has_to_do(path: Path, backlog: int) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(backlog)
        waiting = connected(path)  # with a backlog of 0 the next one would have to wait
        with pytest.raises(OSError, match="in use"):
            unix.listen_on(path, 0o660, 16)
        assert path.is_socket()
        waiting.close()


def test_a_file_that_is_no_socket_stays(path: Path) -> None:
    path.write_text("somebody's")
    with pytest.raises(OSError, match="is no socket"):
        unix.listen_on(path, 0o660, 16)
    assert path.read_text() == "somebody's"


def test_a_link_to_a_socket_is_no_socket(path: Path) -> None:
    leave_behind(Path("real.sock"))
    path.symlink_to("real.sock")
    with pytest.raises(OSError, match="is no socket"):
        unix.listen_on(path, 0o660, 16)
    assert Path("real.sock").is_socket()


def test_a_socket_of_another_kind_stays(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(OSError, match="may be in use"):
            unix.listen_on(path, 0o660, 16)
    assert path.is_socket()


def test_the_file_of_whoever_came_after_us_stays(path: Path) -> None:
    first = unix.listen_on(path, 0o660, 16)
    path.unlink()
    with listening(path):
        first.close()
        connected(path).close()


def test_of_relays_that_start_at_once_over_a_dead_one_one_gets_the_path_and_keeps_it(path: Path) -> None:
    leave_behind(path)
    start, won, refused = threading.Barrier(8), list[unix.UnixListener](), list[OSError]()

    def begin() -> None:
        start.wait(5)
        try:
            won.append(unix.listen_on(path, 0o660, 16))
        except OSError as error:
            refused.append(error)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(won), len(refused)) == (1, 7)
    connected(path).close()
    won[0].close()


def test_a_folder_that_somebody_keeps_locked_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "LOCK_PAUSE", 0.0)
    lock = os.open(".", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="holds a lock"):
            unix.listen_on(path, 0o660, 16)
    finally:
        os.close(lock)
    assert not path.exists()


def test_what_cannot_be_there_is_known_before(path: Path) -> None:
    assert unix.place_problem(path) is None
    assert "there is no folder" in str(unix.place_problem(Path("missing/relay.sock")))
    path.write_text("")
    assert "is no socket" in str(unix.place_problem(path))
    assert "at most" in str(unix.place_problem(Path("x" * 200)))
    for wrong in (Path("missing/relay.sock"), Path("x" * 200)):
        with pytest.raises(OSError, match=r"there is no folder|at most"):
            unix.listen_on(wrong, 0o660, 16)


async def test_who_connects_has_the_address_unix_and_a_bounded_send_buffer(path: Path) -> None:
    came: list[tuple[socket.socket, str]] = []
    there = trio.Event()

    def handle(sock: socket.socket, address: str) -> None:
        came.append((sock, address))
        there.set()

    with trio.fail_after(5), listening(path) as sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_from, sock, handle, trio.lowlevel.checkpoint)
            client = connected(path)
            await there.wait()
            nursery.cancel_scope.cancel()
        assert unix.place_problem(path) is None
        assert sock.fileno() == -1, "closed with the loop"
    (server, address), = came  # fmt: skip
    assert address == "unix"
    transport = Transport(server, unsent_bytes=16384)
    taken = 0
    while sent := transport.send(bytes(16384)):
        taken += sent
    assert taken <= 8 * 16384
    transport.close()
    client.close()
