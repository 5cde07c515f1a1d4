"""Which tokens an entry covers, how long it holds, how many there may be, and how they stand in a file."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from relay.auth.grants import compile_grants
from relay.auth.revocation import (
    BadRevocations,
    Revocation,
    Revocations,
    RevocationsFull,
    bounded,
    entries_in,
    entry_in,
    line_of,
    without,
)
from relay.auth.tokens import Identity
from relay.errors import Rejected
from tests.sizes import examples
from tests.unit.auth.kit import NOW

GRANTS = compile_grants({}, "ann")


def who(
    subject: str = "ann",
    jti: str | None = None,
    issuer: str | None = None,
    issued: float = -math.inf,
    tenant: str = "",
) -> Identity:
    return Identity(subject, NOW + 600, jti, issuer, GRANTS, b"", issued=issued, tenant=tenant)


def revoked(entry: Revocation, token: Identity, now: float = NOW) -> bool:
    """Asked both ways: of the entry, and of a list that has it among others."""
    listed = Revocations()
    for other in ("x", "y"):
        listed.add(Revocation(jti=other))
        listed.add(Revocation(subject=other))
        listed.add(Revocation(issuer=other))
    listed.add(entry)
    found = listed.find(token, now)
    assert found in (None, entry)
    return found is not None


@pytest.mark.parametrize(
    ("conditions", "covered", "spared"),
    [
        ({"jti": "1"}, [who(jti="1"), who("bob", jti="1")], [who(), who(jti="2")]),
        ({"subject": "ann"}, [who(), who(jti="1", issued=NOW)], [who("bob"), who("ann2")]),
        ({"issuer": "i"}, [who(issuer="i"), who("bob", issuer="i")], [who(), who(issuer="j")]),
        (
            {"issued_before": 100.0},
            [who(issued=99.9), who("bob"), who(issued=-1)],
            [who(issued=100.0), who(issued=101)],
        ),
        ({"subject": "ann", "issued_before": 100.0}, [who(issued=99), who()], [who("bob"), who(issued=100)]),
        ({"issuer": "i", "issued_before": 100.0}, [who(issuer="i")], [who(), who(issuer="i", issued=100)]),
        ({"issuer": "i", "subject": "ann"}, [who(issuer="i")], [who(), who("bob", issuer="i")]),
        ({"tenant": "t"}, [who(tenant="t"), who("bob", tenant="t")], [who(), who(tenant="u")]),
        ({"tenant": "", "subject": "ann"}, [who()], [who(tenant="t"), who("bob")]),
        ({"issuer": "i", "jti": "1"}, [who(issuer="i", jti="1")], [who(jti="1"), who(issuer="i")]),
    ],
)
def test_a_token_is_revoked_when_it_meets_all_conditions(
    conditions: dict[str, Any], covered: list[Identity], spared: list[Identity]
) -> None:
    entry = Revocation(**conditions)
    assert [revoked(entry, token) for token in covered] == [True] * len(covered)
    assert [revoked(entry, token) for token in spared] == [False] * len(spared)


def test_an_entry_holds_until_its_time_is_over() -> None:
    entry = Revocation(subject="ann", until=NOW + 10)
    assert revoked(entry, who(), NOW + 9.9)
    assert not revoked(entry, who(), NOW + 10)


def test_what_is_over_is_forgotten() -> None:
    listed = Revocations()
    for number in range(10):
        listed.add(Revocation(jti=str(number), until=NOW + number))
    listed.add(Revocation(jti="for ever"))
    assert listed.forget(NOW + 4.5) == 5
    assert len(listed) == 6
    assert listed.forget(NOW + 1e9) == 5
    assert [entry.jti for entry in listed] == ["for ever"]


def test_an_entry_is_made_longer_and_never_shorter_by_another() -> None:
    listed = Revocations()
    for until in (100.0, 300.0, 200.0):
        listed.add(Revocation(subject="ann", until=until))
    assert [entry.until for entry in listed] == [300.0]
    assert listed.forget(250.0) == 0
    listed.add(Revocation(subject="ann"))
    assert listed.forget(1e9) == 0
    assert len(listed) == 1


def test_an_entry_that_is_made_longer_again_and_again_takes_no_more_memory() -> None:
    listed = Revocations()
    for number in range(10_000):
        listed.add(Revocation(subject="ann", until=NOW + number))
    assert len(listed.made._ends) < 100


def test_there_are_no_more_than_there_may_be() -> None:
    listed = Revocations(3)
    for jti in "abc":
        listed.add(Revocation(jti=jti, until=NOW))
    listed.add(Revocation(jti="a", until=NOW + 1))
    with pytest.raises(RevocationsFull, match=r"3 revocations already.*auth\.max_revocations"):
        listed.add(Revocation(jti="d"))
    listed.forget(NOW)
    listed.add(Revocation(jti="d"))
    assert {entry.jti for entry in listed} == {"a", "d"}


def test_what_is_taken_back_revokes_nothing_any_more() -> None:
    listed = Revocations()
    told: list[tuple[str | None, bool]] = []
    listed.on_change = lambda entry, revoked: told.append((entry.subject, revoked))
    entry = Revocation(subject="ann", issued_before=5.0)
    listed.add(entry)
    listed.add(Revocation(subject="ann", issued_before=6.0))
    assert listed.undo(entry.conditions)
    assert not listed.undo(entry.conditions)
    assert listed.find(who(issued=4.0), NOW) is not None, "the other one is as it was"
    assert listed.undo(("ann", None, None, None, 6.0)) is False
    assert listed.undo((None, "ann", None, None, 6.0))
    assert listed.find(who(issued=4.0), NOW) is None
    assert told == [("ann", True), ("ann", True), ("ann", False), ("ann", False)]


def test_the_file_and_what_was_made_here_hold_side_by_side() -> None:
    listed = Revocations(3)
    listed.add(Revocation(jti="made", until=NOW + 5))
    listed.replace_file(entries_in('{"jti": "filed"}\n{"jti": "made", "until": 1790000005}', NOW, 3))
    assert len(listed) == 2, "what is in both is kept once"
    assert listed.find(who(jti="filed"), NOW)
    listed.replace_file(entries_in('{"jti": "made", "until": 1790000009}', NOW, 3))
    assert listed.find(who(jti="filed"), NOW) is None
    assert [(entry.jti, entry.until) for entry in listed] == [("made", NOW + 9)]
    with pytest.raises(RevocationsFull):
        listed.replace_file(entries_in('{"jti": "a"}\n{"jti": "b"}\n{"jti": "c"}', NOW, 3))
    assert listed.undo(("made", None, None, None, None))
    assert list(listed) == []


def test_a_refusal_names_the_setting_where_the_file_is_behind_it() -> None:
    listed = Revocations()
    listed.check(who(), NOW)
    listed.replace_file(entries_in('{"subject": "ann"}', NOW, 3))
    with pytest.raises(Rejected) as filed:
        listed.check(who(), NOW)
    assert (filed.value.code, filed.value.status, filed.value.setting) == ("token_revoked", 401, "auth.revocation_file")
    listed.add(Revocation(subject="ann"))
    with pytest.raises(Rejected) as made:
        listed.check(who(), NOW)
    assert (made.value.code, made.value.setting) == ("token_revoked", None)


@pytest.mark.parametrize(
    ("entry", "lifetime", "until"),
    [
        (Revocation(jti="1"), 0.0, None),
        (Revocation(jti="1"), 60.0, NOW + 60),
        (Revocation(jti="1", until=NOW + 10), 60.0, NOW + 10),
        (Revocation(jti="1", until=NOW + 1000), 60.0, NOW + 60),
        (Revocation(jti="1", until=NOW + 1000), 0.0, NOW + 1000),
        (Revocation(subject="ann"), 60.0, NOW + 60),
        (Revocation(subject="ann", until=NOW + 1000), 60.0, NOW + 1000),
        (Revocation(subject="ann", issued_before=NOW - 5, until=NOW + 1000), 60.0, NOW + 60),
        (Revocation(issued_before=NOW + 100), 60.0, NOW + 160),
    ],
)
def test_an_entry_is_kept_no_longer_than_a_token_can_live(
    entry: Revocation, lifetime: float, until: float | None
) -> None:
    assert bounded(entry, NOW, lifetime).until == until
    assert bounded(entry, NOW, lifetime).conditions == entry.conditions


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (Revocation(), "names no token"),
        (Revocation(until=5.0), "names no token"),
        (Revocation(jti=""), "jti is not a text of 1 to 255 bytes"),
        (Revocation(subject="ü" * 128), "subject is not a text"),
        (Revocation(issuer="x" * 256), "issuer is not a text"),
        (Revocation(issued_before=math.nan), "issued_before is not a time"),
        (Revocation(issued_before=math.inf), "issued_before is not a time"),
        (Revocation(jti="1", until=-1.0), "until is not a time"),
    ],
)
def test_what_is_no_entry_is_refused(entry: Revocation, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Revocations().add(entry)


# The file.


def test_a_file_has_an_entry_a_line_and_comments() -> None:
    text = """
# leaked on Monday
{"jti": "1"}
   {"subject": "ann", "issued_before": 1790000000, "until": 1790003600}

{"issuer": "https://old.example"}
{"jti": "over", "until": 5}
"""
    assert list(entries_in(text, NOW, 10)) == [
        Revocation(jti="1"),
        Revocation(subject="ann", issued_before=1790000000.0, until=1790003600.0),
        Revocation(issuer="https://old.example"),
    ]


def test_every_bad_line_of_a_file_is_told_with_its_number_and_no_value() -> None:
    lines = [
        '{"jti": "1"}', "jti:secret", '{"jti": 5}', '{"sub": "secret"}', "[]", '{"jti": ""}', "{}", '{"jti": "1"} x',
        '{"issued_before": "secret"}', "[" * 100_000,
    ]  # fmt: skip
    with pytest.raises(BadRevocations) as bad:
        entries_in("\n".join(lines), NOW, 10)
    assert [line for line, _ in bad.value.problems] == list(range(2, 11))
    assert dict(bad.value.problems)[4] == "Object contains unknown field `sub`"
    assert "secret" not in str(bad.value)


def test_no_more_problems_are_told_than_anybody_reads() -> None:
    with pytest.raises(BadRevocations) as bad:
        entries_in("x\n" * 1000, NOW, 10)
    assert len(bad.value.problems) == 20


def test_a_file_with_too_many_entries_is_not_taken() -> None:
    with pytest.raises(RevocationsFull):
        entries_in("\n".join(f'{{"jti": "{number}"}}' for number in range(4)), NOW, 3)


def test_an_entry_is_taken_out_of_a_file_and_the_rest_stays_as_it_stands() -> None:
    text = (
        '# mine\n{"jti":  "1"}\n{"jti": "1", "until": 1790000099}\n{"jti": "over", "until": 5}\nnonsense\n{"jti":"2"}\n'
    )
    assert without(text, ("1", None, None, None, None), NOW) == '# mine\nnonsense\n{"jti":"2"}\n'
    assert without(text, None, NOW) == text.replace('{"jti": "over", "until": 5}\n', "")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
TIMES = st.floats(0, 2.5e11)
ENTRIES = st.builds(
    Revocation,
    jti=st.none() | TEXTS, subject=st.none() | TEXTS, issuer=st.none() | TEXTS, tenant=st.none() | TEXTS | st.just(""),
    issued_before=st.none() | TIMES, until=st.none() | TIMES,
).filter(lambda entry: entry.problem() is None)  # fmt: skip


@given(ENTRIES)
def test_what_is_written_is_what_is_read(entry: Revocation) -> None:
    line = line_of(entry)
    assert "\n" not in line
    assert entry_in(line) == entry


@given(st.text())
def test_no_line_does_more_than_be_refused(line: str) -> None:
    try:
        entry = entry_in(line)
    except ValueError:
        return
    assert entry is None or entry.problem() is None


# A model: all that was ever said, in a list.

FEW = st.sampled_from(["a", "b"])
TENANTS = st.sampled_from(["", "a"])
MOMENTS = st.integers(0, 12).map(float)
SMALL = st.builds(
    Revocation,
    jti=st.none() | FEW, subject=st.none() | FEW, issuer=st.none() | FEW, tenant=st.none() | TENANTS,
    issued_before=st.none() | MOMENTS, until=st.none() | MOMENTS,
).filter(lambda entry: entry.problem() is None)  # fmt: skip
MOST = 6


def test_an_entry_covers_a_token_only_where_all_that_it_names_is_the_tokens() -> None:
    who = Identity("ann", NOW + 60, "a", "https://i", GRANTS, b"")
    assert Revocation(jti="a").covers(who)
    for other in (
        Revocation(jti="b"), Revocation(jti="a", subject="bob"), Revocation(jti="b", subject="ann"),
        Revocation(subject="ann", issuer="https://other"), Revocation(subject="ann", tenant="acme"),
    ):  # fmt: skip
        assert not other.covers(who)


class RevocationModel(RuleBasedStateMachine):
    entries = Bundle("entries")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.listed = Revocations(MOST)
        self.made: dict[Any, float] = {}
        self.filed: dict[Any, float] = {}

    @staticmethod
    def _put(held: dict[Any, float], entry: Revocation) -> None:
        held[entry.conditions] = max(held.get(entry.conditions, -1.0), entry.end)

    def _beats_the_file(self, entry: Revocation) -> bool:
        return entry.conditions in self.filed and self.filed[entry.conditions] <= entry.end

    @rule(target=entries, entry=SMALL)
    def add(self, entry: Revocation) -> Revocation:
        try:
            self.listed.add(entry)
        except RevocationsFull:
            assert entry.conditions not in self.made
            assert not self._beats_the_file(entry)
            assert len(self.made) + len(self.filed) >= MOST
        else:
            self._put(self.made, entry)
            if self._beats_the_file(entry):
                del self.filed[entry.conditions]
        return entry

    @rule(entry=entries | SMALL)
    def undo(self, entry: Revocation) -> None:
        known = entry.conditions in self.made or entry.conditions in self.filed
        assert self.listed.undo(entry.conditions) is known
        self.made.pop(entry.conditions, None)
        self.filed.pop(entry.conditions, None)

    @rule(found=st.lists(SMALL, max_size=4))
    def file(self, found: list[Revocation]) -> None:
        text = "\n".join(map(line_of, found))
        filed: dict[Any, float] = {}
        for entry in found:
            if entry.end > self.now:
                self._put(filed, entry)
        filed = {key: end for key, end in filed.items() if end > self.made.get(key, -1.0)}
        try:
            self.listed.replace_file(entries_in(text, self.now, MOST))
        except RevocationsFull:
            assert len(self.made) + len(filed) > MOST
        else:
            self.filed = filed

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def forget(self) -> None:
        before = len(self.made) + len(self.filed)
        self.made = {key: end for key, end in self.made.items() if end > self.now}
        self.filed = {key: end for key, end in self.filed.items() if end > self.now}
        assert self.listed.forget(self.now) == before - len(self.made) - len(self.filed)

    @rule(
        jti=st.none() | FEW, subject=FEW, issuer=st.none() | FEW, tenant=TENANTS,
        issued=st.just(-math.inf) | MOMENTS,
    )  # fmt: skip
    def ask(self, jti: str | None, subject: str, issuer: str | None, tenant: str, issued: float) -> None:
        token = who(subject, jti, issuer, issued, tenant)
        expected = any(
            end > self.now
            and key[0] in (None, jti)
            and key[1] in (None, subject)
            and key[2] in (None, issuer)
            and key[3] in (None, tenant)
            and (key[4] is None or issued < key[4])
            for held in (self.made, self.filed)
            for key, end in held.items()
        )
        assert (self.listed.find(token, self.now) is not None) is expected

    @invariant()
    def the_list_is_what_was_said(self) -> None:
        assert len(self.listed) == len(self.made) + len(self.filed) <= MOST
        expected = dict(self.filed)
        for key, end in self.made.items():
            expected[key] = max(end, expected.get(key, -1.0))
        assert {entry.conditions: entry.end for entry in self.listed} == expected

    @invariant()
    def nothing_is_left_of_what_has_gone(self) -> None:
        for entries in (self.listed.made, self.listed.filed):
            assert sum(map(len, [*entries._by_jti.values(), *entries._by_subject.values(), entries._wide])) == len(
                entries
            )
            assert all([*entries._by_jti.values(), *entries._by_subject.values()])


RevocationModel.TestCase.settings = settings(max_examples=examples(150), stateful_step_count=30, deadline=None)
TestRevocationModel = RevocationModel.TestCase
