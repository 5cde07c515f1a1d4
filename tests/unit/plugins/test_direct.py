"""Two subjects, one room, nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.direct import Direct, room_name
from relay.errors import Refused
from relay.plugin.testing import PluginTester
from relay.protocols.names import check_room_name


def directs() -> PluginTester:
    return PluginTester(Direct, rooms="direct:*")


async def test_what_one_says_the_other_hears_on_all_connections() -> None:
    async with directs() as direct:
        ann, ann_too, bob, bob_too = [
            await direct.join("direct:ann:bob", name) for name in ("ann", "ann", "bob", "bob")
        ]
        await ann.publish("hi")
        assert [member.received for member in (ann, ann_too, bob, bob_too)] == [[], ["hi"], ["hi"], ["hi"]]


async def test_nobody_else_gets_in() -> None:
    async with directs() as direct:
        await direct.join("direct:ann:bob", "bob")
        with pytest.raises(Refused) as caught:
            await direct.join("direct:ann:bob", "eve")
        assert (caught.value.code, caught.value.message) == ("forbidden", "this room belongs to two others")


async def test_nobody_else_gets_a_word_in_from_outside() -> None:
    async with directs() as direct:
        bob = await direct.join("direct:ann:bob", "bob")
        with pytest.raises(Refused, match="forbidden"):
            await direct.connect("eve").publish("psst", room="direct:ann:bob")
        await direct.connect("ann").publish("hi", room="direct:ann:bob")
        assert bob.received == ["hi"]


async def test_the_other_order_is_refused_with_the_right_name() -> None:
    async with directs() as direct:
        with pytest.raises(Refused) as caught:
            await direct.join("direct:bob:ann", "ann")
        assert (caught.value.code, caught.value.message) == ("bad_room", "the room of these two is direct:ann:bob")
        assert direct.hub.rooms == {}


@pytest.mark.parametrize("name", ["direct:ann", "direct:*"])
async def test_a_name_without_two_subjects_is_refused_with_an_example(name: str) -> None:
    async with directs() as direct:
        with pytest.raises(Refused, match="is named direct:ann:bob"):
            await direct.join(name, "ann")


async def test_one_may_talk_to_oneself() -> None:
    async with directs() as direct:
        desk, phone = [await direct.join("direct:ann:ann", "ann") for _ in range(2)]
        await desk.publish("milk")
        assert phone.received == ["milk"]


async def test_a_colon_in_a_subject_is_no_border() -> None:
    async with directs() as direct:
        name = room_name("direct", "a:b", "c")
        assert name == "direct:a%3Ab:c"
        await direct.join(name, "a:b")
        for subject in ("a", "b", "a%3Ab", "a%3ab"):
            with pytest.raises(Refused, match="forbidden"):
                await direct.join(name, subject)


async def test_there_is_one_way_to_write_a_subject() -> None:
    async with directs() as direct:
        for name in ("direct:%61nn:bob", "direct:ANN:bob"):
            with pytest.raises(Refused):
                await direct.join(name, "ann")
        for name in ("direct:a%3ab:c", "direct:a:b:c"):
            with pytest.raises(Refused):
                await direct.join(name, "a:b")


@pytest.mark.parametrize("subject", ["ann@example.com", "auth0|5f7c", "Zoë", "user-1_2.3~", "李"])
async def test_a_common_subject_stands_as_it_is(subject: str) -> None:
    assert room_name("direct", subject, subject) == f"direct:{subject}:{subject}"


subjects = st.text(st.characters(exclude_categories=["Cs", "Cf", "Zl", "Zp"]), min_size=1, max_size=20)


@given(subjects, subjects)
def test_every_pair_of_subjects_has_one_room(one: str, other: str) -> None:
    name = room_name("direct", one, other)
    assert name == room_name("direct", other, one)
    assert len(name.split(":")) == 3
    assert "*" not in name


@given(st.sets(st.tuples(subjects, subjects).map(lambda pair: tuple(sorted(pair))), min_size=2, max_size=2))
def test_two_pairs_never_share_a_room(pairs: set[tuple[str, str]]) -> None:
    assert len({room_name("direct", *pair) for pair in pairs}) == 2


@given(st.text(st.characters(codec="latin-1"), min_size=1, max_size=20))
def test_the_room_of_any_latin_subject_is_a_valid_name(subject: str) -> None:
    if "\xad" not in subject:  # the soft hyphen is invisible, and no subject should have one
        assert check_room_name(room_name("direct", subject, "x"), 1024) is None
