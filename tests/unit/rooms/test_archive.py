"""What rooms remember after everybody has left, within one bound for all of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model import Kind, Message, Payload
from relay.rooms.archive import RECORD, Archive, Record
from relay.rooms.history import OVERHEAD
from relay.rooms.receipts import COST, Receipts


def remembered(archive: Archive, count: int, *, size: int = 100, seconds: float = 60.0, at: float = 0.0) -> Record:
    history = archive.history(1000, seconds, 0)
    for offset in range(1, count + 1):
        history.add(Message("r", Payload(Kind.BINARY, bytes(size)), offset=offset, at=at))
    return Record("epoch", count, history, None)


def test_a_room_that_wakes_has_what_it_had() -> None:
    archive = Archive()
    record = remembered(archive, 3)
    archive.sleep("r", record)
    assert archive.look("r") is record
    assert archive.wake("r") is record
    assert archive.wake("r") is None
    assert archive.bytes == 3 * (OVERHEAD + 100), "its messages are still there, in the room"


def test_a_room_with_nothing_to_remember_is_not_kept() -> None:
    archive = Archive()
    gone: list[str] = []
    archive.forgotten = gone.append
    archive.sleep("r", remembered(archive, 0))
    assert (len(archive), archive.bytes, gone) == (0, 0, ["r"])


def test_receipts_alone_are_worth_keeping() -> None:
    archive = Archive()
    receipts = Receipts(10, 60.0)
    receipts.done("ann", "k", 4, 0.0)
    archive.sleep("r", Record("epoch", 4, None, receipts))
    assert archive.bytes == RECORD + COST
    archive.sweep(30.0)
    assert len(archive) == 1
    archive.sweep(61.0)
    assert (len(archive), archive.bytes) == (0, 0)


def test_what_has_expired_is_swept_out_and_told() -> None:
    archive = Archive()
    gone: list[str] = []
    archive.forgotten = gone.append
    for number in range(5):
        archive.sleep(f"r{number}", remembered(archive, 2, seconds=10.0 * (number + 1)))
    archive.sweep(25.0)
    assert gone.sort() is None
    assert gone == ["r0", "r1"]
    assert len(archive) == 3


def test_beyond_the_capacity_those_who_slept_longest_are_forgotten_first() -> None:
    each = RECORD + 2 * (OVERHEAD + 100)
    archive = Archive(3 * each)
    for name in "abcd":
        archive.sleep(name, remembered(archive, 2))
    assert [name for name in "abcd" if archive.look(name)] == ["b", "c", "d"]
    assert archive.bytes <= archive.capacity


def test_when_nobody_sleeps_the_room_that_grows_pays_itself() -> None:
    archive = Archive(10 * (OVERHEAD + 100))
    quiet = remembered(archive, 4)
    loud = remembered(archive, 50)
    assert quiet.history is not None
    assert loud.history is not None
    assert (len(quiet.history), len(loud.history)) == (4, 6)
    assert loud.history.floor == 44
    assert loud.history.since(43, 50, 0.0)[0] is False


@settings(max_examples=200)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abcde"), st.sampled_from(["say", "sleep", "wake", "sweep"]), st.integers(0, 3000)),
        max_size=80,
    )
)
def test_the_bound_holds_and_the_sum_is_right_whatever_happens(steps: list[tuple[str, str, int]]) -> None:
    archive = Archive(10_000)
    awake: dict[str, Record] = {}
    now = 0.0
    for name, what, number in steps:
        now += number / 100
        if what == "say":
            if name not in awake:
                awake[name] = archive.wake(name) or Record("e", 0, archive.history(5, 20.0, 4000), None)
            record = awake[name]
            record.offset += 1
            assert record.history is not None
            record.history.add(Message(name, Payload(Kind.BINARY, bytes(number)), offset=record.offset, at=now))
        elif what == "sleep" and name in awake:
            archive.sleep(name, awake.pop(name))
        elif what == "wake" and name not in awake and (found := archive.wake(name)):
            awake[name] = found
        elif what == "sweep":
            archive.sweep(now)
        assert archive.bytes <= archive.capacity
        asleep = [archive.look(one) for one in "abcde"]
        known = [record for record in (*awake.values(), *asleep) if record is not None]
        assert archive.bytes == sum(record.history.bytes for record in known if record.history) + RECORD * len(archive)
    for name in list(awake):
        archive.sleep(name, awake.pop(name))
    archive.sweep(now + 1000.0)
    assert (len(archive), archive.bytes) == (0, 0)
