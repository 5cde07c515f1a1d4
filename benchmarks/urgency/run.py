"""The command: who is measured over which link, and what becomes of the results.

    python -m benchmarks.urgency [--rate 20 --delay 20 --queue 256 --loss 0] [--server relay --mode parts] [--quick]
    python -m benchmarks.urgency --all --write-docs
    python -m benchmarks.urgency slow-readers|conflation

Not here: measuring (measure), showing (report). The one rule: what could not be measured is said, and the status is 1.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.ctools import ROOT, Missing, compile_tools
from benchmarks.urgency import conflation, report, slow_readers
from benchmarks.urgency.contestants import Contestant, Stage, chosen, install_packages
from benchmarks.urgency.link import Profile, check
from benchmarks.urgency.measure import Plan, Result, RunFailed, run

PROFILES: Final = (
    Profile("20", 20, 20, 256),
    Profile("20-loss", 20, 20, 256, loss=1.0),
    Profile("2", 2, 20, 256),
    Profile("100", 100, 5, 256),
)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.urgency",
        description="How late an urgent message is while megabytes of bulk are on their way to the same client.",
    )
    parser.add_argument("what", nargs="?", default="urgency", choices=("urgency", "slow-readers", "conflation"))
    parser.add_argument("--rate", type=float, help="Mbit/s each way (20)")
    parser.add_argument("--delay", type=float, help="ms one way (20)")
    parser.add_argument("--queue", type=int, help="KB of queue at the bottleneck (256)")
    parser.add_argument("--loss", type=float, help="per cent of packets lost (0)")
    parser.add_argument("--profile", choices=[one.name for one in PROFILES], help="one of the links of the tables")
    parser.add_argument("--all", action="store_true", help="all links of the tables")
    parser.add_argument("--server", action="append", default=[], help="relay, websockets, ws, socketio; again for more")
    parser.add_argument("--mode", action="append", default=[], help="parts, two-sockets, plain, 16k; await, fifo")
    parser.add_argument("--seconds", type=float, help="of bulk at the link's rate (27: 64 MB at 20 Mbit/s)")
    parser.add_argument("--quick", action="store_true", help="six seconds each")
    parser.add_argument("--rounds", type=int, help="repeat (1; slow-readers 5); shown is the median round by p99")
    parser.add_argument(
        "--congestion",
        help="congestion control of the server's side, one that net namespaces are allowed: bbr, reno (the system's)",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the relay")
    parser.add_argument("--source", type=Path, default=ROOT, help="folder of the relay to measure (this one)")
    parser.add_argument("--write-docs", action="store_true", help="put the tables and the picture into docs/")
    return parser.parse_args(arguments)


def profiles(options: argparse.Namespace) -> list[Profile]:
    if options.all:
        return list(PROFILES)
    base = next(one for one in PROFILES if one.name == (options.profile or "20"))
    given = {name: getattr(options, name) for name in ("rate", "delay", "queue", "loss")}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return [base]
    changed = replace(base, **given)
    return [replace(changed, name=f"{changed.rate:g}-{changed.delay:g}-{changed.queue}-{changed.loss:g}")]


def measure_all(options: argparse.Namespace, contestants: list[Contestant]) -> dict[Profile, list[Result]]:
    found: dict[Profile, list[Result]] = {}
    for profile in profiles(options):
        seconds = options.seconds or (6.0 if options.quick else 27.0)
        plan = Plan(idle=1.5 if options.quick else 3.0, seconds=seconds)
        tell(f"\n{profile.title}")
        found[profile] = [_rounds(options, contestant, profile, plan) for contestant in contestants]
    return found


def _rounds(options: argparse.Namespace, contestant: Contestant, profile: Profile, plan: Plan) -> Result:
    """The median round."""
    results = []
    for _ in range(options.rounds or 1):
        with tempfile.TemporaryDirectory(prefix="urgency-") as folder:
            try:
                stage = Stage.prepare(Path(folder), options.set, options.source.resolve())
                result = run(contestant, profile, plan, stage, options.congestion)
            except RunFailed as failure:
                result = Result(contestant.name, profile.name, failed=str(failure))
        tell(report.in_short(result))
        if result.failed:
            return result
        results.append(result)
    return sorted(results, key=lambda one: one.p99)[len(results) // 2]


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measure_urgency(options: argparse.Namespace) -> bool:
    """Prints the tables. False: something failed."""
    check()
    contestants = chosen(options.server, options.mode)
    for one in [one for one in contestants if one.why_not()]:
        tell(f"{one.title} is left out: {one.why_not()}")
        contestants.remove(one)
    if any(one.node for one in contestants):
        install_packages()
    found = measure_all(options, contestants)
    for profile, results in found.items():
        print(f"\n## {profile.title}\n\n{report.table(results)}")
    tell(f"\n{report.save(found, vars(options))}")
    if options.write_docs:
        report.write_docs(found)
    return not any(result.failed for results in found.values() for result in results)


def measure_conflation(options: argparse.Namespace, stage: Stage) -> str:
    check()
    seconds = options.seconds or (5.0 if options.quick else 15.0)
    clients = conflation.CLIENTS
    return conflation.lines([conflation.measure(stage, client, seconds, options.congestion) for client in clients])


def measure_slow_readers(options: argparse.Namespace, stage: Stage) -> str:
    seconds = options.seconds or (3.0 if options.quick else 8.0)
    return slow_readers.lines(slow_readers.measure(stage, compile_tools(), options.rounds or 5, seconds))


def measure_block(options: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="urgency-") as folder:
        stage = Stage.prepare(Path(folder), options.set, options.source.resolve())
        try:
            said = (measure_conflation if options.what == "conflation" else measure_slow_readers)(options, stage)
        except RunFailed as failure:
            tell(f"FAILED: {failure}")
            return False
    print(said)
    if options.write_docs:
        report.write_block(options.what, said)
    return True


def main() -> None:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every `finally` has its turn
    try:
        done = measure_urgency(options) if options.what == "urgency" else measure_block(options)
    except Missing as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(not done)
