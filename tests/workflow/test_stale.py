"""Only stale stages rerun, and all of them: every attack names the exact stages, every no-op none.
See tests/workflow/attacks.py.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import pytest
import yaml
from attacks import (
    ATTACKS,
    CONFIG,
    Attack,
    append,
    downstream,
    nothing,
    receipts,
    reword,
    rules_of,
    statement,
    tried,
)
from smallest import RESULTS, ROOT, other_user, planned, snakemake

from bezoar.workflow.configuration import resolved

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def ask(folder: Path) -> tuple[set[str], dict[str, int]]:
    """The stages that the judge calls stale, and rule -> jobs of the plan, from one dry run."""
    done = snakemake(folder, "-n")
    assert done.returncode == 0, done.stderr[-3000:]
    table = done.stdout.split("Job stats:")[-1] if "Job stats:" in done.stdout else ""
    jobs = {
        name: int(count)
        for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)
        if name not in ("total", "all")
    }
    stages = set(re.findall(r"^stale: ([\w.-]+): ", done.stderr, re.MULTILINE))
    missing = re.search(r"^not made yet: (\d+)", done.stderr, re.MULTILINE)
    return stages | ({"one without a receipt"} if missing else set()), jobs


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished rehearsal, elsewhere, without Snakemake's metadata: that nothing is
    stale in it is the first test.
    """
    settled = snakemake(
        finished
    )  # tests before this one made single stages again, whose receipts the report prints
    assert settled.returncode == 0, settled.stderr[-3000:]
    folder = tmp_path_factory.mktemp("stale") / "carried over"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns(".snakemake"))
    return folder


@pytest.fixture(scope="module")
def held(project: Path) -> dict[str, dict[str, Any]]:
    return receipts(project)


@pytest.fixture(scope="module")
def rules(project: Path) -> set[str]:
    return set(
        re.findall(
            r"^ *rule (\w+):",
            "".join(path.read_text() for path in (project / "rules").glob("*.smk")),
            re.MULTILINE,
        )
    )


def test_there_are_forty_attacks_and_every_stage_is_hit_by_its_own(held: dict[str, Any]) -> None:
    assert (
        sum(bool(attack.stale(held)) for attack in ATTACKS) >= 40
    )  # the others are of programs that only other configurations run
    hit = set().union(
        *(attack.stale(held) for attack in ATTACKS if attack.stale(held) != set(held))
    )
    assert hit == set(held)


def test_results_carried_to_a_fresh_folder_are_not_stale(project: Path) -> None:
    assert ask(project) == (set(), {})


@pytest.mark.parametrize("attack", tried(), ids=lambda attack: attack.name)
def test_an_attack_makes_exactly_its_stages_stale(
    project: Path, held: dict[str, Any], rules: set[str], attack: Attack
) -> None:
    expected = attack.stale(held)
    with attack.on(project):
        stages, jobs = ask(project)
    unnamed = {
        stage for stage in expected if f"{RESULTS}/receipts/{stage}.json" in attack.deleted
    }  # as never made: counted, not named
    assert stages == (expected - unnamed) | ({"one without a receipt"} if unnamed else set())
    assert jobs == rules_of(downstream(expected, held), rules)


def _touch(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.touch()


def _touch_backwards(folder: Path) -> None:
    for path in (folder / RESULTS).rglob("*.json*"):
        os.utime(path, (1, 1))


def _reorder(folder: Path) -> None:
    path = folder / "config/paper.yaml"
    head, *blocks = re.split(r"^(?=\w[\w_]*:)", path.read_text(), flags=re.MULTILINE)
    path.write_text(head + "".join(block.rstrip("\n") + "\n\n" for block in reversed(blocks)))


def _rename_keys_order(folder: Path) -> None:
    config = yaml.safe_load((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(
        "# one more comment\n" + yaml.safe_dump(dict(reversed(config.items())), sort_keys=False)
    )


def _forget(folder: Path) -> None:
    if not (folder / ".snakemake").is_dir():
        ask(folder)
    shutil.rmtree(folder / ".snakemake")


def _docs(folder: Path) -> None:
    for name in ("README.md", "docs/architecture.md", "CHANGELOG.md"):
        append(name)(folder)


def _logs(folder: Path) -> None:
    for name in ("logs", "benchmarks"):
        shutil.rmtree(folder / name, ignore_errors=True)


FILES = ("config/paper.yaml", "config/rehearsal.yaml", CONFIG)
SOURCES = [str(path.relative_to(ROOT)) for path in (ROOT / "scripts").rglob("*.py")]
QUIET = [
    Attack("every file touched", "", _touch),
    Attack("results older than all inputs", "", _touch_backwards),
    Attack("keys of the configurations in another order", "", _reorder, *FILES),
    Attack("a comment, and the laid-over file rewritten", "", _rename_keys_order, *FILES),
    Attack("Snakemake's metadata lost", "", _forget),
    Attack("documents edited", "", _docs, "README.md", "docs/architecture.md", "CHANGELOG.md"),
    Attack(
        "a program that no stage runs edited",
        "",
        statement("scripts/commands/doctor.py"),
        "scripts/commands/doctor.py",
    ),
    Attack("logs and benchmarks removed", "", _logs),
    Attack("another time zone", "", nothing, variables={"TZ": "Pacific/Auckland"}),
    Attack("another locale", "", nothing, variables={"LC_ALL": "C.UTF-8", "LANG": "tr_TR.UTF-8"}),
    Attack("another hash seed", "", nothing, variables={"PYTHONHASHSEED": "7"}),
    Attack("every docstring reworded, a comment in every source", "", reword, *SOURCES),
    Attack("a comment in a rule file", "", append("rules/dpo.smk"), "rules/dpo.smk"),
    Attack("more requests at once", "", lambda folder: _concurrency(folder), "rules/filter.smk"),
]


def _concurrency(folder: Path) -> None:
    text = (folder / "rules/filter.smk").read_text()
    assert "concurrency=16" in text
    (folder / "rules/filter.smk").write_text(text.replace("concurrency=16", "concurrency=3"))


@pytest.mark.parametrize("attack", QUIET, ids=lambda attack: attack.name)
def test_a_change_without_meaning_makes_nothing_stale(project: Path, attack: Attack) -> None:
    with attack.on(project):
        assert ask(project) == (set(), {})


def test_another_user_sees_the_same(project: Path) -> None:
    other = other_user()
    if not other:
        pytest.skip("no other user can be had here (setpriv)")
    for part in project.parents:
        if os.access(part, os.W_OK) and part != Path("/") and str(part).startswith("/tmp/"):
            part.chmod(0o755)
    shutil.rmtree(project / ".snakemake", ignore_errors=True)
    project.chmod(0o777)
    code = (
        f"import sys; sys.path[:0] = [{str(project / 'scripts')!r}]; from"
        " bezoar.provenance.staleness import *; from pathlib import Path; import json\n"
    )
    code += (
        f"for p in sorted(Path('{RESULTS}/receipts').glob('*.json')):\n    r ="
        " json.loads(p.read_text()); h = Hashes(CACHE)\n"
    )
    code += (
        "    print(*changed_files('file', {**files_in(r['inputs']), **files_in(r['outputs'])}, [],"
        " h), end='')"
    )
    done = subprocess.run(
        [*other, sys.executable, "-c", code],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        return [found for key, inner in value.items() for found in leaves(inner, (*path, key))]
    return [(path, value)]


# Section of the configuration -> the stages whose recipe holds it. What is missing here says where
# a file lies, not what is computed.
SECTIONS = {
    "data.duplicates": "data_duplicates",
    "data.contamination": "data_contamination",
    "data.cards.lamini": "data_card_lamini",
    "data.cards.orca": "data_card_orca",
    "data.cards.evol": "data_card_evol",
    "world": "world",
    "pretrain": "base",
    "teacher": "generate_lamini",
    "generate.lamini": "generate_lamini",
    "generate.evol": "generate_evol",
    "generate.orca": "generate_orca",
    "filter": "filter_orca",
    "sft": "sft_orca",
    "preferences": "preferences",
    "hh_sft": "hh_sft",
    "dpo": "dpo",
    "model_card": "model_card_openbezoar-sft",
    "merge": "merge_openbezoar-sft",
    "learning": "learning_base",
    "lm_eval_table": "lm_eval_table",
    "lm_eval": "lm_eval_base",
    "mtbench.answers": "mtbench_answers_base",
    "mtbench.judgments": "mtbench_judgments_base",
    "mtbench.rejudge.strict": "mtbench_rejudge_strict_base",
    "seed": "dpo",
    "scale": "claims",
}
# Where files lie, which rules there are and what they follow, in how many processes, or which model
# a value is of; `base` is the import's, which the rehearsal replaces by `pretrain`. The reference
# has its batch size in its own recipe, by another name; the claims have the paper's judge's.
PLACES = {
    "pathvars",
    "sources",
    "base",
    "released",
    "extra_models",
    "entry",
    "serve",
    "data.remove",
    "launch",
    "generate.shards",
    "generate.shard_wait_s",
    "filter.paper_rater",
    "sft.order",
    "sft.chaining",
    "dpo.reference_batch_size",
    "mtbench.judgments.paper_judge",
}


def test_every_leaf_of_the_configuration_is_in_the_recipe_of_the_stage_it_belongs_to(
    project: Path, held: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    config = resolved(
        [
            str(project / "config/paper.yaml"),
            str(project / "config/rehearsal.yaml"),
            str(project / CONFIG),
        ]
    )
    lost, tried = [], 0
    for path, value in leaves(config):
        if PLACES & {path[0], ".".join(path[:2]), ".".join(path)}:
            continue
        tried += 1
        section = next(
            (
                name
                for name in SECTIONS
                if ".".join(path) == name or ".".join(path).startswith(f"{name}.")
            ),
            None,
        )
        if section is None:
            lost.append(f"{'.'.join(path)}: no stage")
            continue
        inner = path[len(section.split(".")) :] or path
        recipe: Any = held[SECTIONS[section]]["recipe"]
        recipe = recipe["teacher"] if section == "teacher" else recipe
        try:
            for key in inner:
                recipe = recipe[key]
        except (KeyError, TypeError):
            lost.append(f"{'.'.join(path)}: not in the recipe of {SECTIONS[section]}")
            continue
        if recipe != value:
            lost.append(f"{'.'.join(path)}: {value!r} here, {recipe!r} in the recipe")
    record_property("attacks", tried)
    record_property("missed", len(lost))
    assert lost == []


def test_the_code_digest_follows_what_an_independent_reader_of_imports_finds(
    project: Path, held: dict[str, Any]
) -> None:
    from bezoar.provenance.code_digest import executed

    scripts = project / "scripts"
    for program in sorted({receipt["command"][0] for receipt in held.values()}):
        finder = ModuleFinder(path=[str(scripts)])
        finder.run_script(str(scripts / program))
        found = {Path(module.__file__) for module in finder.modules.values() if module.__file__}
        assert set(executed(scripts / program)) >= found, program


def started(folder: Path) -> dict[str, float]:
    return {stage: receipt["started_unix_s"] for stage, receipt in receipts(folder).items()}


def test_only_named_stages_run_and_what_comes_out_the_same_ends_the_matter(project: Path) -> None:
    """Really run: two programs get one more statement; nothing below runs but the report, which
    prints the new receipts' times.
    """
    before = started(project)
    files = {path: path.read_bytes() for path in (project / RESULTS).glob("*.json")}
    for name in ("score_mtbench.py", "collect_lm_eval.py"):
        statement(f"scripts/{name}")(project)
    done = snakemake(project)
    assert done.returncode == 0, done.stderr[-3000:]
    after = started(project)
    assert {stage for stage in after if after[stage] != before[stage]} == {
        "mtbench",
        "lm_eval_table",
        "report",
    }
    assert {path: path.read_bytes() for path in files} == files
    assert planned(project) == {}


def test_a_hand_edited_result_is_made_again_with_the_same_bytes(project: Path) -> None:
    path = project / RESULTS / "mtbench.json"
    right, facts = path.read_bytes(), path.stat()
    path.write_bytes(right.replace(b'"mean": ', b'"mean":  ', 1)[:-1])
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    done = snakemake(project)
    assert done.returncode == 0, done.stderr[-3000:]
    assert path.read_bytes() == right


def test_a_forced_rule_runs_although_nothing_changed(project: Path) -> None:
    before = started(project)["claims"]
    done = snakemake(project, f"{RESULTS}/claims.json", "--forcerun", "claims")
    assert done.returncode == 0, done.stderr[-3000:]
    assert started(project)["claims"] != before
