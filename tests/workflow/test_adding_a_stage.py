"""docs/adding-a-stage.md, followed to the letter: its example runs once, and is stale when it
should be.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from smallest import RESULTS, ROOT, SCHEMES, planned, snakemake

from bezoar.data.texts import words_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
GUIDE = ROOT / "docs/adding-a-stage.md"
TARGET = f"{RESULTS}/words.json"


def block(step: int, number: int = 0) -> str:
    """The text of a step's code block."""
    text = GUIDE.read_text(encoding="utf-8").split(f"**{step}. ")[1].split(f"**{step + 1}. ")[0]
    return re.findall(r"^```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[number]


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name}: {text.count(old)} of {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smallest rehearsal to which the guide's stage was added."""
    folder = tmp_path_factory.mktemp("stage") / "project"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "scripts/count_words.py").write_text(block(1), encoding="utf-8")
    with (folder / "config/paper.yaml").open("a", encoding="utf-8") as file:
        file.write(block(2))
    schema = folder / "config/schema.yaml"
    head, properties, tail = schema.read_text(encoding="utf-8").rpartition("\nproperties:\n")
    schema.write_text(head + properties + block(2, 1) + tail, encoding="utf-8")
    (folder / "rules/words.smk").write_text(block(3), encoding="utf-8")
    data = 'include: "rules/data.smk"\n'
    replace(folder / "Snakefile", data, data + 'include: "rules/words.smk"\n')
    cards = '        "<results>/base/model.safetensors",\n'
    replace(folder / "Snakefile", cards, f'        "<results>/words.json",\n{cards}')
    layout = folder / "scripts/bezoar/workflow/layout.py"
    replace(layout, '"base preferences hh_sft ', '"base words preferences hh_sft ')
    return folder


def test_the_stage_runs_once_and_counts(project: Path) -> None:
    assert planned(project, TARGET) == {"words": 1}, "none of its inputs is made again"
    done = snakemake(project, TARGET)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert planned(project, TARGET) == {}
    counts = json.loads((project / TARGET).read_text(encoding="utf-8"))
    rows = (project / RESULTS / "filter/evol.jsonl").read_text(encoding="utf-8").splitlines()
    accepted = [row for row in map(json.loads, rows) if row["gpt4_status"] == "Accept"]
    expected = sum(
        len(words_of(row[key])) for row in accepted for key in ("instruction", "response")
    )
    assert counts["evol"] == expected > 0 and set(counts) == set(SCHEMES)


def test_a_change_of_the_program_makes_it_stale_and_no_input(project: Path) -> None:
    program = project / "scripts/count_words.py"
    before = program.read_text(encoding="utf-8")
    try:
        program.write_text(f"{before}\n# a comment\n", encoding="utf-8")
        assert planned(project, TARGET) == {}
        replace(program, "+ with_instruction * ", "+ 2 * with_instruction * ")
        assert planned(project, TARGET) == {"words": 1}
    finally:
        program.write_text(before, encoding="utf-8")


def test_what_is_forgotten_is_named(project: Path) -> None:
    """The configuration is closed: without its schema the new section ends in one line."""
    schema = project / "config/schema.yaml"
    before = schema.read_text(encoding="utf-8")
    try:
        replace(schema, block(2, 1), "")
        done = snakemake(project, "-n", TARGET)
        assert done.returncode != 0 and "unknown key" in done.stderr and "`words`" in done.stderr
    finally:
        schema.write_text(before, encoding="utf-8")


def test_the_written_pages_follow(project: Path) -> None:
    for page in ("deviations", "reach"):
        program = project / f"scripts/dev/write_{page}.py"
        subprocess.run([sys.executable, program], cwd=project, check=True)
    row = "| `words` | `words: {with_instruction: true}` | instructions count, too |"
    assert row in (project / "docs/deviations.md").read_text("utf-8")
    reach = (project / "docs/reach.md").read_text("utf-8")
    assert re.search(r"^\| `data/texts.py` \| .*\bwords \|$", reach, re.MULTILINE)
