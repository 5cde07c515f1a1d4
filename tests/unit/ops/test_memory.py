"""What the system tells about memory: the tightest cgroup counts, and what is not told is not guessed."""

from __future__ import annotations

from pathlib import Path

from relay.ops.memory import Cgroup, give_back, resident_bytes


def cgroup(folder: Path, limit: str, current: int = 0, stat: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(stat)


def of(tmp_path: Path, membership: str) -> Cgroup | None:
    (tmp_path / "membership").write_text(membership)
    return Cgroup.of_this_process(tmp_path / "membership", tmp_path / "cgroup")


def test_the_tightest_limit_around_the_process_counts(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    cgroup(root / "a", "5000")
    cgroup(root / "a" / "b", "max")
    cgroup(root / "a" / "b" / "c", "9000")
    found = of(tmp_path, "1:cpu:/x\n0::/a/b/c\n")
    assert found is not None
    assert (found.folder, found.limit) == (root / "a", 5000)


def test_the_root_of_a_container_has_its_limit(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup", "5000", 3000, "anon 1000\ninactive_file 1200\n")
    found = of(tmp_path, "0::/\n")
    assert found is not None
    assert found.used() == 1800


def test_without_a_limit_or_a_second_version_there_is_none(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup" / "a", "max")
    assert of(tmp_path, "0::/a\n") is None
    assert of(tmp_path, "4:memory:/a\n") is None
    assert Cgroup.of_this_process(tmp_path / "nothing", tmp_path) is None


def test_what_is_gone_is_not_guessed(tmp_path: Path) -> None:
    assert Cgroup(tmp_path, 1).used() is None
    assert resident_bytes(tmp_path / "statm") is None


def test_giving_back_does_no_harm() -> None:
    give_back()
    assert (resident_bytes() or 1) > 0
