"""The listening sockets of one setting, `server.listen` or `internal.listen`: opened together, exchanged by a reload.

Not here: opening one, and accepting (net/listener). The one rule: what is wanted is open before what is wanted no more
is closed; where one cannot be had, all stays as it was.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Literal, TypeAlias

import trio

from relay.config.loader import LoadedConfig
from relay.errors import ConfigError, ConfigProblem
from relay.net.listener import accept_from, open_listeners
from relay.net.sieve import Shut
from relay.net.unix import UnixListener

Sockets: TypeAlias = dict[str, list[socket.socket]]
"""By what the configuration calls them: ":8443" is two."""


class Listening:
    """Until `begin`, whoever connects waits in the kernel."""

    def __init__(self, table: Literal["server", "internal"], backlog: int | None = None) -> None:
        """`backlog`: that of `server`, unless given."""
        self._table = table
        self._backlog = backlog
        self._open: Sockets = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self._accept: Callable[[str, list[socket.socket]], None] | None = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each; of a Unix socket ("unix:PATH", 0)."""
        return [_name(sock) for sockets in self._open.values() for sock in sockets]

    def prepare(self, loaded: LoadedConfig) -> Sockets:
        """What that configuration wants and is not open yet; it goes to `adopt`, or to `drop`. Raises ConfigError with
        all that cannot be had; then none is open.
        """
        wanted = getattr(loaded.config, self._table)
        made: Sockets = {}
        problems: list[ConfigProblem] = []
        for index, text in enumerate(wanted.listen):
            if text in self._open:
                continue
            key = f"{self._table}.listen[{index}]"
            backlog = self._backlog or loaded.config.server.backlog
            try:
                made[text] = open_listeners([text], backlog, key, base=loaded.base, mode=int(wanted.unix_mode, 8))
            except ConfigError as error:
                problems += [replace(problem, where=loaded.where(key)) for problem in error.problems]
        if problems:
            drop(made)
            raise ConfigError(problems)
        return made

    def adopt(self, loaded: LoadedConfig, made: Sockets) -> None:
        """`made` is what `prepare` has opened; what is wanted no more is closed. Who came in by it stays."""
        wanted = getattr(loaded.config, self._table)
        for text in [text for text in self._open if text not in wanted.listen]:
            sockets, scope = self._open.pop(text), self._scopes.pop(text, None)
            if scope is None:
                drop({text: sockets})
            else:
                scope.cancel()
        for sockets in self._open.values():
            for sock in sockets:
                sock.listen(self._backlog or loaded.config.server.backlog)
                if isinstance(sock, UnixListener):
                    with suppress(OSError):  # somebody has removed the file: nobody comes by it
                        sock.set_mode(int(wanted.unix_mode, 8))
        self._open.update(made)
        if self._accept is not None:
            for text, sockets in made.items():
                self._accept(text, sockets)

    def begin(
        self,
        nursery: trio.Nursery,
        handle: Callable[[socket.socket, str], Shut | None],
        may_accept: Callable[[], Awaitable[None]],
        turned_away: Callable[[str], None] | None = None,
    ) -> None:
        """Accepts from all of them, and from those that come, in tasks that end with the nursery and close them."""

        def accept(text: str, sockets: list[socket.socket]) -> None:
            scope = self._scopes[text] = trio.CancelScope()

            async def run() -> None:
                with scope:
                    async with trio.open_nursery() as each:
                        for sock in sockets:
                            each.start_soon(accept_from, sock, handle, may_accept, turned_away)

            nursery.start_soon(run)

        self._accept = accept
        for text, sockets in self._open.items():
            accept(text, sockets)

    def close(self) -> None:
        """Before `begin`: nothing was accepted."""
        drop(self._open)
        self._open.clear()


def prepare(listening: Iterable[Listening], loaded: LoadedConfig) -> list[Sockets]:
    """For each of them, what `Listening.prepare` says. Raises ConfigError with all that cannot be had; then none is
    open.
    """
    made: list[Sockets] = []
    problems: list[ConfigProblem] = []
    for one in listening:
        try:
            made.append(one.prepare(loaded))
        except ConfigError as error:
            problems += error.problems
    if problems:
        for sockets in made:
            drop(sockets)
        raise ConfigError(problems)
    return made


def adopt(listening: Iterable[Listening], loaded: LoadedConfig, made: Iterable[Sockets]) -> None:
    for one, sockets in zip(listening, made, strict=True):
        one.adopt(loaded, sockets)


def drop(made: Sockets) -> None:
    """Closes them."""
    for sockets in made.values():
        for sock in sockets:
            sock.close()


def _name(sock: socket.socket) -> tuple[str, int]:
    if isinstance(sock, UnixListener):
        return f"unix:{sock.path}", 0
    name = sock.getsockname()
    return name[0], name[1]
