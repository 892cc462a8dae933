"""`make bench`: what is kept of a run, and when one is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import bench
import measure_growth
from bezoar.errors import UserError
from bezoar.files import write_jsonl

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"
SECTION = "| client | 5,000 | 625 (624–627) | 603 | 622 | 0.90 , 0.94 , 0.95 | 81 |\n"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page beside a program that stands for bench_client.py; the machine is idle."""
    program = tmp_path / "bench_client.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\nfrom bench_page import replace_section\n"
        f"replace_section(Path(sys.argv[2]), 'LLMClient', {SECTION!r})\n"
        "sys.exit('--fail' in sys.argv)\n"
    )
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "bench.py"))
    monkeypatch.setenv("PYTHONPATH", f"{PAGE.parents[1]}/scripts:{PAGE.parents[1]}/scripts/dev")
    monkeypatch.setattr(bench.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    return tmp_path / "benchmarks.md"


def run(page: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run the part and return what is on record."""
    history = page.with_suffix(".jsonl")
    bench.main(["client", *arguments, "--page", str(page), "--history", str(history)])
    return [json.loads(line) for line in history.read_text().splitlines()]


def test_every_run_is_kept_and_shown(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (first,) = run(page)
    assert "client: no whole run on record" in capsys.readouterr().out
    assert first["section"] == SECTION and first["busy"] is None and first["seconds"] > 0
    assert first.keys() >= {"commit", "processor", "flags", "cores", "date"}
    assert len(run(page, "--arguments=--repeats 1")) == 2
    assert "(one run on record)" in capsys.readouterr().out
    table = page.read_text().partition("## Over time")[2]
    assert table.count("client, ratio to the bare loop while sending: 0.90") == 2
    assert "client, `--repeats 1`, 0" in table


def test_a_busy_machine_is_refused_or_marked(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    monkeypatch.setattr(bench, "CALM", 0)
    with pytest.raises(UserError, match=r"load average of 99\.0 on \d+ cores.*BUSY=1"):
        run(page)
    assert not page.exists()
    (marked,) = run(page, "--busy")
    assert "99.0" in marked["busy"] and "busy machine" in page.read_text()


def test_a_part_that_fails_leaves_no_record(page: Path) -> None:
    with pytest.raises(UserError, match=r"bench_client\.py ended with 1"):
        run(page, "--arguments=--fail")
    assert not page.with_suffix(".jsonl").exists()
    with pytest.raises(UserError, match="PART=speed: expected one of data, client"):
        bench.main(["speed", "--page", str(page)])


@pytest.mark.parametrize(("part", "row", "column", "what"), bench.WATCHED)
def test_the_numbers_to_watch_stand_in_the_page(
    part: str, row: str, column: int, what: str
) -> None:
    section = bench.read_section(PAGE, bench.PARTS[part])
    assert re.fullmatch(r"[\d,.]+", bench.value(section, row, column) or ""), what


def test_growth_is_written_from_all_runs_that_are_kept(tmp_path: Path) -> None:
    cost = {"seconds": 7.4, "mem_mb": 504, "at_most_s": 36.0, "asked_mb": 1200}
    runs = [
        {"scale": scale, "parameters": size, "machine": "2 x A", "commit": "c0ffee1"}
        | {"rules": {rule: cost}}
        for scale, size, rule in (("trial", 135_000_000, "sft"), ("rehearsal", 2_400_000, "merge"))
    ]
    kept, page, drawn = (tmp_path / name for name in ("runs.jsonl", "page.md", "figure.svg"))
    write_jsonl(kept, runs)
    places = ["--runs", str(kept), "--page", str(page), "--figure", str(drawn)]
    measure_growth.main(places)
    first = [path.read_bytes() for path in (kept, page, drawn)]
    text = page.read_text()
    assert "| seconds / at most | 1. rehearsal, 2.4 M | 2. trial, 135 M |" in text
    assert "| merge | 7 / 36 | – |" in text and "| sft | – | 504 / 1,200 |" in text
    assert drawn.read_text().count("2. trial, 135 M") == 1
    measure_growth.main(places)
    assert [path.read_bytes() for path in (kept, page, drawn)] == first
