"""Which tokens are good no more, although they are genuine and their time is not over.

Pure: the caller brings `now`, Unix time in seconds. Not here: where entries come from and what becomes of live sessions
(front/revoking), files. The one rule: an entry holds until its own time is over or it is taken back; another one never
shortens it.

An entry has conditions, and a token is revoked when it meets all of them:

    jti             the token of that name (RFC 7519 section 4.1.7)
    subject         tokens of that subject
    issuer          tokens of that issuer (`iss`)
    tenant          tokens of that tenant, "" being the one without a name
    issued_before   tokens whose `iat` is before that time; one without `iat` counts as issued long ago
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final, TypeAlias

import msgspec

from relay.auth.refusals import refuse
from relay.auth.tokens import MAX_TEXT_BYTES, MAX_TIME, Identity
from relay.errors import RelayError

Conditions: TypeAlias = tuple[str | None, str | None, str | None, str | None, float | None]
"""jti, subject, issuer, tenant, issued_before: what tells entries apart."""

FILE_SETTING: Final = "auth.revocation_file"
FULL_SETTING: Final = "auth.max_revocations"
PROBLEMS_TOLD: Final = 20  # of one file


class RevocationsFull(RelayError):
    """There are as many entries as there may be; `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        super().__init__(f"there are {capacity} revocations already, which is the most [{FULL_SETTING}]")
        self.capacity = capacity


class BadRevocations(RelayError):
    """Lines that are no entries: (line number from 1, what is wrong with it)."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("; ".join(f"line {line}: {what}" for line, what in problems))
        self.problems = problems


class Revocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One entry. `until` is when it is forgotten, Unix seconds; None: when it is taken back."""

    jti: str | None = None
    subject: str | None = None
    issuer: str | None = None
    tenant: str | None = None
    issued_before: float | None = None
    until: float | None = None

    @property
    def conditions(self) -> Conditions:
        return self.jti, self.subject, self.issuer, self.tenant, self.issued_before

    @property
    def end(self) -> float:
        return math.inf if self.until is None else self.until

    def covers(self, who: Identity) -> bool:
        """Whether a token is revoked by this."""
        return (
            (self.jti is None or self.jti == who.jti)
            and (self.subject is None or self.subject == who.subject)
            and (self.issuer is None or self.issuer == who.issuer)
            and (self.tenant is None or self.tenant == who.tenant)
            and (self.issued_before is None or who.issued < self.issued_before)
        )

    def problem(self) -> str | None:
        """Why this cannot be an entry, as a sentence; None when it can."""
        if self.conditions == (None, None, None, None, None):
            return "it names no token: jti, subject, issuer, tenant or issued_before is needed"
        for name in ("jti", "subject", "issuer", "tenant"):
            text = getattr(self, name)
            if text is None or 0 < len(text) <= MAX_TEXT_BYTES // 4:  # which it is nearly always
                continue
            if not text and name == "tenant":
                continue
            if not text or len(text.encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
                return f"{name} is not a text of 1 to {MAX_TEXT_BYTES} bytes"
        for name in ("issued_before", "until"):
            time = getattr(self, name)
            if time is not None and not 0 <= time < MAX_TIME:
                return f"{name} is not a time in Unix seconds"
        return None


def bounded(entry: Revocation, now: float, lifetime: float) -> Revocation:
    """The entry without time that is of no use: no token lives longer than `lifetime` seconds (0: any).

    Who may yet be issued tokens stays revoked as long as was asked: a subject, an issuer or a tenant, with any time of
    issue.
    """
    if not lifetime:
        return entry
    named = entry.jti is not None or entry.issued_before is not None
    last = max(now, entry.issued_before or now) + lifetime
    if entry.until is None or (named and entry.until > last):
        return msgspec.structs.replace(entry, until=last)
    return entry


class Entries:
    """Entries of one origin, and the way to those that may cover a token: by jti, by subject, and the few others."""

    __slots__ = ("_all", "_by_jti", "_by_subject", "_ends", "_wide")

    def __init__(self, entries: Iterable[Revocation] = ()) -> None:
        self._all: dict[Conditions, Revocation] = {}
        self._by_jti: dict[str, list[Revocation]] = {}
        self._by_subject: dict[str, list[Revocation]] = {}
        self._wide: list[Revocation] = []
        self._ends: list[tuple[float, int, Conditions]] = []
        for entry in entries:
            self.add(entry)

    def add(self, entry: Revocation) -> None:
        """Adds one; of two with the same conditions, the one that holds longer counts."""
        conditions = entry.conditions
        known = self._all.get(conditions)
        if known is not None:
            if known.end >= entry.end:
                return
            self._place(known).remove(known)
        self._all[conditions] = entry
        self._place(entry).append(entry)
        if entry.until is not None:
            heapq.heappush(self._ends, (entry.until, id(conditions), conditions))
            if len(self._ends) > 2 * len(self._all) + 64:  # extended again and again: what is superseded goes
                self._ends = [(e.until, id(c), c) for c, e in self._all.items() if e.until is not None]
                heapq.heapify(self._ends)

    def remove(self, conditions: Conditions) -> Revocation | None:
        """Takes one back; None: there is none."""
        entry = self._all.pop(conditions, None)
        if entry is None:
            return None
        place = self._place(entry)
        place.remove(entry)
        if not place:
            if entry.jti is not None:
                del self._by_jti[entry.jti]
            elif entry.subject is not None:
                del self._by_subject[entry.subject]
        return entry

    def find(self, who: Identity, now: float) -> Revocation | None:
        """An entry that covers a token."""
        if not self._all:
            return None
        if who.jti is not None and (found := _first(self._by_jti.get(who.jti, ()), who, now)) is not None:
            return found
        return _first(self._by_subject.get(who.subject, ()), who, now) or _first(self._wide, who, now)

    def forget(self, now: float) -> list[Revocation]:
        """Drops those whose time is over, and returns them."""
        gone = []
        while self._ends and self._ends[0][0] <= now:
            conditions = heapq.heappop(self._ends)[2]
            entry = self._all.get(conditions)
            if entry is not None and entry.end <= now:
                self.remove(conditions)
                gone.append(entry)
        return gone

    def get(self, conditions: Conditions) -> Revocation | None:
        return self._all.get(conditions)

    def _place(self, entry: Revocation) -> list[Revocation]:
        if entry.jti is not None:
            return self._by_jti.setdefault(entry.jti, [])
        if entry.subject is not None:
            return self._by_subject.setdefault(entry.subject, [])
        return self._wide

    def __iter__(self) -> Iterator[Revocation]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)


def _first(entries: Iterable[Revocation], who: Identity, now: float) -> Revocation | None:
    return next((entry for entry in entries if entry.covers(who) and entry.end > now), None)


class Revocations:
    """All that is revoked: by what was said here (`made`) and by a file (`filed`), together at most `capacity` entries.

    `on_change` is told of each entry that is made here, and taken back: other nodes must hear of it.
    """

    __slots__ = ("capacity", "filed", "made", "on_change")

    def __init__(self, capacity: int = 100_000) -> None:
        self.capacity = capacity
        self.made: Final = Entries()
        self.filed = Entries()
        self.on_change: Callable[[Revocation, bool], None] = lambda entry, revoked: None

    def add(self, entry: Revocation) -> None:
        """Raises RevocationsFull, ValueError for what is no entry."""
        if problem := entry.problem():
            raise ValueError(problem)
        filed = self.filed.get(entry.conditions)
        takes_its_place = filed is not None and filed.end <= entry.end
        if self.made.get(entry.conditions) is None and not takes_its_place and len(self) >= self.capacity:
            raise RevocationsFull(self.capacity)
        self.made.add(entry)
        if takes_its_place:
            self.filed.remove(entry.conditions)
        self.on_change(entry, True)

    def undo(self, conditions: Conditions) -> bool:
        """Takes an entry back, whoever made it; one of the file comes again if it stays in the file. False: there is
        none.
        """
        found = [entries.remove(conditions) for entries in (self.made, self.filed)]
        entry = next((entry for entry in found if entry is not None), None)
        if entry is None:
            return False
        self.on_change(entry, False)
        return True

    def replace_file(self, entries: Entries) -> None:
        """What the file says now, in place of what it said; what was made here need not be kept twice. Raises
        RevocationsFull; then the old stays.
        """
        for made in self.made:
            filed = entries.get(made.conditions)
            if filed is not None and filed.end <= made.end:
                entries.remove(made.conditions)
        if len(self.made) + len(entries) > self.capacity:
            raise RevocationsFull(self.capacity)
        self.filed = entries

    def find(self, who: Identity, now: float) -> Revocation | None:
        """The entry that revokes a token; None: it is good."""
        return self.made.find(who, now) or self.filed.find(who, now)

    def check(self, who: Identity, now: float) -> None:
        """Raises Rejected 401 `token_revoked`."""
        if self.made.find(who, now) is not None:
            raise refuse("token_revoked")
        if self.filed.find(who, now) is not None:
            raise refuse("token_revoked", setting=FILE_SETTING)

    def forget(self, now: float) -> int:
        """Drops what is over; how many that were."""
        return len(self.made.forget(now)) + len(self.filed.forget(now))

    def __iter__(self) -> Iterator[Revocation]:
        """Each once, as it holds."""
        both = (entry for entry in self.filed if self.made.get(entry.conditions) is None)
        return chain((self._longer(entry) for entry in self.made), both)

    def _longer(self, made: Revocation) -> Revocation:
        filed = self.filed.get(made.conditions)
        return filed if filed is not None and filed.end > made.end else made

    def __len__(self) -> int:
        return len(self.made) + len(self.filed)


# The file: one JSON object a line.

_decoder: Final = msgspec.json.Decoder(Revocation)
_encoder: Final = msgspec.json.Encoder()


def line_of(entry: Revocation) -> str:
    """An entry as it stands in a file, without the end of the line."""
    return _encoder.encode(entry).decode()


def entry_in(line: str) -> Revocation | None:
    """The entry in a line; None for an empty one and a comment (#). Raises ValueError, which quotes no value."""
    line = line.strip()
    if not line or line[0] == "#":
        return None
    try:
        entry = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if problem := entry.problem():
        raise ValueError(problem)
    return entry


def entries_in(text: str, now: float, capacity: int) -> Entries:
    """The entries of a file that are not over. Raises BadRevocations with the first problems, RevocationsFull."""
    entries = Entries()
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            entry = entry_in(line)
        except ValueError as error:
            problems.append((number, str(error)))
            if len(problems) == PROBLEMS_TOLD:
                break
            continue
        if entry is not None and entry.end > now:
            entries.add(entry)
            if len(entries) > capacity:
                raise RevocationsFull(capacity)
    if problems:
        raise BadRevocations(problems)
    return entries


def without(text: str, conditions: Conditions | None, now: float) -> str:
    """A file's text without an entry, and without those that are over; all else stays as it stands."""
    kept = []
    for line in text.split("\n"):
        try:
            entry = entry_in(line)
        except ValueError:
            entry = None
        if entry is None or (entry.conditions != conditions and entry.end > now):
            kept.append(line)
    return "\n".join(kept)
