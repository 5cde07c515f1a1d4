"""Which addresses come in: the smallest network decides, and the fast table agrees with a slow one."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.address import Network, parse_network
from relay.limits.addresses import Networks, address_key, parse_ip

v4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
v6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)
# Few bits in use, so that networks hold one another and addresses hit them.
near_v4 = st.integers(0, 255).map(lambda n: ipaddress.IPv4Address(n << 24 | n))
near_v6 = st.integers(0, 255).map(lambda n: ipaddress.IPv6Address(n << 120 | n))
addresses = v4 | v6 | near_v4 | near_v6


@st.composite
def networks(draw: st.DrawFn) -> Network:
    ip = draw(addresses)
    return ipaddress.ip_network((ip, draw(st.integers(0, ip.max_prefixlen))), strict=False)


def slowly(address: ipaddress.IPv4Address | ipaddress.IPv6Address, allow: list[Network], deny: list[Network]) -> bool:
    """The rule as the docs say it."""
    around = [(network.prefixlen, comes_in) for comes_in, table in ((True, allow), (False, deny))
              for network in table if network.version == address.version and address in network]  # fmt: skip
    if not around:
        return not allow
    smallest = max(length for length, _ in around)
    return all(comes_in for length, comes_in in around if length == smallest)


@given(st.lists(networks(), max_size=8), st.lists(networks(), max_size=8), st.lists(addresses, max_size=20))
def test_the_table_agrees_with_the_rule(
    allow: list[Network], deny: list[Network], asked: list[ipaddress.IPv4Address | ipaddress.IPv6Address]
) -> None:
    table = Networks(map(str, allow), map(str, deny))
    asked = asked + [network.network_address for network in allow + deny]
    for address in asked:
        meant = parse_ip(str(address))
        assert meant is not None
        assert table.allows(str(address)) == slowly(meant, allow, deny), address


def test_without_lists_everybody_comes_in() -> None:
    assert all(Networks().allows(address) for address in ("192.0.2.1", "2001:db8::1", "/run/relay.sock", ""))


def test_an_allow_list_shuts_out_all_others() -> None:
    table = Networks(["192.0.2.0/24", "2001:db8::/32"])
    assert table.allows("192.0.2.77")
    assert table.allows("::ffff:192.0.2.77")
    assert table.allows("2001:db8:1::1")
    assert not table.allows("198.51.100.1")
    assert not table.allows("2001:db9::1")


def test_an_exception_is_a_smaller_network_in_the_other_list() -> None:
    table = Networks(["0.0.0.0/0", "10.1.0.0/16"], ["10.0.0.0/8", "10.1.2.3"])
    assert table.allows("192.0.2.1")
    assert not table.allows("10.2.0.1")
    assert table.allows("10.1.2.4")
    assert not table.allows("10.1.2.3")


def test_of_the_same_network_in_both_lists_deny_decides() -> None:
    assert not Networks(["192.0.2.0/24"], ["192.0.2.0/24"]).allows("192.0.2.1")


def test_ten_thousand_networks_cost_a_look_up_for_each_length_of_prefix() -> None:
    table = Networks(deny=[f"10.{n >> 8 & 255}.{n & 255}.0/24" for n in range(10_000)])
    assert [len(table._by_prefix[version]) for version in (4, 6)] == [1, 0]
    assert not table.allows("10.39.15.200")
    assert table.allows("10.39.16.200")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("192.0.2.1/24", "has bits set behind its prefix: 192.0.2.0/24 is the network it is in"),
        ("192.0.2", "neither an IP address nor a network"),
        ("example.net", "neither an IP address nor a network"),
        ("192.0.2.0/33", "neither an IP address nor a network"),
        ("", "neither an IP address nor a network"),
    ],
)
def test_what_is_no_network_is_refused_with_what_is_meant(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_network(text)


def test_the_prefix_that_counts_as_one_address_can_be_chosen() -> None:
    assert address_key("2001:db8:1:2:3::4", 48) == "2001:db8:1::/48"
    assert address_key("2001:db8:1:2:3::4", 128) == "2001:db8:1:2:3::4/128"
    assert address_key("192.0.2.1", 48) == "192.0.2.1"
