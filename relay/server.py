"""The life of the process: listen, serve, reload, drain.

    background   poller, timers, plugins' own tasks, asynchronous hooks, key refresh      ended last
      connections  those that wait for something have a task each; all get a deadline when draining
        listeners    ended first

Not here: what is put together and how (process/assembly), what a reload changes (process/reload), what is done for one
connection (front). The one rule: every task has a parent here, and ends before it does.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from relay import __version__
from relay.config.address import unix_path
from relay.config.schema import Config
from relay.front.api import Api
from relay.front.api_plugins import PluginRoutes
from relay.front.api_revocations import RevocationRoutes
from relay.front.api_routes import make_api
from relay.front.doors import unspoken_for
from relay.front.endpoints import Pages, serve_internal
from relay.front.plugin_pages import PluginPages
from relay.front.reception import Reception
from relay.net.listener import raise_descriptor_limit
from relay.net.poller import make_poller
from relay.net.transport import Transport
from relay.ops.memory import Cgroup
from relay.ops.systemd import notify
from relay.plugin.crew import run_all
from relay.process.assembly import assemble
from relay.process.clocks import run_alarm, run_lag, run_look, run_sweep, run_timers, run_wheel, watch_wall_clock
from relay.process.drain import drain
from relay.process.listening import Listening, adopt, prepare
from relay.process.pressure import MemoryWatch
from relay.process.reload import KeyRefresh, Load, reload
from relay.process.reload_plugin import reload_plugin

log = logging.getLogger("relay")

OTHER_FILES: Final = 64
"""Descriptors for all that is no client's: listeners, the internal one's clients, files, threads."""


@dataclass(slots=True)
class Running:
    """A relay that listens."""

    server: Server
    _stop: trio.Event = field(default_factory=trio.Event)

    def stop(self) -> None:
        """Begins to drain, as SIGTERM does."""
        self._stop.set()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each; of a Unix socket ("unix:PATH", 0)."""
        return self.server.listening[0].addresses

    @property
    def internal_addresses(self) -> list[tuple[str, int]]:
        return self.server.listening[1].addresses


class Server:
    """Everything of one relay, put together. Raises ConfigError with all that keeps it from starting."""

    def __init__(self, load: Load) -> None:
        self._load = load
        parts = self.parts = assemble(load(), self._spawn)
        self.config, self.counters, self.state = parts.config, parts.counters, parts.state
        self.hub, self.services = parts.hub, parts.services
        self._memory = MemoryWatch(self.state, self.services, Cgroup.of_this_process())
        self._keys = KeyRefresh()
        self._work: trio.Nursery | None = None
        self.listening = [Listening("server"), Listening("internal", backlog=64)]

    def _spawn(self, job: Callable[[], Awaitable[None]]) -> None:
        """Starts work for a connection that has to wait."""
        assert self._work is not None

        async def guarded() -> None:
            try:
                await job()
            except Exception:
                log.exception("bug in a connection's work")

        self._work.start_soon(guarded)

    async def run(self, on_ready: Callable[[Running], None] | None = None) -> None:
        """Serves until stopped, then drains. Raises ConfigError if it cannot listen."""
        _warn(self.config)
        self.state.descriptors = _descriptors(self.config)
        loaded = self.state.rules.loaded
        adopt(self.listening, loaded, prepare(self.listening, loaded))
        try:
            await self._run(on_ready)
        finally:
            for listening in self.listening:
                listening.close()

    async def _run(self, on_ready: Callable[[Running], None] | None) -> None:
        config = self.config
        poller = make_poller(config.server.poller, trio.current_time)
        pages = Pages(self.state, self.counters, self._api())
        pages.plugin_pages = PluginPages(self.state, pages.guard)
        pages.meters = lambda: [
            (plugin.title, meter) for plugin in self.parts.plugins for meter in plugin.handle.meters.all.values()
        ]
        reception = Reception(self.state, self.services, poller, pages.public())
        running = Running(self)
        with self.parts.watchdog:
            async with trio.open_nursery() as background:
                self._work = background
                background.start_soon(poller.run)
                background.start_soon(run_timers, self.services.timers)
                background.start_soon(run_wheel, self.services.wheel)
                background.start_soon(run_lag, self.state.lag)
                background.start_soon(run_alarm, self.parts.every_counters)
                background.start_soon(run_sweep, self.parts.hubs)
                if self.parts.store is not None:
                    background.start_soon(self.parts.store.run)
                background.start_soon(run_look, self.parts.revoking.look)
                background.start_soon(run_look, self._memory.look)
                background.start_soon(watch_wall_clock, time.time, self.state.sessions)
                await background.start(run_all, self.parts.plugins)
                self._keys.begin(background, self.state.rules)
                async with trio.open_nursery() as connections:
                    connections.start_soon(reception.run, connections)
                    async with trio.open_nursery() as listeners:
                        public, private = self.listening
                        public.begin(listeners, reception.take, reception.gate.may_accept, self._turned_away)
                        router = pages.internal()
                        private.begin(
                            listeners,
                            lambda client, address: connections.start_soon(
                                self._serve_internal, client, address, router
                            ),
                            trio.lowlevel.checkpoint,
                        )
                        gc.collect()
                        gc.freeze()  # what lives as long as the process need not be looked at again
                        log.info(
                            "listening",
                            extra={
                                "fields": {
                                    "addresses": _shown(running.addresses),
                                    "internal": _shown(running.internal_addresses),
                                    "version": __version__,
                                }
                            },
                        )
                        notify("READY=1")
                        if on_ready is not None:
                            on_ready(running)
                        await running._stop.wait()
                        notify("STOPPING=1")
                        listeners.cancel_scope.cancel()
                    reception.close()
                    connections.start_soon(drain, self.state, self.services.config.server, connections)
                self.parts.tell_decisions()
                background.cancel_scope.cancel()
        log.info("stopped")

    def _api(self) -> Api:
        api = make_api(self.state, self.services)
        RevocationRoutes(self.parts.revoking).add_to(api)
        reload_one = partial(reload_plugin, self.parts, self._load)
        PluginRoutes(lambda: self.parts.plugins, reload_one).add_to(api)
        return api

    def _turned_away(self, address: str) -> None:
        """A client for which no descriptor is left; it was not heard."""
        self.counters.rejected["full"] += 1
        why = "this process may not open more files (LimitNOFILE)"
        self.services.decisions.add("rejected", "full", setting="limits.max_connections", address=address, detail=why)

    async def _serve_internal(self, client: socket.socket, address: str, router: object) -> None:
        try:
            await serve_internal(Transport(client, unsent_bytes=65536), address, router, self.state)  # type: ignore[arg-type]
        except OSError:
            client.close()
        except Exception:
            log.exception("bug while serving an internal request")

    def reload(self) -> bool:
        """Reads the configuration, keys and certificates again. On any error all stays as it was, and the log says
        why.
        """
        return reload(self.parts, self._load, self._keys, self.listening)


def _descriptors(config: Config) -> int:
    """For how many connections this process may open files; a warning where that is less than what is configured.

    Those on their way in have descriptors too, but a quarter of them all at most is kept for these: the last ones are
    turned away by `accept_from`.
    """
    limits = config.limits
    wanted = limits.max_connections + limits.pending_handshakes + OTHER_FILES
    have = raise_descriptor_limit(wanted)
    if have >= wanted:
        return sys.maxsize
    left = max(1, have - OTHER_FILES - min(limits.pending_handshakes, have // 4))
    log.warning(
        "the limit of open files is lower than limits.max_connections needs",
        extra={
            "fields": {
                "open_files": have, "needed": wanted, "connections": left, "setting": "limits.max_connections",
            }
        },
    )  # fmt: skip
    return left


def _warn(config: Config) -> None:
    """Of what can be served with, and should not."""
    if config.server.insecure_plaintext:
        log.warning(
            "serving without TLS: tokens and messages can be read on the way",
            extra={"fields": {"setting": "server.insecure_plaintext"}},
        )
    if unspoken_for(config):
        log.warning(
            "limits by address do not hold for whoever comes through a Unix socket",
            extra={"fields": {"setting": "proxy.trusted"}},
        )


def _shown(addresses: list[tuple[str, int]]) -> str:
    def shown(host: str, port: int) -> str:
        if unix_path(host) is not None:
            return host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    return ", ".join(shown(*address) for address in addresses)


async def _obey_signals(
    signals: AsyncIterator[int], server: Server, running: Running, stop_now: Callable[[], None]
) -> None:
    """SIGTERM, SIGINT: drain, and a second time: stop now. SIGHUP: reload. SIGUSR2: drain."""
    stopping = False
    async for number in signals:
        if number == signal.SIGHUP:
            notify("RELOADING=1")
            server.reload()
            notify("READY=1")
        elif not stopping:
            stopping = True
            running.stop()
        else:
            log.warning("stopping at once")
            stop_now()


async def run(load: Load, *, on_ready: Callable[[Running], None] | None = None) -> None:
    """Serves what `load` describes until SIGTERM or SIGINT, then drains. Raises ConfigError."""
    server = Server(load)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    with trio.open_signal_receiver(*numbers) as signals:  # before anybody is told that we are ready: none may be missed
        await _run(server, signals, on_ready)


async def _run(server: Server, signals: AsyncIterator[int], on_ready: Callable[[Running], None] | None) -> None:
    async with trio.open_nursery() as nursery:

        def ready(running: Running) -> None:
            nursery.start_soon(_obey_signals, signals, server, running, nursery.cancel_scope.cancel)
            if on_ready is not None:
                on_ready(running)

        await server.run(ready)
        nursery.cancel_scope.cancel()
