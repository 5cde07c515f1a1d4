"""Recent decisions: bounded, repeats counted, and one who causes many washes away nobody else's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.decisions import FEED_EVERY, FEED_SIZE, KINDS, ROOMS_APART, Decision, Decisions, Feed, Kind


def ring(size: int = 100) -> Decisions:
    return Decisions(size, itertools.count(1000.0).__next__)


def test_a_decision_is_found_by_whom_it_is_about_and_by_what_it_was() -> None:
    decisions = ring()
    decisions.add("refused", "forbidden", session="s1", subject="ann", address="10.0.0.1", room="lobby", detail="no")
    decisions.add("closed", "4208", setting="channels.bulk.capacity", session="s2", subject="bob", address="10.0.0.2")
    for wanted in (
        {"session": "s1"},
        {"subject": "ann"},
        {"room": "lobby"},
        {"address": "10.0.0.1"},
        {"kind": "refused"},
    ):
        [found] = decisions.find(**wanted)
        assert (found.code, found.detail, found.at) == ("forbidden", "no", 1000.0)
    assert [found.subject for found in decisions.find()] == ["bob", "ann"]
    assert decisions.find(session="s1", code="4208") == []
    assert [found.subject for found in decisions.find(since=1001.0)] == ["bob"]


def test_repeats_are_counted_in_one_entry() -> None:
    decisions = ring()
    for _ in range(5000):
        decisions.add("refused", "rate_limited", session="flood", subject="eve")
    [found] = decisions.find()
    assert (found.count, found.at, found.last) == (5000, 1000.0, 5999.0)


def test_a_flood_in_ever_new_rooms_does_not_wash_the_ring() -> None:
    decisions = ring(1000)
    decisions.add("refused", "forbidden", session="s1", subject="ann", room="lobby")
    for number in range(5000):
        decisions.add("refused", "not_joined", session="flood", subject="eve", room=f"room:{number}")
    assert len(decisions) == ROOMS_APART + 2
    assert len(decisions.find(subject="ann")) == 1
    assert sum(found.count for found in decisions.find(subject="eve")) == 5000


def test_one_kind_washes_away_its_own_entries_only() -> None:
    decisions = ring(100)
    for number in range(20):
        decisions.add("closed", "4401", session=f"old{number}")
    for number in range(10000):
        decisions.add("left", "1006", session=f"s{number}")
    assert len(decisions) == 100
    assert len(decisions.find(kind="closed")) == 20
    assert [found.session for found in decisions.find(kind="left")] == [f"s{n}" for n in range(9999, 9919, -1)]


def test_tenants_share_the_ring_and_are_told_apart() -> None:
    decisions = ring()
    decisions.of_tenant("acme").add("refused", "forbidden", session="s1")
    decisions.add("refused", "forbidden", session="s1")
    assert [found.tenant for found in decisions.find()] == ["", "acme"]
    assert len(decisions.find(tenant="acme")) == 1


def test_of_size_0_it_keeps_nothing() -> None:
    decisions = ring(0)
    decisions.add("closed", "1011", session="s")
    assert (len(decisions), decisions.find()) == (0, [])


def test_what_others_wrote_is_cut() -> None:
    decisions = ring()
    decisions.add("rejected", "c" * 999, address="a", room="r" * 9999, subject="s" * 9999, detail="d" * 9999)
    [found] = decisions.find()
    assert list(map(len, (found.code, found.room, found.subject, found.detail))) == [64, 255, 255, 200]


events = st.tuples(
    st.sampled_from(KINDS), st.sampled_from(["a", "b"]), st.sampled_from([f"s{n}" for n in range(9)]),
    st.sampled_from(["", "r1", "r2", "r3"]),
)  # fmt: skip


@given(st.lists(events, max_size=200), st.integers(1, 30))
def test_it_never_grows_beyond_its_size_and_forgets_whole_entries(
    done: list[tuple[Kind, str, str, str]], size: int
) -> None:
    decisions = ring(size)
    for kind, code, session, room in done:
        decisions.add(kind, code, session=session, room=room)
    assert len(decisions) == len(list(decisions)) <= size
    assert sum(found.count for found in decisions) <= len(done)
    if len(set(done)) <= size:
        assert sum(found.count for found in decisions) == len(done)
    assert sum(decisions._by_who.values()) == len(decisions)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_asked_for(kind: Kind) -> None:
    decisions = ring()
    decisions.add(kind, "x")
    assert len(decisions.find(kind=kind)) == 1


class Heard:
    """A feed, whose timer the test lets ring."""

    def __init__(self, decisions: Decisions) -> None:
        self.batches: list[tuple[Sequence[Decision], int]] = []
        self.booked: list[tuple[float, Callable[[], Any]]] = []
        decisions.feed = Feed(lambda seconds, action: self.booked.append((seconds, action)))
        decisions.feed.listeners.append(lambda batch, missed: self.batches.append((batch, missed)))

    def ring(self) -> None:
        booked, self.booked = self.booked, []
        for seconds, action in booked:
            assert seconds == FEED_EVERY
            action()


def test_a_listener_hears_batches_in_which_repeats_are_counted() -> None:
    decisions = ring()
    heard = Heard(decisions)
    decisions.add("refused", "forbidden", session="s1", subject="ann")
    for _ in range(5):
        decisions.add("refused", "rate_limited", session="s2", count=2)
    assert (heard.batches, len(heard.booked)) == ([], 1)
    heard.ring()
    [(batch, missed)] = heard.batches
    assert ([(one.code, one.count) for one in batch], missed) == ([("forbidden", 1), ("rate_limited", 10)], 0)
    decisions.add("refused", "rate_limited", session="s2")
    heard.ring()
    assert [one.count for one in heard.batches[1][0]] == [1], "each batch counts for itself"
    assert decisions.find(code="rate_limited")[0].count == 11, "and the ring goes on"


def test_a_batch_is_bounded_and_what_is_beyond_it_is_counted() -> None:
    decisions = ring()
    heard = Heard(decisions)
    for number in range(FEED_SIZE + 7):
        decisions.add("refused", "forbidden", session=f"s{number}")
    heard.ring()
    [(batch, missed)] = heard.batches
    assert (len(batch), missed) == (FEED_SIZE, 7)


def test_a_ring_of_size_0_still_feeds_its_listeners() -> None:
    decisions = ring(0)
    heard = Heard(decisions)
    decisions.add("closed", "1011", session="s", subject="s" * 999)
    heard.ring()
    assert [len(one.subject) for one in heard.batches[0][0]] == [255]
    assert len(decisions) == 0


def test_who_listens_in_one_tenant_hears_nothing_of_another() -> None:
    decisions = ring()
    acme = decisions.of_tenant("acme")
    mine, theirs = Heard(decisions), Heard(acme)
    acme.add("refused", "forbidden", session="s1")
    decisions.of_tenant("other").add("refused", "forbidden", session="s2")
    mine.ring()
    theirs.ring()
    assert mine.batches == []
    assert [one.session for one in theirs.batches[0][0]] == ["s1"]
