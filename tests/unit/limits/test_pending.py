"""Places for connections on their way in: who gets one, and who loses his to whom."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.schema import Limits
from relay.errors import Rejected
from relay.limits.pending import ARREARS, GRACE, LEAST_SHARE, LONGEST, Pending, Place


class Gate:
    """Pending, with a clock and a list of who was cut."""

    def __init__(self, **limits: Any) -> None:
        self.limits = msgspec.convert({"pending_handshakes": 20, "slow_handshakes_per_address": 0, **limits}, Limits)
        self.pending = Pending(self.limits)
        self.now = 100.0
        self.cut: list[str] = []

    def come(self, key: str, name: str = "", *, waits: bool = True) -> Place:
        self.pending.check(key, self.now)
        place = self.pending.enter(key, self.now)
        if waits:
            self.wait(place, name or key)
        return place

    def wait(self, place: Place, name: str) -> None:
        self.pending.waits(place, lambda: self.cut.append(name), self.now)

    def refusal(self, key: str) -> tuple[str, str | None, float | None] | None:
        try:
            self.pending.check(key, self.now)
        except Rejected as rejected:
            return rejected.code, rejected.setting, rejected.retry_after
        return None


def test_while_there_is_room_nobody_is_cut_or_refused_whoever_holds_most() -> None:
    gate = Gate()
    for _ in range(20):
        gate.come("mallory")
    assert gate.cut == []
    assert len(gate.pending) == 20
    assert gate.pending.full


def test_when_all_places_are_taken_an_address_with_more_than_its_share_loses_its_oldest() -> None:
    gate = Gate()
    for number in range(LEAST_SHARE + 2):
        gate.now += 0.01
        gate.come("mallory", f"mallory {number}")
    for number in range(10):
        gate.come(f"honest {number}")
    assert gate.pending.patience(gate.now) == 0.0
    gate.come("newcomer")
    assert gate.cut == ["mallory 0"]
    assert len(gate.pending) == 20
    assert gate.refusal("mallory") == ("crowded_out", "limits.pending_handshakes", 1.0)
    assert gate.refusal("honest 1") is None


def test_without_such_an_address_who_has_waited_longest_is_cut_but_not_before_its_grace() -> None:
    gate = Gate()
    first = gate.come("first")
    gate.now += 0.5
    for number in range(19):
        gate.come(f"other {number}")
    assert gate.pending.patience(gate.now) == pytest.approx(GRACE - 0.5)
    gate.now += GRACE - 0.5
    assert gate.pending.patience(gate.now) == 0.0
    gate.come("newcomer")
    assert gate.cut == ["first"]
    assert first.was_cut
    gate.pending.leave(first)
    assert len(gate.pending) == 20, "it had been counted out already"


def test_each_step_has_a_grace_of_its_own() -> None:
    gate = Gate()
    place = gate.come("two steps")
    for number in range(19):
        gate.come(f"other {number}")
    gate.now += GRACE - 0.1
    gate.pending.heard(place)
    gate.wait(place, "two steps")
    gate.now += 0.2
    gate.come("newcomer")
    assert gate.cut == ["other 0"]


def test_who_waits_for_us_is_never_cut_so_a_storm_waits_in_the_kernel() -> None:
    gate = Gate()
    for number in range(20):
        gate.come(f"honest {number}", waits=False)
    gate.now += 1000
    assert gate.pending.patience(gate.now) == math.inf
    gate.come("beyond")
    assert gate.cut == []
    assert len(gate.pending) == 21


def test_whom_a_proxy_speaks_for_is_not_known_yet_so_it_has_no_share() -> None:
    gate = Gate()
    places = [gate.come("", f"proxied {number}") for number in range(20)]
    assert gate.refusal("") is None
    assert gate.pending.patience(gate.now) == GRACE
    for place in places[:12]:
        gate.pending.move(place, "mallory")
    assert gate.pending.patience(gate.now) == 0.0
    gate.come("newcomer")
    assert gate.cut == ["proxied 0"]


def test_an_address_with_too_many_slow_connections_is_kept_out_for_a_bounded_while() -> None:
    gate = Gate(slow_handshakes_per_address=1.0, slow_handshakes_burst=3)
    for _ in range(3):
        gate.pending.slow("mallory", gate.now)
    assert gate.refusal("mallory") is None
    for _ in range(500):
        gate.pending.slow("mallory", gate.now)
    refusal = gate.refusal("mallory")
    assert refusal is not None
    code, setting, wait = refusal
    assert (code, setting) == ("too_many_slow", "limits.slow_handshakes_per_address")
    assert wait == pytest.approx(LONGEST, abs=1.1)
    assert gate.refusal("honest") is None
    gate.now += LONGEST + 1
    assert gate.refusal("mallory") is None


def test_who_was_cut_for_another_was_slow_too() -> None:
    gate = Gate(slow_handshakes_per_address=1.0, slow_handshakes_burst=1)
    gate.come("slow")
    for number in range(19):
        gate.come(f"other {number}")
    gate.now += GRACE
    for newcomer in ("one", "two"):
        gate.come(newcomer)
    assert gate.refusal("slow") is None, "one is free"
    gate.pending.slow("slow", gate.now)
    assert gate.refusal("slow") is not None


def test_zero_switches_each_of_them_off() -> None:
    gate = Gate(pending_handshakes=0)
    for _ in range(3000):
        gate.come("mallory")
        gate.pending.slow("mallory", gate.now)
    assert not gate.pending.full
    assert not gate.pending.crowded
    assert gate.refusal("mallory") is None
    assert gate.pending.patience(gate.now) == 0.0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["come", "come", "wait", "heard", "leave", "move", "later"]),
            st.sampled_from("abc"),
            st.integers(0, 30),
        ),
        max_size=120,
    )
)
def test_places_are_counted_right_whatever_happens(steps: list[tuple[str, str, int]]) -> None:
    gate = Gate(pending_handshakes=10)
    inside: list[Place] = []
    for what, key, number in steps:
        inside = [place for place in inside if not place.was_cut]
        place = inside[number % len(inside)] if inside else None
        if what == "come" and gate.refusal(key) is None:
            inside.append(gate.come(key, waits=bool(number % 2)))
        elif what == "later":
            gate.now += number / 10
        elif place is not None and what == "wait":
            gate.wait(place, place.key)
        elif place is not None and what == "heard":
            gate.pending.heard(place)
        elif place is not None and what == "move":
            gate.pending.move(place, key)
        elif place is not None and what == "leave":
            gate.pending.leave(place)
            gate.pending.leave(place)
            inside.remove(place)
        inside = [place for place in inside if not place.was_cut]
        assert len(gate.pending) == len(inside)
    for place in inside:
        gate.pending.leave(place)
    assert len(gate.pending) == 0
    assert gate.pending._by_key == {}
    assert gate.pending._waiting == {}


# Arrears


def test_an_address_is_in_arrears_a_second_for_each_handshake_that_came_to_nothing() -> None:
    gate = Gate()
    assert not gate.pending.in_arrears("mallory", gate.now)
    for _ in range(3):
        gate.pending.failed("mallory", gate.now)
    assert gate.pending.in_arrears("mallory", gate.now + 2.9)
    assert not gate.pending.in_arrears("mallory", gate.now + 3.1)
    assert not gate.pending.in_arrears("ann", gate.now)


def test_arrears_end_after_half_a_minute_whatever_was_done() -> None:
    gate = Gate()
    for _ in range(1000):
        gate.pending.slow("mallory", gate.now)
    assert gate.pending.in_arrears("mallory", gate.now + ARREARS.burst - 0.1)
    assert not gate.pending.in_arrears("mallory", gate.now + ARREARS.burst + 0.1)


def test_nobody_is_in_arrears_for_an_address_that_is_not_known() -> None:
    gate = Gate()
    gate.pending.failed("", gate.now)
    assert not gate.pending.in_arrears("", gate.now)


# Whose turn it is


def test_who_waits_for_us_is_not_cut_and_can_be_when_it_is_its_own_turn_again() -> None:
    gate = Gate(pending_handshakes=2)
    first, second = gate.come("a"), gate.come("b")
    gate.pending.is_ours(first)
    gate.now += GRACE + 1.0
    assert gate.pending.patience(gate.now) == 0.0
    gate.come("c")
    assert gate.cut == ["b"]
    gate.pending.is_ours(second)
    gate.pending.is_theirs(first, lambda: gate.cut.append("a"))
    gate.come("d")
    assert gate.cut == ["b", "a"], "it has waited since its step began"


def test_where_all_wait_for_us_we_look_again_soon() -> None:
    gate = Gate(pending_handshakes=1)
    place = gate.come("a")
    gate.pending.is_ours(place)
    assert 0.0 < gate.pending.patience(gate.now + 100.0) <= GRACE
