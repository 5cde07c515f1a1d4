"""The PROXY header: what it says, where it ends, and that nothing else passes for one."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.net.proxy_protocol import V1_BYTES, V2_BYTES, HeaderReader, Malformed, Version

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PROXY, LOCAL = 0x21, 0x20
TCP4, TCP6, UNIX, UDP4 = 0x11, 0x21, 0x31, 0x12
HELLO = b"\x16\x03\x01\x02\x00" + b"\r\n\r\nPROXY TCP4 6.6.6.6 6.6.6.6 1 1\r\n"
"""TLS, and in it what could be taken for more of a header."""


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def tcp4(source: str, more: bytes = b"") -> bytes:
    return v2(PROXY, TCP4, IPv4Address(source).packed + IPv4Address("9.9.9.9").packed + b"\x10\x00\x01\xbb" + more)


def tcp6(source: str) -> bytes:
    return v2(PROXY, TCP6, IPv6Address(source).packed + IPv6Address("::9").packed + b"\x10\x00\x01\xbb")


def source_of(header: bytes, version: Version = "any") -> str | None:
    reader = HeaderReader(version)
    assert reader.feed(header + HELLO) == len(header)
    assert reader.done
    return reader.source


@pytest.mark.parametrize(
    ("header", "source"),
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n", "192.0.2.7"),
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
        (b"PROXY TCP6 2001:db8::7 2001:DB8:0:0::1 1 0\r\n", "2001:db8::7"),
        (b"PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:0007 ::1 1 2\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ff:ff::ff ff::ff 65535 65535\r\n", None),
        (b"PROXY UNKNOWN".ljust(V1_BYTES - 2, b" ").replace(b"  ", b" x") + b"\r\n", None),
        (tcp4("192.0.2.7"), "192.0.2.7"),
        (tcp4("192.0.2.7", b"\x04\x00\x03abc"), "192.0.2.7"),
        (tcp4("192.0.2.7", b"x" * (V2_BYTES - 28)), "192.0.2.7"),
        (tcp6("2001:db8::7"), "2001:db8::7"),
        (v2(PROXY, UNIX, bytes(216)), None),
        (v2(PROXY, 0, b""), None),
        (v2(PROXY, 0, b"anything"), None),
        (v2(LOCAL, 0, b""), None),
        (v2(LOCAL, TCP4, IPv4Address("6.6.6.6").packed * 2 + bytes(4)), None),
        (v2(LOCAL, 0xFF, b"anything"), None),
    ],
)
def test_a_header_names_its_client_or_says_that_there_is_none(header: bytes, source: str | None) -> None:
    assert source_of(header) == source


@pytest.mark.parametrize(
    "header",
    [
        b"GET / HTTP/1.1\r\n", HELLO, b"\0", b"proxy TCP4", b"PROXY\tTCP4", b"PROXYTCP4",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 \r\n",
        b"PROXY TCP4  192.0.2.7 198.51.100.1 56324 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 1\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 056324 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.1 1 443\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.1 1 443\r\n",
        b"PROXY TCP4 2001:db8::7 198.51.100.1 1 443\r\n",
        b"PROXY TCP4 192.0.2.7 evil 1 443\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 1 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 fe80::2 1 443\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 1 443\r\n",
        b"PROXY \r\n", b"PROXY UNKNOWN \r\n", b"PROXY UNKNOWN\x00\r\n", b"PROXY UNKNOWN\r\r\n",
        b"PROXY UNKNOWN " + b"x" * V1_BYTES,
        b"PROXY UNKNOWN " + b"x" * (V1_BYTES - 15) + b"\r\n",
        SIGNATURE[:-1] + b"\r" + tcp4("192.0.2.7")[12:],
        SIGNATURE + b"\x11" + tcp4("192.0.2.7")[13:],
        SIGNATURE + b"\x31" + tcp4("192.0.2.7")[13:],
        v2(0x22, TCP4, bytes(12)), v2(0x2F, 0, b""),
        v2(PROXY, UDP4, bytes(12)), v2(PROXY, 0x41, bytes(12)), v2(PROXY, 0x10, bytes(12)),
        v2(PROXY, TCP4, bytes(11)), v2(PROXY, TCP6, bytes(35)), v2(PROXY, UNIX, bytes(215)),
        tcp4("192.0.2.7", b"x" * (V2_BYTES - 27)),
        v2(LOCAL, 0, bytes(65535)),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_not_exactly_a_header_is_refused(header: bytes) -> None:
    with pytest.raises(Malformed):
        HeaderReader("any").feed(header)


@pytest.mark.parametrize(("version", "other"), [("v1", tcp4("192.0.2.7")), ("v2", b"PROXY UNKNOWN\r\n")])
def test_the_other_version_is_refused_from_its_first_byte(version: Version, other: bytes) -> None:
    with pytest.raises(Malformed, match=f"version {version[1]}"):
        HeaderReader(version).feed(other[:1])


@given(
    st.one_of(
        st.ip_addresses(v=4).map(lambda ip: (tcp4(str(ip), b"\x20\x00\x01x"), str(ip))),
        st.ip_addresses(v=6).map(lambda ip: (tcp6(str(ip)), str(ip))),
        st.ip_addresses(v=4).map(lambda ip: (f"PROXY TCP4 {ip} {ip} 1 2\r\n".encode(), str(ip))),
        st.ip_addresses(v=6).map(lambda ip: (f"PROXY TCP6 {ip} {ip} 1 2\r\n".encode(), str(ip))),
    ),
    st.lists(st.integers(1, 40), max_size=60),
)
def test_a_header_ends_at_the_same_byte_however_it_is_cut(known: tuple[bytes, str], cuts: list[int]) -> None:
    header, source = known
    stream = header + HELLO
    reader = HeaderReader("any")
    taken = 0
    for size in [*cuts, *[len(stream)] * 2]:
        if reader.done:
            break
        piece = stream[taken : taken + size]
        count = reader.feed(piece)
        assert count == len(piece) or reader.done
        taken += count
    assert (taken, reader.source) == (len(header), source)


@given(
    st.one_of(
        st.binary(max_size=600),
        st.binary(max_size=120).map(lambda rest: b"PROXY " + rest),
        st.binary(max_size=600).map(lambda rest: SIGNATURE + rest),
        st.binary(max_size=600).map(lambda rest: SIGNATURE + b"\x21\x11\x00" + rest),
    )
)
def test_whatever_comes_is_a_header_or_malformed_or_not_yet_enough(data: bytes) -> None:
    reader = HeaderReader("any")
    try:
        taken = reader.feed(data)
    except Malformed:
        return
    if not reader.done:
        assert taken == len(data) < V2_BYTES
    assert reader.source is None or "\r" not in reader.source
