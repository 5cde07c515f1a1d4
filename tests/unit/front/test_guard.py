"""What a ticket is bound to."""

from __future__ import annotations

import pytest

from relay.config.schema import Tickets
from relay.front.guard import network


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("192.0.2.77", "192.0.2.0/24"), ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"), ("unix", "unix"),
    ],
)  # fmt: skip
def test_a_ticket_is_bound_to_the_network_of_its_address(address: str, bound: str) -> None:
    assert network(address, Tickets(bind_address=True)) == bound
    assert network(address, Tickets()) == ""


def test_the_prefixes_are_the_configurations() -> None:
    assert network("192.0.2.77", Tickets(bind_address=True, ipv4_prefix=32)) == "192.0.2.77/32"
    assert network("2001:db8::1", Tickets(bind_address=True, ipv6_prefix=32)) == "2001:db8::/32"
