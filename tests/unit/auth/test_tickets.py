"""Tickets: good once, for a while, for whom they were given to, and there are never more than may be."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relay.auth.grants import compile_grants
from relay.auth.tickets import TICKET_BYTES, Tickets, new_ticket
from relay.auth.tokens import Identity
from relay.config import schema
from relay.errors import Rejected


def who(subject: str = "ann", tenant: str = "") -> Identity:
    return Identity(subject, 1e9, None, None, compile_grants({}, subject), b"", tenant)


def settings(**changed: Any) -> schema.Tickets:
    return schema.Tickets(**{"enabled": True, "lifetime": 30.0, "capacity": 5, "per_subject": 2, **changed})


def code(tickets: Tickets, text: str, bound: str = "", now: float = 0.0) -> str:
    with pytest.raises(Rejected) as caught:
        tickets.redeem(text, bound, now)
    assert text not in str(caught.value)
    return caught.value.code


def test_a_ticket_gives_back_who_it_was_given_to_once() -> None:
    tickets, ann = Tickets(), who()
    text = tickets.issue(ann, "", settings(), 0.0)
    assert tickets.redeem(text, "", 29.9) is ann
    assert code(tickets, text) == "ticket_unknown"
    assert len(tickets) == 0


def test_a_ticket_that_was_not_used_in_time_is_void() -> None:
    tickets = Tickets()
    text = tickets.issue(who(), "", settings(), 0.0)
    assert code(tickets, text, now=30.0) == "ticket_expired"
    assert len(tickets) == 0


def test_a_ticket_brought_from_elsewhere_is_void_afterwards() -> None:
    tickets = Tickets()
    text = tickets.issue(who(), "192.0.2.0/24", settings(), 0.0)
    assert code(tickets, text, "198.51.100.0/24") == "ticket_elsewhere"
    assert code(tickets, text, "192.0.2.0/24") == "ticket_unknown"


@pytest.mark.parametrize("text", ["x", "\udcff", "0" * 9000])
def test_what_is_no_ticket_is_unknown(text: str) -> None:
    assert code(Tickets(), text) == "ticket_unknown"


def test_a_subject_with_too_many_loses_its_oldest_and_nobody_else_does() -> None:
    tickets = Tickets()
    bobs = tickets.issue(who("bob"), "", settings(), 0.0)
    others = tickets.issue(who("ann", "acme"), "", settings(), 0.0)
    anns = [tickets.issue(who("ann"), "", settings(), 0.0) for _ in range(3)]
    assert code(tickets, anns[0]) == "ticket_unknown"
    assert [tickets.redeem(text, "", 0.0).subject for text in (*anns[1:], bobs, others)] == ["ann", "ann", "bob", "ann"]


def test_when_all_are_out_the_next_is_told_to_come_back_until_they_have_expired() -> None:
    tickets = Tickets()
    for number in range(5):
        tickets.issue(who(str(number)), "", settings(), 0.0)
    with pytest.raises(Rejected) as caught:
        tickets.issue(who("one more"), "", settings(), 29.0)
    assert (caught.value.status, caught.value.setting) == (503, "auth.tickets.capacity")
    tickets.issue(who("one more"), "", settings(), 30.0)
    assert len(tickets) == 1


def test_only_the_hash_of_a_ticket_is_kept() -> None:
    tickets = Tickets()
    text = tickets.issue(who(), "", settings(), 0.0)
    assert len(text) > TICKET_BYTES
    assert new_ticket() != text
    kept = repr(vars(tickets))
    assert text not in kept
    assert repr(hashlib.sha256(text.encode()).digest()) in kept


class Store(RuleBasedStateMachine):
    """Against a model: a list of who may still use what."""

    def __init__(self) -> None:
        super().__init__()
        numbers = itertools.count(1000)
        self.tickets = Tickets(lambda: str(next(numbers)))
        self.model: dict[str, tuple[str, float]] = {}
        self.used: list[str] = []
        self.now = 0.0

    @rule(subject=st.sampled_from("abcd"))
    def issue(self, subject: str) -> None:
        self.model = {text: held for text, held in self.model.items() if held[1] > self.now}
        own = [text for text, (whose, _) in self.model.items() if whose == subject]
        if len(own) >= 2:
            self.used.append(own[0])
            del self.model[own[0]]
        try:
            text = self.tickets.issue(who(subject), "", settings(), self.now)
        except Rejected:
            assert len(self.model) == 5
        else:
            self.model[text] = (subject, self.now + 30.0)

    @rule(data=st.data())
    def redeem(self, data: st.DataObject) -> None:
        if not self.model:
            return
        text = data.draw(st.sampled_from(sorted(self.model)))
        subject, until = self.model.pop(text)
        self.used.append(text)
        if until <= self.now:
            assert code(self.tickets, text, now=self.now) in ("ticket_expired", "ticket_unknown")
        else:
            assert self.tickets.redeem(text, "", self.now).subject == subject

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def what_was_used_is_void_and_the_rest_is_bounded(self) -> None:
        for text in self.used[-3:]:
            assert code(self.tickets, text, now=self.now) == "ticket_unknown"
        assert len(self.tickets) <= 5


TestStore = Store.TestCase
