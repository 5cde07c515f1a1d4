"""A bounded run of the fuzzer, and that it would find something."""

from __future__ import annotations

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz.corpus import kept
from tests.fuzz.in_files import configuration
from tests.fuzz.noise import Noise
from tests.fuzz.targets import TARGETS, Target

INPUTS = {"frames": 6000, "deflate": 2000, "head": 4000, "claims": 4000, "config": 1500, "session": 1500}
USUAL = 20000

FOUND = [
    # What noise has found: targets that were wrong, or readers that were.
    ("head", b"GET /rooms/lobby HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
    ("config", b'[server]\nlisten = ["127.0.0.1:0"]\nplaygrohunter2 = true\n'),
    ("json", b'{"t": "publish", "room": "chat:1", "data": [11e999]}'),
    ("config", b'[plugins.cha-hunter2]\nrooms = ["lobby"]\n'),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_noise_breaks_a_reader_of_foreign_bytes(target: Target) -> None:
    tally = fuzz.run_block(target.name, 1, 0, INPUTS.get(target.name, USUAL))
    assert not tally.findings, "\n".join(tally.findings)
    assert tally.inputs == sum(tally.outcomes.values())
    assert len(tally.outcomes) >= 2, "all of it ends the same way: the noise reaches nothing"
    assert tally.descriptors <= 0


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found_once_is_not_found_again(name: str, data: bytes) -> None:
    assert fuzz.named(name).check(data)
    configuration.clean_up()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_seed_is_read(target: Target) -> None:
    assert all(target.check(seed) for seed in target.seeds)
    configuration.clean_up()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_coverage_was_found_with_breaks_no_reader(target: Target) -> None:
    inputs = kept(target.name)
    assert len(inputs) > 20
    for data in inputs:
        assert target.check(data), data
    configuration.clean_up()


def test_noise_is_the_same_for_the_same_seed() -> None:
    target = fuzz.named("frames")
    runs = [Noise(seed, target.seeds, target.words, target.build) for seed in ("a", "a", "b")]
    one, again, other = ([noise.next() for _ in range(200)] for noise in runs)
    assert one == again
    assert one != other
    assert len(set(one)) > 190


def test_a_reader_that_breaks_its_promise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> str:
        if b"\x81\x85" in data and len(data) % 7 == 3:
            raise ZeroDivisionError("the planted bug")
        return "fine"

    target = fuzz.named("frames")
    planted = Target("frames", broken, target.seeds, target.words, target.build)
    monkeypatch.setattr(fuzz, "TARGETS", [planted])
    tally = fuzz.run_block("frames", 1, 0, 3000)
    assert tally.findings
    assert "ZeroDivisionError: the planted bug" in tally.findings[0]
    assert tally.findings[0].startswith("--repeat frames 1 ")
    assert not fuzz.report([tally])


def test_the_shares_add_up_and_every_target_gets_some() -> None:
    tallies = fuzz.run(["names", "config"], 2200, 1, 1)
    assert {tally.name: tally.inputs for tally in tallies} == {"names": 2000, "config": 200}
