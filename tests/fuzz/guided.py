"""One target under atheris, which lets coverage guide it: `python -m tests.fuzz.guided TARGET SECONDS [CORPUS]`.

What it found worth keeping is in CORPUS/TARGET afterwards, and is where the next run goes on.

Not here: targets. The one rule: what reads the bytes is imported under instrumentation: else nothing guides.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def quoted(word: bytes) -> str:
    """A line of a dictionary of libFuzzer's."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["relay", "wsproto", "h11"]):
        from tests.fuzz import targets
        from tests.fuzz.corpus import kept
    name, seconds = sys.argv[1], int(sys.argv[2])
    target = next(one for one in targets.TARGETS if one.name == name)
    with tempfile.TemporaryDirectory(prefix="relay-fuzz-") as folder:
        corpus = Path(sys.argv[3] if len(sys.argv) > 3 else folder, name)
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate([*target.seeds, *kept(name)]):
            Path(corpus, f"seed{number}").write_bytes(seed)
        words = Path(folder, "words")
        words.write_text("".join(map(quoted, filter(None, target.words))))
        arguments = [f"-max_total_time={seconds}", "-max_len=1200", f"-dict={words}", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *arguments, str(corpus)], lambda data: target.check(data) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
