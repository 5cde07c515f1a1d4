"""`Forwarded` and `X-Forwarded-For`: the nearest hop first, and nothing a client writes hides what its proxy wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.net.forwarded import hops, node


def read(name: str, *lines: str) -> list[str | None]:
    return list(hops(name, list(lines)))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.7", "192.0.2.7"), ("192.0.2.7:47011", "192.0.2.7"), ("192.0.2.7:_port", "192.0.2.7"),
        ("[2001:DB8::7]", "2001:db8::7"), ("[2001:db8::7]:443", "2001:db8::7"), ("2001:db8::7", "2001:db8::7"),
        ("::ffff:192.0.2.7", "::ffff:c000:207"),
        ("unknown", None), ("_hidden", None), ("", None), ("[]", None), ("[192.0.2.7]", None), ("[::1", None),
        ("[::1]x", None), ("[::1]:", None), ("192.0.2.7:", None), ("192.0.2.7:x", None), ("192.0.2.7:123456", None),
        ("192.0.2.07", None), ("192.0.2", None), ("fe80::1%eth0", None), ("a.example", None), ("192.0.2.7 ", None),
    ],
)  # fmt: skip
def test_a_node_is_an_address_with_or_without_a_port(text: str, address: str | None) -> None:
    found = node(text)
    assert found == address or (address == "::ffff:c000:207" and found in (address, "::ffff:192.0.2.7"))


def test_x_forwarded_for_is_read_from_the_right_over_all_its_lines() -> None:
    assert read("x-forwarded-for", "a.example, 192.0.2.1,  ,192.0.2.2:80", " [::1] ,unknown") == [
        None, "::1", "192.0.2.2", "192.0.2.1", None,
    ]  # fmt: skip
    assert read("x-forwarded-for") == read("x-forwarded-for", "", " , ,") == []


@pytest.mark.parametrize(
    ("line", "addresses"),
    [
        ("for=192.0.2.7", ["192.0.2.7"]),
        ('For="[2001:db8:cafe::17]:4711"', ["2001:db8:cafe::17"]),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", ["192.0.2.60"]),
        ("for=192.0.2.43, for=198.51.100.17", ["198.51.100.17", "192.0.2.43"]),
        ('for=192.0.2.43,for="198.51.100.17:80";by=_x', ["198.51.100.17", "192.0.2.43"]),
        (r'for="192\.0.2.7"', ["192.0.2.7"]),
        ("proto=https", [None]), ("for=_hidden", [None]), ("for=unknown", [None]), ("for=1.1.1.1;for=2.2.2.2", [None]),
        (",for=192.0.2.7, ,", ["192.0.2.7"]),
        ('for=192.0.2.1;host="a, for=6.6.6.6"', ["192.0.2.1"]),
        ("for=2001:db8::7", [None]), ("for = 192.0.2.7", [None]), ("192.0.2.7", [None]), ('for="192.0.2.7', [None]),
        ("nonsense, for=192.0.2.7", ["192.0.2.7", None]),
        ('for="6.6.6.6, for=192.0.2.7', ["192.0.2.7", None]),
    ],
)  # fmt: skip
def test_forwarded_as_in_rfc_7239(line: str, addresses: list[str | None]) -> None:
    assert read("forwarded", line) == addresses


@given(
    st.one_of(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200), st.text(',;"\\=for1 ')),
    st.sampled_from(["for=192.0.2.7", 'for="192.0.2.7:80"', 'by=_a;for="192.0.2.7";host="a, b"', "FOR=192.0.2.7"]),
)
def test_nothing_on_the_left_changes_what_a_proxy_has_added_on_the_right(left: str, added: str) -> None:
    assert read("forwarded", f"{left}, {added}")[0] == "192.0.2.7"
    assert read("forwarded", left, added)[0] == "192.0.2.7"
    assert read("x-forwarded-for", f"{left}, 192.0.2.7")[0] == "192.0.2.7"


@given(st.text(st.characters(max_codepoint=255), max_size=300), st.sampled_from(["forwarded", "x-forwarded-for"]))
def test_whatever_a_header_says_every_hop_is_an_address_or_nothing(line: str, name: str) -> None:
    assert all(hop is None or node(hop) == hop for hop in read(name, line))


def test_a_header_made_to_be_slow_is_read_in_no_time() -> None:
    for line in (
        'for="' + ",a=b" * 2000 + '"',
        "," * 8000,
        ";" * 8000 + "x",
        'a="' * 2700,
        " " * 8000 + "x",
        "a=" * 4000,
    ):
        assert len(read("forwarded", line)) <= 2001
