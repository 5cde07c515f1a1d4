"""Listening sockets, and the loop that accepts from them.

Not here: what happens to a connection. The one rule: whatever accept() says, the loop goes on; when descriptors run
out it waits, says so once in a while, and accepts again as soon as there are some.
"""

from __future__ import annotations

import errno
import logging
import math
import resource
import socket
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

import trio

from relay.config.address import parse_listen, unix_path
from relay.errors import ConfigError, ConfigProblem
from relay.limits.addresses import UNIX
from relay.net import unix
from relay.net.sieve import Shut, Sieve, release

log = logging.getLogger("relay.net")

ACCEPTS_PER_TURN: Final = 16  # 64 of them are a pause that handshakes under way notice
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE: Final = 0.1  # seconds between tries while descriptors are exhausted
_TELL_EVERY: Final = 10.0  # seconds between two log lines about it

SPARE: Final = 32
"""Descriptors that no client gets: for the internal listener, files, fetching keys."""


def open_listeners(
    addresses: Iterable[str], backlog: int, key: str, *, base: Path = Path(), mode: int = 0o660
) -> list[socket.socket]:
    """Bound and listening sockets. Raises ConfigError naming each address that cannot be had; then none stays open.

    Where ":PORT" asks for every address, a machine without IPv6 gets IPv4 alone. The file of a Unix socket gets that
    mode; its path begins at `base`.
    """
    sockets: list[socket.socket] = []
    problems: list[ConfigProblem] = []
    for text in addresses:
        if (path := unix_path(text)) is not None:
            try:
                sockets.append(unix.listen_on(base / path, mode, backlog))
            except OSError as error:
                what = f"cannot listen on {text}: {error.strerror or error}"
                problems.append(ConfigProblem("configuration", key, what))
            continue
        wanted = parse_listen(text)
        port = 0
        for host, asked in wanted:
            try:
                for family, kind, protocol, _, address in socket.getaddrinfo(
                    host, asked, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                ):
                    sockets.append(_listen(family, kind, protocol, (address[0], asked or port, *address[2:]), backlog))
                    port = sockets[-1].getsockname()[1]  # with port 0, all families shall have the same one
            except OSError as error:
                no_ipv6 = error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and host == "::"
                if not (len(wanted) > 1 and no_ipv6):
                    problems.append(
                        ConfigProblem("configuration", key, f"cannot listen on {text}: {error.strerror or error}")
                    )
    if problems:
        for sock in sockets:
            sock.close()
        raise ConfigError(problems)
    return sockets


def _listen(family: int, kind: int, protocol: int, address: Any, backlog: int) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


async def accept_from(
    listener: socket.socket,
    handle: Callable[[socket.socket, str], Shut | None],
    may_accept: Callable[[], Awaitable[None]],
    turned_away: Callable[[str], None] | None = None,
) -> None:
    """Hands every connection and its address to `handle`, which must not block. Closes the listener when cancelled.

    Where `handle` says that it has turned a connection away, and would do so with others of its network, these are
    dropped by the kernel as soon as they are many (sieve).

    With `turned_away` a connection that would have one of the last SPARE descriptors is closed at once, and its address
    told: who waited in the backlog instead would neither be served nor know it.
    """
    told = -_TELL_EVERY
    sieve = Sieve(listener)
    with listener:
        while True:
            await may_accept()
            await _connections(listener, sieve)
            filtered = sieve.until < math.inf
            for _ in range(ACCEPTS_PER_TURN):
                try:
                    sock, address = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in _EXHAUSTED:
                        if trio.current_time() - told >= _TELL_EVERY:
                            told = trio.current_time()
                            log.error("cannot accept connections: %s", error.strerror)
                        await trio.sleep(_PAUSE)
                    break  # else the client was gone before we took it
                name = address[0] if isinstance(address, tuple) else UNIX
                if turned_away is not None and _is_one_of_the_last(sock.fileno()):
                    sock.close()
                    turned_away(name)
                    if trio.current_time() - told >= _TELL_EVERY:
                        told = trio.current_time()
                        log.error("no descriptors are left for clients: they are turned away")
                    continue
                if filtered:
                    release(sock)
                shut = handle(sock, name)
                if shut is not None:
                    sieve.refused(shut, trio.current_time())
            sieve.settle(trio.current_time())


async def _connections(listener: socket.socket, sieve: Sieve) -> None:
    """Waits until there are some, and lets in again who has been shut out for long enough meanwhile."""
    while (until := sieve.until) < math.inf:
        with trio.move_on_at(until):
            await trio.lowlevel.wait_readable(listener)
            return
        sieve.settle(trio.current_time())
    await trio.lowlevel.wait_readable(listener)


def _is_one_of_the_last(descriptor: int) -> bool:
    """The lowest free number is given, so those below it are all in use."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most != resource.RLIM_INFINITY and descriptor >= most - SPARE


def check_congestion(name: str) -> str | None:
    """Why connections cannot use this congestion control; None: they can."""
    option: int | None = getattr(socket, "TCP_CONGESTION", None)
    if not name or option is None:
        return None if not name else "this system does not let one choose"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, option, name.encode())
        except OSError as error:
            return f"this kernel does not have {name!r} to offer ({error.strerror})"
    return None


def raise_descriptor_limit(wanted: int) -> int:
    """Raises the soft limit of open files as far as needed and allowed; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
