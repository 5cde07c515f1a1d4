"""How many at once, and what one address may do; nothing is left when all have gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import schema
from relay.errors import Rejected
from relay.limits.addresses import address_key
from relay.limits.buckets import MOST
from relay.limits.counts import AddressLimits, Counts


def test_no_more_than_the_limit_are_inside() -> None:
    counts = Counts(2)
    assert [counts.enter("a") for _ in range(3)] == [True, True, False]
    assert counts.enter("b")
    counts.leave("a")
    assert counts.enter("a")
    assert (counts.count("a"), counts.count("b"), counts.count("c"), counts.total) == (2, 1, 0, 3)


def test_a_limit_of_zero_is_none() -> None:
    counts = Counts(0)
    assert all(counts.enter("a") for _ in range(1000))
    assert counts.count("a") == 1000


def test_who_leaves_twice_is_found_out() -> None:
    counts = Counts(2)
    counts.enter("a")
    counts.leave("a")
    with pytest.raises(KeyError):
        counts.leave("a")
    assert counts.total == 0


@given(st.integers(0, 3), st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=60))
def test_counts_agree_with_a_list_and_end_empty(limit: int, steps: list[tuple[bool, str]]) -> None:
    counts = Counts(limit)
    inside: list[str] = []
    for enters, key in steps:
        if enters:
            let_in = counts.enter(key)
            assert let_in == (not limit or inside.count(key) < limit)
            inside += [key] * let_in
        elif key in inside:
            counts.leave(key)
            inside.remove(key)
        assert counts.total == len(inside)
        assert len(counts) == len(set(inside))
    for key in inside:
        counts.leave(key)
    assert len(counts) == counts.total == 0


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("64:ff9b::192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::%eth0/64"),
        ("fe80::1", "fe80::/64"),
        ("", ""),
        ("/run/relay.sock", "/run/relay.sock"),
        ("not an address", "not an address"),
    ],
)
def test_an_address_counts_as_one_subscriber(address: str, key: str) -> None:
    assert address_key(address) == key


def limits(**changes: float) -> AddressLimits:
    settings = {"connections_per_address": 2, "handshakes_per_address": 10.0, "handshakes_burst": 3, **changes}
    return AddressLimits(schema.Limits(**settings))  # type: ignore[arg-type]


def test_one_address_has_only_so_many_connections() -> None:
    one = limits()
    key = one.enter("2001:db8::1", 0.0)
    one.enter("2001:db8::2", 0.0)
    with pytest.raises(Rejected) as caught:
        one.enter("2001:db8::3", 1.0)
    refused = caught.value
    assert (refused.status, refused.code, refused.setting) == (
        429,
        "too_many_connections",
        "limits.connections_per_address",
    )
    assert refused.retry_after
    one.enter("2001:db8:0:1::1", 1.0)
    one.leave(key)
    one.enter("2001:db8::3", 2.0)
    assert one.connections == 3


def test_one_address_connects_only_so_fast_and_is_told_when_it_may() -> None:
    one = limits(connections_per_address=0)
    for _ in range(3):
        one.enter("192.0.2.1", 0.0)
    with pytest.raises(Rejected) as caught:
        one.enter("::ffff:192.0.2.1", 0.0)
    refused = caught.value
    assert (refused.code, refused.setting) == ("too_many_handshakes", "limits.handshakes_per_address")
    assert refused.retry_after == pytest.approx(0.1)
    one.enter("192.0.2.2", 0.0)
    one.enter("192.0.2.1", 0.1)


def test_both_limits_can_be_switched_off() -> None:
    one = limits(connections_per_address=0, handshakes_per_address=0.0)
    for _ in range(1000):
        one.enter("192.0.2.1", 0.0)
    assert len(one) == 1


def test_nothing_is_left_when_everyone_has_gone() -> None:
    one = limits()
    keys = [one.enter(f"192.0.2.{n}", n / 100) for n in range(250)]
    for key in keys:
        one.leave(key)
    one.prune(10.0)
    assert len(one) == one.connections == 0


def test_passing_addresses_do_not_fill_the_memory() -> None:
    one = limits()
    for n in range(20_000):
        one.leave(one.enter(f"2001:db8:{n:x}::1", n / 1000))
    assert len(one) <= 2048


def test_not_even_a_flood_from_everywhere_at_once_fills_the_memory() -> None:
    one = limits()
    for n in range(MOST + 2000):
        one.leave(one.enter(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 0.0))
    assert MOST // 4 < len(one) <= MOST


def test_an_address_that_was_pruned_has_no_more_than_its_burst() -> None:
    one = limits(connections_per_address=0)
    for _ in range(3):
        one.enter("192.0.2.1", 0.0)
    one.prune(0.2)  # not paid for yet: it stays
    one.enter("192.0.2.1", 0.2)
    one.enter("192.0.2.1", 0.2)
    with pytest.raises(Rejected):
        one.enter("192.0.2.1", 0.2)


def test_who_comes_through_a_unix_socket_is_not_limited_by_address() -> None:
    limits = AddressLimits(schema.Limits(connections_per_address=1, handshakes_per_address=1.0, handshakes_burst=1.0))
    keys = [limits.enter("unix", 1.0) for _ in range(100)]
    assert (limits.connections, len(limits)) == (0, 0)
    for key in keys:
        limits.leave(key)
