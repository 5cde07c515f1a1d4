"""The life of the process: listen, serve, reload, drain.

    background   poller, timers, plugins' own tasks, asynchronous hooks, key refresh      ended last
      connections  one task each; gets a deadline when draining
        listeners    ended first

Not here: what is done for one connection (front). The one rule: every task has a parent here, and ends before it does.
"""

from __future__ import annotations

import gc
import logging
import random
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import trio

from relay import __version__
from relay.auth.tokens import Identity
from relay.config.loader import LoadedConfig
from relay.counters import Counters
from relay.delivery.channels import Channels
from relay.errors import CloseCode, CloseReason, ConfigError, ConfigProblem
from relay.front.admission import Admission
from relay.front.endpoints import Pages, serve_internal
from relay.front.state import Rules, State, located
from relay.limits.counts import AddressLimits, Counts
from relay.net.listener import accept_from, check_congestion, open_listeners, raise_descriptor_limit
from relay.net.poller import make_poller
from relay.net.tls import Certificates
from relay.net.transport import Transport
from relay.ops.systemd import notify
from relay.plugin.loader import build_router, load_plugins
from relay.plugin.supervisor import Supervised, run_all, supervise
from relay.plugin.watchdog import Watchdog
from relay.rooms.hub import Hub
from relay.session import requests
from relay.session.services import Services
from relay.session.timers import Timers, Wheel

log = logging.getLogger("relay")

ALARM_EVERY = 10.0  # seconds

Load = Callable[[], LoadedConfig]


@dataclass(slots=True)
class Running:
    """A relay that listens. Addresses are (host, port)."""

    addresses: list[tuple[str, int]]
    internal_addresses: list[tuple[str, int]]
    server: Server
    _stop: trio.Event = field(default_factory=trio.Event)

    def stop(self) -> None:
        """Begins to drain, as SIGTERM does."""
        self._stop.set()


class Server:
    """Everything of one relay, put together. Raises ConfigError with all that keeps it from starting."""

    def __init__(self, load: Load) -> None:
        self._load = load
        loaded = load()
        config = loaded.config
        self.config = config
        self.counters = Counters()
        self.channels = Channels(config.channels)
        problems = []
        self.state: State
        self.plugins: list[Supervised] = []
        self.watchdog = Watchdog(self.counters, config.supervision.stall)
        self.hub = Hub(
            self.channels,
            lambda room: None,
            clock=time.time,
            new_epoch=lambda: secrets.token_urlsafe(6),
            part_bytes=config.outbox.part_bytes,
        )
        try:
            rules = Rules(loaded)
        except ConfigError as error:
            problems += located(error, loaded)
        try:
            certificates = None if config.server.insecure_plaintext else Certificates(config.tls, loaded.base)
        except ConfigError as error:
            problems += located(error, loaded)
        try:
            directory = loaded.resolve(config.supervision.directory)
            found = load_plugins(loaded.plugin_tables, directory, self.channels, loaded.where)
            self.plugins = supervise(
                found,
                self.hub,
                counters=self.counters,
                watchdog=self.watchdog,
                supervision=config.supervision,
                hook_timeout=config.timeouts.hook,
            )
        except ConfigError as error:
            problems += error.problems
        if problem := check_congestion(config.outbox.congestion):
            problems.append(ConfigProblem(loaded.where("outbox.congestion"), "outbox.congestion", problem))
        if problems:
            raise ConfigError(problems)
        self.hub.router = build_router(self.plugins)
        self.hub.on_removed = requests.removed  # type: ignore[assignment]
        limits = config.limits
        self.state = State(rules, certificates, AddressLimits(limits), Counts(limits.connections_per_subject))
        self.services = Services(
            config,
            self.hub,
            self.channels,
            self.counters,
            Timers(),
            Wheel(config.websocket.heartbeat, config.websocket.heartbeat_timeout),
            time.time,
            trio.current_time,
            self._spawn,
            self._verify,
            rules.message_rate,
            rules.byte_rate,
            __version__,
        )
        self._work: trio.Nursery | None = None
        self._background: trio.Nursery | None = None
        self._key_scope: trio.CancelScope | None = None

    def _verify(self, token: str) -> Identity:
        """By the rules in force now: a reload swaps them."""
        return self.state.rules.verify(token)

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
        config = self.config
        wanted = config.limits.max_connections + config.limits.pending_handshakes + 64
        have = raise_descriptor_limit(wanted)
        if have < wanted:
            log.warning(
                "the limit of open files is lower than limits.max_connections needs",
                extra={"fields": {"open_files": have, "needed": wanted, "setting": "limits.max_connections"}},
            )
        if config.server.insecure_plaintext:
            log.warning(
                "serving without TLS: tokens and messages can be read on the way",
                extra={"fields": {"setting": "server.insecure_plaintext"}},
            )
        public = open_listeners(config.server.listen, config.server.backlog, "server.listen")
        try:
            internal = open_listeners(config.internal.listen, 64, "internal.listen")
        except ConfigError:
            for sock in public:
                sock.close()
            raise
        poller = make_poller(config.server.poller, trio.current_time)
        pages = Pages(self.state, self.counters, self.hub)
        admission = Admission(self.state, self.services, poller, poller.tick, pages.public())
        running = Running([_name(sock) for sock in public], [_name(sock) for sock in internal], self)
        with self.watchdog:
            async with trio.open_nursery() as background:
                self._background = self._work = background
                background.start_soon(poller.run)
                background.start_soon(self._run_timers)
                background.start_soon(self._run_wheel)
                background.start_soon(self._run_alarm)
                await background.start(run_all, self.plugins)
                self._start_key_refresh()
                async with trio.open_nursery() as connections:
                    async with trio.open_nursery() as listeners:
                        for sock in public:
                            listeners.start_soon(
                                accept_from,
                                sock,
                                lambda client, address: connections.start_soon(admission.serve, client, address),
                                admission.may_accept,
                            )
                        router = pages.internal()
                        for sock in internal:
                            listeners.start_soon(
                                accept_from,
                                sock,
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
                    connections.start_soon(self._drain, connections)
                background.cancel_scope.cancel()
        log.info("stopped")

    async def _serve_internal(self, client: socket.socket, address: str, router: object) -> None:
        try:
            await serve_internal(Transport(client, unsent_bytes=65536), address, router, self.state)  # type: ignore[arg-type]
        except OSError:
            client.close()
        except Exception:
            log.exception("bug while serving an internal request")

    async def _drain(self, connections: trio.Nursery) -> None:
        """Tells everybody to come back elsewhere or later, each at another moment, and waits until they have gone."""
        config = self.services.config.server
        self.state.draining = True
        connections.cancel_scope.deadline = trio.current_time() + config.drain_timeout
        links = list(self.state.links)
        log.info("draining", extra={"fields": {"connections": len(links), "seconds": config.drain_timeout}})
        for number, link in enumerate(links):
            after = round(random.uniform(0, config.drain_spread), 1)  # noqa: S311 - not a secret
            link.connection.close(
                CloseReason(
                    CloseCode.GOING_AWAY, "the server is going away", reconnect_after=after, reconnect_jitter=1.0
                )
            )
            if number % 100 == 99:
                await trio.lowlevel.checkpoint()

    def reload(self) -> bool:
        """Reads the configuration, keys and certificates again. On any error all stays as it was, and the log says
        why.
        """
        try:
            loaded = self._load()
            rules = Rules(loaded)
            if self.state.certificates is not None:
                self.state.certificates.reload(loaded.config.tls)
        except ConfigError as error:
            self.counters.reloads["failed"] += 1
            log.error(
                "reload refused, everything stays as it was",
                extra={"fields": {"problems": [str(one) for one in error.problems]}},
            )
            return False
        if rules.jwks is not None and self.state.rules.jwks is not None:
            rules.jwks.inherit(self.state.rules.jwks)  # valid users stay valid if the issuer is down just now
        old, new = self.config, loaded.config
        kept = [
            name
            for name in ("server", "internal", "channels", "supervision", "plugins", "outbox")
            if getattr(old, name) != getattr(new, name)
        ]
        self.state.rules = rules
        self.services.config = new
        self.services.message_rate = rules.message_rate
        self.services.byte_rate = rules.byte_rate
        self.state.addresses.adopt(new.limits)
        self.state.subjects.limit = new.limits.connections_per_subject
        self._start_key_refresh()
        self.counters.reloads["ok"] += 1
        log.info("reloaded", extra={"fields": {"needs_restart": kept}})
        return True

    def _start_key_refresh(self) -> None:
        if self._key_scope is not None:
            self._key_scope.cancel()
            self._key_scope = None
        fetcher = self.state.rules.fetcher
        if fetcher is not None and self._background is not None:
            scope = self._key_scope = trio.CancelScope()

            async def keep_fresh() -> None:
                with scope:
                    await fetcher.keep_fresh()

            self._background.start_soon(keep_fresh)

    async def _run_timers(self) -> None:
        timers = self.services.timers
        changed = trio.Event()

        def wake() -> None:
            changed.set()

        timers.changed = wake
        while True:
            due = timers.next()
            with trio.move_on_at(float("inf") if due is None else due):
                await changed.wait()
            changed = trio.Event()
            try:
                timers.run(trio.current_time())
            except Exception:
                log.exception("bug in a timer")

    async def _run_wheel(self) -> None:
        wheel = self.services.wheel
        if not wheel.slots:
            return
        next_turn = trio.current_time()
        while True:
            next_turn += wheel.step
            await trio.sleep_until(next_turn)
            try:
                wheel.turn(trio.current_time())
            except Exception:
                log.exception("bug in a heartbeat")

    async def _run_alarm(self) -> None:
        """Says when more than one of a hundred urgent messages waited longer than the config promises."""
        counters = self.counters
        seen: dict[str, tuple[int, int]] = {}
        while True:
            await trio.sleep(ALARM_EVERY)
            for channel, delays in counters.urgent_delays.items():
                count, late = sum(delays.buckets), counters.urgent_late[channel]
                old_count, old_late = seen.get(channel, (0, 0))
                seen[channel] = count, late
                if (late - old_late) * 100 > count - old_count:
                    setting = "outbox.urgent_p99_ms"
                    fields = {"channel": channel, "late": late - old_late, "of": count - old_count, "setting": setting}
                    log.warning("urgent messages are late", extra={"fields": fields})


def _shown(addresses: list[tuple[str, int]]) -> str:
    return ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses)


def _name(sock: socket.socket) -> tuple[str, int]:
    name = sock.getsockname()
    return name[0], name[1]


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
