"""Listening sockets: opened together or not at all, and accepting whatever happens."""

from __future__ import annotations

import contextlib
import errno
import re
import resource
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from relay.errors import ConfigError
from relay.net.listener import accept_from, open_listeners, raise_descriptor_limit


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@contextlib.contextmanager
def opened(*addresses: str) -> Iterator[list[socket.socket]]:
    sockets = open_listeners(addresses, 16, "server.listen")
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def problems(*addresses: str) -> list[Any]:
    with pytest.raises(ConfigError) as caught:
        open_listeners(addresses, 16, "server.listen")
    return caught.value.problems


@needs_ipv6
def test_every_address_means_both_families_on_one_port() -> None:
    with opened(":0") as sockets:
        assert {sock.family for sock in sockets} == {socket.AF_INET, socket.AF_INET6}
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        port = sockets[0].getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=5).close()


def test_an_address_is_listened_on_and_the_sockets_do_not_block() -> None:
    with opened("127.0.0.1:0") as (sock,):
        assert sock.getsockname()[0] == "127.0.0.1"
        assert not sock.getblocking()
        socket.create_connection(sock.getsockname(), timeout=5).close()


def test_several_addresses_have_a_port_each() -> None:
    with opened("127.0.0.1:0", "127.0.0.1:0") as sockets:
        assert len({sock.getsockname()[1] for sock in sockets}) == 2


def test_all_addresses_of_a_name_have_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(host: str, port: int, **keywords: Any) -> list[Any]:
        assert host == "localhost"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (1, 2)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with opened("localhost:0") as sockets:
        assert [sock.getsockname()[0] for sock in sockets] == ["127.0.0.1", "127.0.0.2"]
        assert len({sock.getsockname()[1] for sock in sockets}) == 1


def test_an_address_in_use_is_named_and_nothing_stays_open() -> None:
    with opened("127.0.0.1:0") as (taken,):
        port = taken.getsockname()[1]
        (problem,) = problems("127.0.0.1:0", f"127.0.0.1:{port}")
        assert problem.key == "server.listen"
        assert f"127.0.0.1:{port}" in problem.what
        assert "in use" in problem.what


def test_all_addresses_that_cannot_be_had_are_named() -> None:
    with opened("127.0.0.1:0") as (taken,):
        port = taken.getsockname()[1]
        told = problems(f"127.0.0.1:{port}", "192.0.2.1:0")
        assert [re.findall(r"[0-9.]+:\d+", problem.what)[0] for problem in told] == [f"127.0.0.1:{port}", "192.0.2.1:0"]


def test_a_port_just_left_can_be_had_again_at_once() -> None:
    with opened("127.0.0.1:0") as (first,):
        address = first.getsockname()
        client = socket.create_connection(address, timeout=5)
        first.setblocking(True)
        server, _ = first.accept()
    server.close()  # the side that closes first keeps the port in TIME_WAIT
    client.close()
    with opened(f"127.0.0.1:{address[1]}"):
        pass


def without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def only_ipv4(family: int = socket.AF_INET, *rest: Any, **keywords: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *rest, **keywords)

    monkeypatch.setattr(socket, "socket", only_ipv4)


def test_without_ipv6_every_address_means_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ipv6(monkeypatch)
    with opened(":0") as (sock,):
        assert sock.family == socket.AF_INET


def test_without_ipv6_an_ipv6_address_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ipv6(monkeypatch)
    (problem,) = problems("[::1]:0")
    assert "[::1]:0" in problem.what


# Accepting.


async def accepting(sock: Any, handle: Any, may: Any = trio.lowlevel.checkpoint) -> None:
    await accept_from(sock, handle, may)


class Guests:
    """Those who were let in: their addresses. `all_in` is set when as many as expected have come."""

    def __init__(self, expected: int = 1) -> None:
        self.addresses: list[str] = []
        self.expected = expected
        self.all_in = trio.Event()

    def handle(self, sock: socket.socket, address: str) -> None:
        sock.close()
        self.addresses.append(address)
        if len(self.addresses) == self.expected:
            self.all_in.set()


async def test_every_connection_is_handed_on_with_its_address() -> None:
    guests = Guests(5)
    with trio.fail_after(5), opened("127.0.0.1:0") as (sock,):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accepting, sock, guests.handle)
            clients = [socket.create_connection(sock.getsockname(), timeout=5) for _ in range(5)]
            await guests.all_in.wait()
            nursery.cancel_scope.cancel()
        assert guests.addresses == ["127.0.0.1"] * 5
        assert sock.fileno() == -1, "closed with the loop"
        for client in clients:
            client.close()


async def test_while_nobody_may_come_in_they_wait_in_the_kernel() -> None:
    door, guests = trio.Event(), Guests()
    with trio.fail_after(5), opened("127.0.0.1:0") as (sock,):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accepting, sock, guests.handle, door.wait)
            client = socket.create_connection(sock.getsockname(), timeout=5)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert guests.addresses == []
            door.set()
            await guests.all_in.wait()
            nursery.cancel_scope.cancel()
        client.close()


class Awkward:
    """A listening socket whose accept says what the kernel sometimes says."""

    def __init__(self, sock: socket.socket, says: list[int]) -> None:
        self._sock = sock
        self._says = says

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def __enter__(self) -> Awkward:
        return self

    def __exit__(self, *problem: object) -> None:
        self._sock.close()

    def accept(self) -> Any:
        if self._says:
            raise OSError(self._says.pop(0), "as the kernel says")
        return self._sock.accept()


@pytest.mark.parametrize(
    "error", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE]
)
async def test_whatever_accept_says_the_loop_goes_on(error: int, caplog: pytest.LogCaptureFixture) -> None:
    guests = Guests()
    with trio.fail_after(5), opened("127.0.0.1:0") as (sock,):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accepting, Awkward(sock, [error, error]), guests.handle)
            client = socket.create_connection(sock.getsockname(), timeout=5)
            await guests.all_in.wait()
            nursery.cancel_scope.cancel()
        client.close()
    exhausted = error in (errno.ENOBUFS, errno.ENOMEM, errno.EMFILE)
    assert len(caplog.records) == exhausted, "said once, and only what an operator can do something about"


def test_when_descriptors_run_out_it_waits_and_then_goes_on() -> None:
    """In a process of its own, because the limit is that of a process."""
    script = """
        import logging, resource, socket, sys
        import trio
        from relay.net.listener import accept_from, open_listeners

        logging.basicConfig(stream=sys.stdout, format="LOG %(message)s")
        held = []

        async def main():
            (listener,) = open_listeners(["127.0.0.1:0"], 64, "server.listen")
            address = listener.getsockname()
            clients = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept_from, listener, lambda s, a: held.append(s), trio.lowlevel.checkpoint)
                for _ in range(20):
                    clients.append(socket.create_connection(address, timeout=5))
                used = max(sock.fileno() for sock in clients)
                resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, used + 4))
                with trio.move_on_after(0.35):
                    while len(held) < 20:
                        await trio.sleep(0.01)
                print("accepted some", 0 < len(held) < 20)
                before = len(held)
                for sock in held:
                    sock.close()
                with trio.fail_after(5):
                    while len(held) < 20:
                        await trio.sleep(0.01)
                        for sock in held:
                            sock.close()
                print("accepted all", len(held) == 20)
                nursery.cancel_scope.cancel()

        trio.run(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "accepted some True" in lines
    assert "accepted all True" in lines
    assert sum(line.startswith("LOG cannot accept") for line in lines) == 1, "said once, not ten times a second"


# The limit of open files.


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The process has (1024, 4096), as far as the code can see."""
    said = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: said[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: said.append(pair))
    return said


@pytest.mark.parametrize(("wanted", "have"), [(100, 1024), (1024, 1024), (2000, 2000), (9999, 4096)])
def test_the_limit_of_open_files_is_raised_as_far_as_needed_and_allowed(
    limits: list[tuple[int, int]], wanted: int, have: int
) -> None:
    assert raise_descriptor_limit(wanted) == have
    assert limits[-1] == (have, 4096)


def test_a_limit_without_an_end_is_raised_to_what_is_wanted(limits: list[tuple[int, int]]) -> None:
    limits.append((1024, resource.RLIM_INFINITY))
    assert raise_descriptor_limit(50_000) == 50_000
