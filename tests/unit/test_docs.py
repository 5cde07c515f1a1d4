"""The documentation says what the code says: codes, dependencies, commands, and links that lead somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

from relay.errors import CLOSE_CODES, ERROR_CODES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def rows(page: Path, *, columns: int) -> dict[str, list[str]]:
    """The rows of a page's tables with that many columns, by what stands in the first one."""
    found = {}
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == columns:
            found[cells[0].strip("`")] = cells[1:]
    return found


def test_every_error_code_is_documented_with_its_meaning() -> None:
    documented = rows(DOCS / "protocol.md", columns=2)
    assert {code: [meaning] for code, meaning in ERROR_CODES.items()}.items() <= documented.items()


def test_every_close_code_is_documented_and_no_other() -> None:
    documented = {key: cells for key, cells in rows(DOCS / "close-codes.md", columns=4).items() if key.isdigit()}
    assert documented == {
        str(int(code)): [f"`{code.name}`", "yes" if again else "no", meaning]
        for code, (meaning, again) in CLOSE_CODES.items()
    }


def test_every_dependency_has_its_reason_and_every_reason_its_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {re.match(r"[A-Za-z0-9._-]+", requirement)[0] for requirement in wanted}  # type: ignore[index]
    reasons = rows(DOCS / "why" / "dependencies.md", columns=2)
    assert {name for name in reasons if name != "package" and not name.startswith("-")} == names
    assert all(reasons[name][0] for name in names)


def test_the_readme_names_the_two_commands_first() -> None:
    text = (ROOT / "README.md").read_text()
    assert re.findall(r"^    (make \w+)", text, re.MULTILINE)[:2] == ["make run", "make test"]
    assert len(text.splitlines()) <= 60


def test_every_verb_in_the_docs_is_one_of_the_makefile() -> None:
    verbs = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"run", "test", "check", "certs", "bench", "clean", "help"} <= verbs
    for page in PAGES:
        used = set(re.findall(r"`make (\w+)", page.read_text())) | set(
            re.findall(r"^    make (\w+)", page.read_text(), re.MULTILINE)
        )
        assert used <= verbs, page


def heading_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = unquote(target).partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.relative_to(ROOT)}: {target} is not there"
        if anchor:
            text = there.read_text()
            anchors = [
                *map(heading_anchor, re.findall(r"^#+ (.*)", text, re.MULTILINE)),
                *re.findall(r'<a id="(.*?)">', text),
            ]
            assert anchor in anchors, f"{page.relative_to(ROOT)}: no heading for {target}"


@pytest.mark.parametrize("folder", [DOCS, DOCS / "why", DOCS / "codes"], ids=lambda folder: folder.name)
def test_every_page_is_in_its_index(folder: Path) -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)", (folder / "README.md").read_text()))
    assert {page.name for page in folder.glob("*.md")} - {"README.md"} <= linked


def test_every_test_that_the_security_page_names_is_there() -> None:
    folder = ""
    for cell in re.findall(r"`((?:tests|benchmarks)[\w/.]*|test_\w+\.py)`", (DOCS / "security.md").read_text()):
        folder = cell.rpartition("/")[0] if "/" in cell else folder
        path = ROOT / cell if "/" in cell or cell == "benchmarks" else ROOT / folder / cell
        assert path.exists(), cell


def test_the_service_unit_knows_the_status_of_a_wrong_configuration() -> None:
    unit = (ROOT / "deploy" / "relay.service").read_text()
    assert "\nRestartPreventExitStatus=78\n" in unit
    assert "\nExecReload=kill -HUP $MAINPID\n" in unit


def test_no_page_names_a_path_of_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|tmp|root|home)/", page.read_text()), page
