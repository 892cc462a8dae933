"""`make bench`: what is kept of a run, and when one is refused."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

import bench
import bench_data
import bench_memory
import bench_training
import measure_growth
from bezoar.errors import UserError
from bezoar.files import write_jsonl
from bezoar.readers import read_jsonl

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
    said = capsys.readouterr().out
    assert "client: about 4 minutes (a guess: no whole run on record)" in said
    assert "in all: about 4 minutes" in said
    assert first["section"] == SECTION and first["busy"] is None and first["seconds"] > 0
    assert first.keys() >= {"commit", "processor", "flags", "cores", "date"}
    assert len(run(page, "--arguments=--repeats 1")) == 2
    assert "(one run on record)" in capsys.readouterr().out
    table = page.read_text().partition("## Over time")[2]
    assert table.count("client, ratio to the bare loop while sending: 0.90") == 2
    assert "client, `--repeats 1`, 0" in table and "0.90 (" not in table


def test_findings_outlive_the_numbers_and_are_no_part_of_the_record(page: Path) -> None:
    run(page)
    findings = f"{SECTION}\n### Findings\n- Faster than before.\n"
    page.write_text(page.read_text().replace(SECTION, findings))
    assert [record["section"] for record in run(page)] == [SECTION, SECTION]
    assert page.read_text().count(f"{findings}\n## Over time\n") == 1


def test_what_is_written_by_hand_is_among_the_findings() -> None:
    texts = [bench.read_section(PAGE, part.section) for part in bench.PARTS.values()]
    assert [line for text in texts for line in text.splitlines() if line.startswith("- ")] == []


def test_a_peak_is_the_process_s_own() -> None:
    """getrusage's counts the memory of the process that started it, too."""
    texts = Path(bench_data.__file__).parent.glob("*.py")
    assert [path for path in texts if "RUSAGE_SELF).ru_maxrss" in path.read_text("utf-8")] == []


@pytest.mark.parametrize("title", ["Data, real-looking", "Data"])
def test_a_part_is_run_with_its_own_arguments_and_writes_its_own_section(
    page: Path, title: str
) -> None:
    history = page.with_suffix(".jsonl")
    page.with_name("bench_data.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom bench_page import replace_section\n"
        f"replace_section(Path(sys.argv[2]), {title!r}, ' '.join(sys.argv[3:]))\n"
    )
    command = ["real-data", "--page", str(page), "--history", str(history)]
    if title == "Data":
        with pytest.raises(UserError, match="wrote no section `Data, real-looking`"):
            bench.main(command)
        assert not history.exists()
        return
    bench.main(command)
    (record,) = map(json.loads, history.read_text().splitlines())
    assert record["section"].strip() == "--texts real-looking"


def test_a_number_stands_beside_its_change_on_such_a_processor() -> None:
    run = {"part": "client", "arguments": "", "processor": "A", "flags": "avx2", "cores": 2}
    first, other, last = (
        run | {"section": SECTION.replace("0.90", rate)} | more
        for rate, more in (("0.80", {}), ("2.00", {"flags": "avx512f"}), ("1.00", {}))
    )
    (found,) = bench.numbers(last, [first, other])
    assert found == "client, ratio to the bare loop while sending: 1.00 (+25 %)"
    (found,) = bench.numbers(other, [first])
    assert found.endswith(": 2.00")
    void = run | {"section": SECTION.replace("0.90", "void: 0.2 apart")}
    assert list(bench.numbers(void, [first])) == []


def test_the_time_said_before_a_part_is_that_of_this_processor() -> None:
    here = {"processor": bench.processor(), "flags": bench.flags(), "cores": bench.os.cpu_count()}
    runs = [
        {"part": "client", "arguments": "", "seconds": seconds} | here | more
        for seconds, more in ((60.0, {"processor": "another"}), (240.0, {}))
    ]
    assert bench.expected("client", runs) == (4.0, "one run on record")
    assert bench.expected("client", runs[:1]) == (1.0, "one run on record, of another processor")


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
    with pytest.raises(UserError, match="PART=speed: expected one of data, real-data, client"):
        bench.main(["speed", "--page", str(page)])


def tables() -> dict[str, str]:
    """Return what the programs write of the numbers that are not on the page yet, by part."""
    run = dict.fromkeys(("seconds", "cpu_s", "tokens", "supervised", "pairs", "places"), 2.0)
    run |= dict.fromkeys(
        ("reference_s", "reference_cpu_s", "startup_s", "evaluation_s", "peak_mib"), 1.0
    )
    found = {}
    for kind, ways in bench_training.WAYS.items():
        runs, first = {name: [run] for name in ways}, next(iter(ways))
        losses = {name: [1.0] for name in ways}
        lines = bench_training.table(runs, losses, 2.0, first, first)
        sound = dict.fromkeys(ways, "")
        lines += bench_training.ratios(runs, first, bench_training.PEERS[kind], sound)
        found[kind] = "\n".join(lines)
    one = {"mib": 1.0, "loss": 0.7}
    found["memory"] = "\n".join(
        bench_memory.row("DPO", words, 2048, lambda way: [one]) for words in (32000, 49152)
    )
    results = [
        {"tool": tool, "rows": rows, "seconds": 1.0, "all": [1.0], "bytes": 1, "found": 1}
        for tool, rows in (("duplicates", 1_000_000), (bench_data.ROUGE, 100_000))
    ]
    return found | {"real-data": bench_data.section(results, "")}


@pytest.mark.parametrize(("part", "row", "column", "what"), bench.WATCHED)
def test_the_numbers_to_watch_stand_in_the_page_or_in_the_table_of_their_program(
    part: str, row: str, column: int, what: str
) -> None:
    written = bench.read_section(PAGE, bench.PARTS[part].section)
    sections = [written, tables().get(part, "")]
    found = [bench.value(section, row, column) for section in sections]
    assert any(re.fullmatch(r"[\d,.]+", number or "") for number in found), what


def test_growth_is_from_the_smallest_size() -> None:
    results = [
        {"tool": "duplicates", "rows": rows, "seconds": seconds, "all": [seconds]}
        | {"bytes": 2**20, "found": 1}
        for rows, seconds in ((10_000, 0.5), (1_000_000, 60.0))
    ]
    lines = bench_data.section(results, "bench_data.py").splitlines()
    assert lines[-2].endswith("| 1 | – |") and lines[-1].endswith("| 120 times from 10,000 |")


def test_real_looking_texts_follow_each_other_as_the_real_ones_do(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    said = "\n\nHuman: what is {}?\n\nAssistant: No.\n\nHuman: why\n\nAssistant: Yes."
    write_jsonl(file, [{"chosen": said.format(what)} for what in ("a cat", "a dog")])
    texts = bench_data.said(file)
    assert texts == [["what", "is", "a", "cat?"], ["why"], ["what", "is", "a", "dog?"]]
    draw = bench_data.real_looking(random.Random(0), texts)
    drawn = {" ".join(draw()) for _ in range(100)}
    assert {"what is a dog?", "why"} <= drawn and len(drawn) < 40
    path = bench_data.make_rows(20, tmp_path, lambda rng: bench_data.real_looking(rng, texts))
    assert len(read_jsonl(path)) == 20


def test_a_run_of_a_machine_with_a_gpu_is_kept_under_its_name(monkeypatch: Any) -> None:
    receipt = {"stage": "dpo", "wall_s": 38.5, "peak_memory_bytes": 7.9e9, "git_commit": "c0ffee1"}
    there = {"cores": 16, "gpu": "NVIDIA H200", "gpu_peak_bytes": 2.3e9}
    runs = [{"dpo": receipt | {"hardware": hardware}} for hardware in (there, {"cores": 2})]
    monkeypatch.setattr(measure_growth, "finished", lambda results: runs.pop(0))
    dress = ["config/rehearsal.yaml", "config/dress-rehearsal.yaml"]
    found, here = (measure_growth.measured(Path("results"), dress) for _ in range(2))
    assert found["machine"] == "NVIDIA H200, 16 cores" and " x " in here["machine"]
    assert list(found["rules"]) == ["dpo"] and found["rules"]["dpo"]["seconds"] == 38.5
    assert found["rules"]["dpo"]["at_most_s"] < here["rules"]["dpo"]["at_most_s"]


def test_growth_is_written_from_all_runs_that_are_kept(tmp_path: Path) -> None:
    cost = {"seconds": 7.4, "mem_mb": 504, "at_most_s": 36.0, "asked_mb": 1200}
    runs = [
        {"scale": scale, "parameters": size, "machine": "2 x A", "commit": "c0ffee1"}
        | {"rules": {rule: cost | {"seconds": seconds}}}
        for scale, size, rule, seconds in (
            ("trial", 135_000_000, "sft", 36.4),
            ("rehearsal", 2_400_000, "merge", 7.4),
        )
    ]
    kept, page, drawn = (tmp_path / name for name in ("runs.jsonl", "page.md", "figure.svg"))
    write_jsonl(kept, runs)
    places = ["--runs", str(kept), "--page", str(page), "--figure", str(drawn)]
    measure_growth.main(places)
    first = [path.read_bytes() for path in (kept, page, drawn)]
    text = page.read_text()
    assert "| seconds / at most | 1. rehearsal, 2.4 M | 2. trial, 135 M |" in text
    assert "| merge | 7 / 36 | – |" in text and "| sft | – | 504 / 1,200 |" in text
    assert "\nLonger than the bound: sft in run 2.\n" in text
    assert drawn.read_text().count("2. trial, 135 M") == 1
    assert "| **a cluster, 8 GPUs a training** |" in text
    measure_growth.main(places)
    assert [path.read_bytes() for path in (kept, page, drawn)] == first
