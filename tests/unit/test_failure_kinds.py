"""docs/failure-kinds.md names tests that exist, and no kind of failure is without one."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/failure-kinds.md").read_text(encoding="utf-8")
NAME = re.compile(r"`(test_\w+)`")


def defined() -> set[str]:
    """Return the names of all tests."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"^(?:async )?def (test_\w+)\(", text, re.MULTILINE))
    return found


def faults(page: str, tests: set[str]) -> list[str]:
    """Return what is wrong with a page's tables: a row without four cells, a kind that appears
    twice, one without tests, a test that does not exist.
    """
    found, kinds = [], set()
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| ") or cells[0] == "kind":
            continue
        if len(cells) != 4 or not all(cells) or cells[0] in kinds:
            found.append(f"row: {cells[0]}")
        elif not NAME.findall(cells[3]):
            found.append(f"no test: {cells[0]}")
        kinds.add(cells[0])
    return [*found, *sorted(set(NAME.findall(page)) - tests)]


def test_every_kind_has_tests_and_every_test_exists() -> None:
    assert faults(PAGE, defined()) == []
    assert len(set(NAME.findall(PAGE))) > 80


def test_a_kind_without_a_test_and_a_test_that_does_not_exist_are_found() -> None:
    head = "| kind | reported | found beside it | tests |\n|---|---|---|---|\n"
    page = (
        f"{head}| a | b | c | `test_x` |\n| d | e | f | none |\n| d | e | f | `test_y` |\n| g |\n"
    )
    assert faults(page, {"test_x"}) == ["no test: d", "row: d", "row: g", "test_y"]
