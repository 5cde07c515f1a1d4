"""`make fuzz`, or `python -m tests.fuzz`: as many inputs as one likes for each reader of foreign bytes, with figures.

    python -m tests.fuzz --inputs 10000000 --processes 2        all targets, that many inputs together
    python -m tests.fuzz --only frames --seed 7 --inputs 50000
    python -m tests.fuzz --atheris 60 --only head               guided by coverage, 60 seconds a target
    python -m tests.fuzz --atheris 600 --corpus DIR             what it learns is kept there, and used by the next run
    python -m tests.fuzz --repeat head 7 1234                   the one input again

Exit status 1 if an input was found that breaks a target's promise; each is printed with what repeats it.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.corpus import keep
from tests.fuzz.in_files import configuration
from tests.fuzz.noise import Noise
from tests.fuzz.targets import TARGETS, Target

# Shares of the inputs; what costs a hundred times as much gets fewer.
SHARES = {"config": 0.1, "session": 0.1, "deflate": 0.2, "head": 0.7}
BLOCK = 50000
MOST_FINDINGS = 5
MAY_GROW = 8 << 20  # bytes that a process may have grown over one block of a target, caches included
REMEMBERS = {"session": 24 << 20}  # what was decided lately, rooms, counters by name: all of it bounded


@dataclass
class Tally:
    """What came of some inputs of one target."""

    name: str
    inputs: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    grown: int = 0
    descriptors: int = 0

    def add(self, other: Tally) -> None:
        self.inputs += other.inputs
        self.seconds += other.seconds
        self.outcomes += other.outcomes
        self.findings += other.findings
        self.grown = max(self.grown, other.grown)
        self.descriptors = max(self.descriptors, other.descriptors)


def named(name: str) -> Target:
    return next(target for target in TARGETS if target.name == name)


def run_block(name: str, seed: int, block: int, inputs: int) -> Tally:
    """One block of inputs. The seed of the noise is (seed, target, block)."""
    target = named(name)
    noise = Noise(f"{seed} {name} {block}", target.seeds, target.words, target.build)
    check = target.check
    tally = Tally(name, inputs)
    for warm in target.seeds:
        check(warm)
    gc.collect()
    memory, descriptors = resident(), len(os.listdir("/proc/self/fd"))
    began = time.process_time()
    for number in range(inputs):
        data = noise.next()
        try:
            tally.outcomes[check(data)] += 1
        except Exception:
            if len(tally.findings) < MOST_FINDINGS:
                trace = traceback.format_exc(limit=-4)
                tally.findings.append(f"--repeat {name} {seed} {block * BLOCK + number}\n{data!r}\n{trace}")
    tally.seconds = time.process_time() - began
    gc.collect()
    tally.grown = resident() - memory
    tally.descriptors = len(os.listdir("/proc/self/fd")) - descriptors
    if name == "config":
        configuration.clean_up()
    return tally


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(names: list[str], inputs: int, seed: int, processes: int) -> list[Tally]:
    """All blocks of all targets, in turn, so that a run that is broken off has seen something of each."""
    shares = {name: SHARES.get(name, 1.0) for name in names}
    each = {name: max(1, round(inputs * share / sum(shares.values()))) for name, share in shares.items()}
    blocks = [
        (name, seed, block, min(BLOCK, each[name] - block * BLOCK))
        for block in range(max(each.values()) // BLOCK + 1)
        for name in names
        if each[name] > block * BLOCK
    ]
    tallies = {name: Tally(name) for name in names}
    if processes == 1:
        for block in blocks:
            tallies[block[0]].add(run_block(*block))
    else:
        with ProcessPoolExecutor(processes) as pool:
            for tally in pool.map(run_block, *zip(*blocks, strict=True)):
                tallies[tally.name].add(tally)
    return list(tallies.values())


def report(tallies: list[Tally]) -> bool:
    """Prints the table and the findings; True: there are none."""
    print(f"{'target':<10}{'inputs':>12}{'CPU s':>9}{'µs each':>9}{'grown KiB':>11}  outcomes")
    for tally in tallies:
        each = 1e6 * tally.seconds / max(1, tally.inputs)
        common = ", ".join(
            f"{word} {100 * count / tally.inputs:.0f} %" for word, count in tally.outcomes.most_common(3)
        )
        rest = f" and {len(tally.outcomes) - 3} more" if len(tally.outcomes) > 3 else ""
        figures = f"{tally.inputs:>12,}{tally.seconds:>9.0f}{each:>9.1f}{tally.grown >> 10:>11}"
        print(f"{tally.name:<10}{figures}  {common}{rest}")
    total = sum(tally.inputs for tally in tallies)
    print(f"{'all':<10}{total:>12,}{sum(tally.seconds for tally in tallies):>9.0f}")
    good = True
    for tally in tallies:
        for finding in tally.findings:
            good = False
            print(f"\nFOUND {finding}")
        if tally.descriptors > 0 or tally.grown > REMEMBERS.get(tally.name, MAY_GROW):
            good = False
            print(f"\nFOUND {tally.name} leaks: {tally.grown} bytes, {tally.descriptors} descriptors in one block")
    print("nothing found" if good else "FOUND something")
    return good


def guided(names: list[str], seconds: int, corpus: str | None) -> bool:
    """Atheris on each target, in a process of its own: it does not return."""
    good = True
    for name in names:
        command = [sys.executable, "-m", "tests.fuzz.guided", name, str(seconds), *filter(None, [corpus])]
        done = subprocess.run(command, check=False)
        good = good and not done.returncode
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--only", action="append", choices=[target.name for target in TARGETS])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--atheris", type=int, metavar="SECONDS", help="guided by coverage, so long on each target")
    parser.add_argument("--corpus", metavar="DIR", help="with --atheris: keeps what coverage was found with")
    parser.add_argument("--keep", metavar="DIR", help="puts what is in such a folder into tests/fuzz/corpus.xz")
    parser.add_argument("--repeat", nargs=3, metavar=("TARGET", "SEED", "NUMBER"))
    given = parser.parse_args()
    names = given.only or [target.name for target in TARGETS]
    if given.repeat:
        name, seed, number = given.repeat[0], int(given.repeat[1]), int(given.repeat[2])
        target = named(name)
        noise = Noise(f"{seed} {name} {number // BLOCK}", target.seeds, target.words, target.build)
        for _ in range(number % BLOCK):
            noise.next()
        print(target.check(noise.next()))
        return 0
    if given.keep:
        print(f"{keep(Path(given.keep))} inputs are kept")
        return 0
    if given.atheris:
        return 0 if guided(names, given.atheris, given.corpus) else 1
    return 0 if report(run(names, given.inputs, given.seed, given.processes)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
