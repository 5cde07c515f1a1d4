"""Addresses to listen on."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import parse_listen, unix_path


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (":8443", [("::", 8443), ("0.0.0.0", 8443)]),
        ("*:80", [("::", 80), ("0.0.0.0", 80)]),
        ("[::1]:8443", [("::1", 8443)]),
        ("[fe80::1%eth0]:1", [("fe80::1%eth0", 1)]),
        ("127.0.0.1:0", [("127.0.0.1", 0)]),
        ("localhost:0", [("localhost", 0)]),
        ("relay_1.example.:65535", [("relay_1.example.", 65535)]),
    ],
)
def test_an_address_is_taken_apart(text: str, pairs: list[tuple[str, int]]) -> None:
    assert parse_listen(text) == pairs


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no port"),
        ("8443", "no port"),
        ("localhost", "no port"),
        (":", "the port must be"),
        (":65536", "the port must be"),
        (":-1", "the port must be"),
        (":٣", "the port must be"),
        (":" + "9" * 5000, "the port must be"),
        ("::1:8443", "must stand in brackets"),
        ("[127.0.0.1]:1", "must be an IPv6 address"),
        ("[::1:1", "must stand in brackets"),
        ("300.1.1.1:1", "neither an IPv4 address"),
        ("a b:1", "neither an address nor a name"),
        ("wss//host:1", "neither an address nor a name"),
        ("-x:1", "neither an address nor a name"),
        ("a" * 300 + ":1", "neither an address nor a name"),
    ],
)
def test_what_is_not_clear_is_refused_with_what_would_be(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_listen(text)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_address_and_port_is_taken(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    assert parse_listen(f"{host}:{port}") == [(str(address), port)]


@given(st.text("0123456789.:[]*a-% \n", max_size=30) | st.text())
def test_no_text_raises_anything_but_value_error(text: str) -> None:
    try:
        pairs = parse_listen(text)
    except ValueError:
        return
    assert all(host and 0 <= port <= 65535 for host, port in pairs)


@pytest.mark.parametrize("path", ["/run/relay/public.sock", "./relay.sock", "folder/relay.sock", "/run/mit leer.sock"])
def test_a_unix_socket_has_a_path(path: str) -> None:
    assert unix_path(f"unix:{path}") == path


@pytest.mark.parametrize("text", [":8443", "localhost:0", "unix", "unix.example:80", "[::1]:1"])
def test_other_addresses_have_none(text: str) -> None:
    assert unix_path(text) is None


@pytest.mark.parametrize("path", ["", "80", "relay.sock", "@name", "/run/", "/run/\0x", "/run/\n", "/" + "ä" * 60])
def test_what_can_be_no_socket_s_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"must be the path of a file|at most"):
        unix_path(f"unix:{path}")


@given(st.text("unix:/. \n", max_size=30) | st.text())
def test_no_text_makes_unix_path_raise_anything_but_value_error(text: str) -> None:
    try:
        unix_path(text)
    except ValueError:
        pass
