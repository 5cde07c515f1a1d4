"""Tenants know nothing of each other: whatever the clients of one do, those of the other hear and are answered exactly
what they would be if they were alone in the world.

Random clients of two tenants, who have the same names, sessions, rooms and key ids, act in one relay. Each act is also
done in a relay where the other tenant's clients never were. All that anybody hears must be the same in both: messages,
presence, history, answers, refusals, closings. So there is no list of what must not leak that could be incomplete.

    HYPOTHESIS_PROFILE=thorough python -m pytest tests/security/test_tenants_apart.py     10,000 sequences
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relay.config.loader import LoadedConfig, load
from relay.delivery.outbox import Outbox
from relay.delivery.tick import Tick
from relay.errors import CloseCode, CloseReason, Rejected
from relay.front.place import Place, check_home, find_session
from relay.front.tenants import tenant_of
from relay.process.assembly import assemble
from relay.protocols.plain import Plain
from relay.protocols.relay_v1 import RelayV1Json
from relay.session.connection import Connection
from tests.sizes import examples
from tests.unit.delivery.kit import AtEase
from tests.unit.session.kit import heard

TENANTS: Final = ("acme", "globex")
SUBJECTS: Final = ("ann", "bob")
ROOMS: Final = ("chat:a", "chat:b", "direct:ann:bob", "feed:x", "nobody:serves", "bad room")
GRANTS: Final[tuple[dict[str, list[str]], ...]] = (
    {"join": ["*"], "publish": ["*"]},
    {"join": ["chat:*"], "publish": []},
    {"join": ["chat:a"], "publish": ["chat:a"], "join_at_start": ["chat:a"]},
    {},
)
SECRETS: Final = {name: f"the secret of {name}, which is long enough" for name in TENANTS}
JSON: Final = RelayV1Json()
PLAIN: Final = Plain()
NOW: Final = time.time()
HOSTS: Final = {"acme": "acme.test", "globex": "globex.test"}
CONFIG: Final = (
    "[server]\ninsecure_plaintext = true\n[limits]\nconnections_per_subject = 2\nrooms = 3\n"
    "[plugins.chat]\nrooms = 'chat:*'\nhistory = 5\npresence = true\nmax_members = 3\n"
    "[plugins.direct]\nrooms = 'direct:*'\n[plugins.feed]\nrooms = 'feed:*'\nhistory = 2\n"
) + "".join(
    f"[auth.issuers.{name}]\nissuer = 'https://{name}.example'\n"
    f"[[auth.issuers.{name}.keys]]\nalgorithm = 'HS256'\nkid = '1'\nsecret = '{secret}'\n"
    f"[tenants.{name}]\nissuers = ['{name}']\nhosts = ['{HOSTS[name]}']\n"
    for name, secret in SECRETS.items()
)


def loaded() -> LoadedConfig:
    with tempfile.TemporaryDirectory(prefix="relay-tenants-") as folder:
        path = Path(folder) / "config.toml"
        path.write_text(CONFIG)
        return load(path, environ={})


LOADED: Final = loaded()


def token(tenant: str, subject: str, grants: int) -> str:
    claims = {
        "sub": subject,
        "iss": f"https://{tenant}.example",
        "exp": NOW + 3600,
        "jti": "1",
        "relay": GRANTS[grants],
    }
    return jwt.encode(claims, SECRETS[tenant], "HS256", headers={"kid": "1"})


class Wire(AtEase):
    """A connection without a socket."""

    def __init__(self, world: World, protocol: Any) -> None:
        self.outbox = Outbox(world.channels, self, world.tick)
        self.protocol = protocol
        self.ended: list[str] = []

    def close(self, reason: CloseReason, farewell: bytes | None) -> None:
        self.ended.append(reason.text())

    def hold(self, reason: object, held: bool) -> None: ...


class World:
    """A relay. Its clients have the same numbers wherever the same acts are done."""

    def __init__(self) -> None:
        def no_work(job: object) -> None:
            raise AssertionError("no hook of these plugins is asynchronous")

        self.parts = assemble(LOADED, no_work)
        self.state = self.parts.state
        self.channels = self.parts.channels
        self.tick = Tick(lambda: None)
        self.tick.clock = lambda: 0.0
        self.clients: dict[tuple[str, int], Connection] = {}
        for tenant in self.parts.tenants.values():
            services, epochs = tenant.services, itertools.count(1)
            services.monotonic, services.wall = (lambda: 0.0), (lambda: NOW)
            services.bad_token = lambda address, code: None  # it counts by Trio's clock, and there is none here
            services.hub.clock = lambda: NOW  # type: ignore[misc]
            services.hub.new_epoch = lambda epochs=epochs: f"epoch {next(epochs)}"  # type: ignore[misc]

    def connect(self, of: str, number: int, text: str, home: str, host: str) -> Any:
        """As admission does it; the refusal, or None."""
        try:
            identity = self.state.rules.verify(text)
            tenant = tenant_of(self.state, identity, self.state.rules.hosts.owner(host), home)
            protocol = PLAIN if home else JSON
            check_home(identity, Place(protocol, home), tenant.services)
            tenant.count_in(identity)
        except Rejected as rejected:
            return rejected.status, rejected.code, rejected.reason, rejected.setting
        wire = Wire(self, protocol)
        connection = Connection(tenant.services, wire, identity, protocol, f"session {number}", home)
        self.clients[of, number] = connection
        connection.start(last=2 if home else 0)
        return None

    def lose(self, of: str, number: int) -> None:
        connection = self.clients.pop((of, number))
        connection.lost()
        self.parts.tenants[connection.identity.tenant].count_out(connection.identity)

    def find(self, of: str, number: int, session: str) -> Any:
        connection = self.clients[of, number]
        try:
            return find_session(connection.identity, Place(JSON, session=session), connection.services).session
        except Rejected as rejected:
            return rejected.status, rejected.code, rejected.reason, rejected.setting

    def told(self) -> dict[tuple[str, int], Any]:
        """What each client heard since this was last asked; those who heard nothing are left out."""
        found = {}
        for who, connection in self.clients.items():
            wire = connection.wire
            assert isinstance(wire, Wire)
            news = heard(wire.outbox, connection.protocol), wire.ended
            wire.ended = []
            if any(news):
                found[who] = news
        return found

    def rooms(self, tenant: str) -> Any:
        hub = self.parts.tenants[tenant].services.hub
        return {name: (dict(room.subjects), room.offset, len(room)) for name, room in hub.rooms.items()}


tenants = st.sampled_from(TENANTS)
rooms = st.sampled_from(ROOMS)
subjects = st.sampled_from(SUBJECTS)
grants = st.integers(0, len(GRANTS) - 1)
choices = st.integers(0, 1 << 16)


class Apart(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.shared = World()
        self.alone = {tenant: World() for tenant in TENANTS}
        self.numbers = dict.fromkeys(TENANTS, 0)
        self.said = dict.fromkeys(TENANTS, 0)

    def act(self, tenant: str, what: Any) -> Any:
        """Does it in both worlds; what comes of it, and what everybody hears of it, is the same in both."""
        shared, alone = what(self.shared), what(self.alone[tenant])
        assert shared == alone
        in_company, in_solitude = self.shared.told(), self.alone[tenant].told()
        assert {who for who in in_company if who[0] != tenant} == set(), "heard in another tenant"
        assert in_company == in_solitude
        return shared

    def one(self, tenant: str, choice: int) -> int | None:
        """One of the tenant's clients who are there."""
        there = sorted(number for of, number in self.shared.clients if of == tenant)
        return there[choice % len(there)] if there else None

    def say(self, tenant: str, choice: int, **request: Any) -> None:
        number = self.one(tenant, choice)
        if number is None:
            return

        def speak(world: World) -> None:
            connection = world.clients[tenant, number]
            if connection.home:
                connection.message(1, msgspec.json.encode(request.get("data", "")))
            else:
                connection.message(1, msgspec.json.encode({**request, "id": 7}))

        self.act(tenant, speak)

    @rule(tenant=tenants, subject=subjects, grants=grants, home=st.sampled_from(("", "", *ROOMS[:5])))
    def connect(self, tenant: str, subject: str, grants: int, home: str) -> None:
        number = self.numbers[tenant] = self.numbers[tenant] + 1
        text = token(tenant, subject, grants)
        self.act(tenant, lambda world: world.connect(tenant, number, text, home, HOSTS[tenant]))

    @rule(tenant=tenants, subject=subjects, grants=grants, home=st.sampled_from(("", *ROOMS[:5])))
    def knock_at_the_others_host(self, tenant: str, subject: str, grants: int, home: str) -> None:
        """The answer is the same for every room, and that of a token without the grant."""
        other = TENANTS[1 - TENANTS.index(tenant)]
        text, nothing = token(tenant, subject, grants), token(other, subject, len(GRANTS) - 1)
        refused = self.act(tenant, lambda world: world.connect(tenant, 0, text, home, HOSTS[other]))
        assert refused[:2] == (403, "forbidden")
        if home:
            assert refused == self.shared.connect(other, 0, nothing, home, HOSTS[other])

    @rule(tenant=tenants, choice=choices)
    def go(self, tenant: str, choice: int) -> None:
        number = self.one(tenant, choice)
        if number is not None:
            self.act(tenant, lambda world: world.lose(tenant, number))

    @rule(tenant=tenants, choice=choices, room=rooms, members=st.booleans(), last=st.integers(0, 3))
    def join(self, tenant: str, choice: int, room: str, members: bool, last: int) -> None:
        self.say(tenant, choice, t="join", room=room, members=members, last=last)

    @rule(tenant=tenants, choice=choices, room=rooms)
    def leave(self, tenant: str, choice: int, room: str) -> None:
        self.say(tenant, choice, t="leave", room=room)

    @rule(tenant=tenants, choice=choices, room=rooms, to=st.sampled_from((None, *SUBJECTS)), key=st.sampled_from("kl"))
    def publish(self, tenant: str, choice: int, room: str, to: str | None, key: str) -> None:
        self.said[tenant] += 1
        more = {} if to is None else {"to": to}
        self.say(tenant, choice, t="publish", room=room, data=f"{tenant} {self.said[tenant]}", key=key, **more)

    @rule(tenant=tenants, choice=choices, room=rooms)
    def look(self, tenant: str, choice: int, room: str) -> None:
        self.say(tenant, choice, t="presence", room=room)

    @rule(tenant=tenants, choice=choices, room=rooms, last=st.integers(1, 5))
    def remember(self, tenant: str, choice: int, room: str, last: int) -> None:
        self.say(tenant, choice, t="history", room=room, last=last)

    @rule(tenant=tenants, choice=choices, room=rooms)
    def call(self, tenant: str, choice: int, room: str) -> None:
        self.say(tenant, choice, t="call", room=room, method="m")

    @rule(tenant=tenants, signer=tenants, choice=choices, subject=subjects, grants=grants)
    def renew(self, tenant: str, signer: str, choice: int, subject: str, grants: int) -> None:
        self.say(tenant, choice, t="auth", token=token(signer, subject, grants))
        number = self.one(tenant, choice)
        if number is not None:
            assert self.shared.clients[tenant, number].identity.tenant == tenant

    @rule(tenant=tenants, choice=choices, number=st.integers(1, 6))
    def come_with_one_more_socket(self, tenant: str, choice: int, number: int) -> None:
        """For a session of that name, which may be there in both tenants, in one or in none."""
        mine = self.one(tenant, choice)
        if mine is not None:
            self.act(tenant, lambda world: world.find(tenant, mine, f"session {number}"))

    @rule(tenant=tenants, subject=subjects, room=rooms)
    def kick(self, tenant: str, subject: str, room: str) -> None:
        def throw_out(world: World) -> None:
            found = world.parts.tenants[tenant].services.hub.rooms.get(room)
            for peer in list(found.peers(subject)) if found is not None else ():
                found.kick(peer, "out")  # type: ignore[union-attr]

        self.act(tenant, throw_out)

    @rule(tenant=tenants, subject=subjects)
    def close_subject(self, tenant: str, subject: str) -> None:
        def close(world: World) -> None:
            for connection in list(world.parts.tenants[tenant].services.sessions.values()):
                if connection.subject == subject:
                    connection.close(CloseReason(CloseCode.FORBIDDEN, "closed by the operator"))

        self.act(tenant, close)

    @invariant()
    def rooms_are_as_they_would_be(self) -> None:
        for tenant in TENANTS:
            assert self.shared.rooms(tenant) == self.alone[tenant].rooms(tenant)
        assert self.shared.rooms("") == {}

    def teardown(self) -> None:
        for tenant, number in list(self.shared.clients):
            self.shared.lose(tenant, number)
        for tenant in self.shared.parts.tenants.values():
            assert (len(tenant.subjects), tenant.services.sessions) == (0, {})


Apart.TestCase.settings = settings(deadline=None, max_examples=examples(60), stateful_step_count=40)
TestApart = Apart.TestCase
