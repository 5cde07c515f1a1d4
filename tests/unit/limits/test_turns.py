"""Whose turn it is: an address has one in each round, and those in arrears when nobody else waits."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relay.limits.turns import Turns


def all_of(turns: Turns[str]) -> list[str]:
    return list(iter(turns.take, None))


def test_addresses_take_turns_however_much_each_of_them_wants() -> None:
    turns: Turns[str] = Turns()
    for number in range(100):
        turns.put("mallory", f"mallory {number}")
    turns.put("ann", "ann 0")
    turns.put("bob", "bob 0")
    turns.put("ann", "ann 1")
    assert all_of(turns)[:6] == ["mallory 0", "ann 0", "bob 0", "mallory 1", "ann 1", "mallory 2"]


def test_who_has_had_its_turn_comes_behind_all_who_wait() -> None:
    turns: Turns[str] = Turns()
    for name in ("a 0", "b 0", "a 1"):
        turns.put(name[0], name)
    assert turns.take() == "a 0"
    turns.put("c", "c 0")
    assert all_of(turns) == ["b 0", "a 1", "c 0"]


def test_those_in_arrears_have_their_turn_when_nobody_else_waits() -> None:
    turns: Turns[str] = Turns()
    turns.put("mallory", "mallory 0", last=True)
    turns.put("ann", "ann 0")
    assert turns.pressing
    assert turns.take() == "ann 0"
    assert not turns.pressing
    turns.put("bob", "bob 0")
    assert all_of(turns) == ["bob 0", "mallory 0"]


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(0, 40))
def test_nobody_waits_for_more_than_one_turn_of_each_other(before: list[str], mine: int) -> None:
    turns: Turns[str] = Turns()
    for key in before:
        turns.put(key, key)
    for _ in range(mine):  # whatever the others have put before, and want more of
        turns.put("a", "a")
    turns.put("me", "me")
    assert all_of(turns).index("me") <= len({*before, *("a" * min(1, mine))})


class TurnsAgainstAModel(RuleBasedStateMachine):
    """The model looks at everything that waits, and takes the first of whoever has waited longest for a turn."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: Turns[int] = Turns()
        self.waiting: dict[bool, dict[str, deque[int]]] = {False: {}, True: {}}
        self.number = 0

    @rule(key=st.sampled_from("abc"), last=st.booleans())
    def put(self, key: str, last: bool) -> None:
        self.number += 1
        self.turns.put(key, self.number, last=last)
        self.waiting[last].setdefault(key, deque()).append(self.number)

    @rule()
    def take(self) -> None:
        expected = None
        for rank in (self.waiting[False], self.waiting[True]):
            if rank:
                key = next(iter(rank))
                queue = rank.pop(key)
                expected = queue.popleft()
                if queue:
                    rank[key] = queue
                break
        assert self.turns.take() == expected

    @invariant()
    def counts(self) -> None:
        every = [queue for rank in self.waiting.values() for queue in rank.values()]
        assert len(self.turns) == sum(map(len, every))
        assert self.turns.pressing == bool(self.waiting[False])


TestTurns = TurnsAgainstAModel.TestCase
