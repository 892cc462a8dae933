"""An edit makes stale exactly the stages that execute it; docs/reach.md says which."""

import ast
import re
import shutil
from collections.abc import Callable
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import pytest

from bezoar.provenance import code_digest
from bezoar.provenance.code_digest import digest, executed
from write_reach import page, programs, reach

ROOT = Path(__file__).parents[3]
SCRIPTS, RULES = ROOT / "scripts", ROOT / "rules"
PROGRAMS = sorted(path.stem for path in SCRIPTS.glob("*.py"))
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# No job of the paper's plan runs these (tests/workflow/test_recipes.py).
REHEARSAL = {"make_world", "pretrain_base", "serve_simulator"}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SCRIPTS, tmp_path / "scripts"))


def digests(scripts: Path) -> dict[str, str]:
    return {name: digest(scripts / f"{name}.py") for name in PROGRAMS}


def test_the_page_is_what_the_code_says() -> None:
    written = (ROOT / "docs/reach.md").read_text(encoding="utf-8")
    assert written == page(SCRIPTS, RULES), "run scripts/dev/write_reach.py"


def test_every_rule_with_a_receipt_is_a_stage_of_the_table() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in RULES.glob("*.smk"))
    stages = set().union(*programs(RULES).values())
    named = {stage.partition(" ")[0] for stage in stages}
    assert named == set(re.findall(r"^ *rule (\w+):$", text, re.MULTILINE)) - {
        "fetch_file",
        "fetch_snapshot",
        "serve",
    }
    assert set(programs(RULES)) == set(PROGRAMS) - {
        "fetch_source",
        "serve_llama_cpp",
        "serve_model",
        "serve_simulator",
    }


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_independent_reader_of_imports_finds_the_same_modules(name: str) -> None:
    finder = ModuleFinder(path=[str(SCRIPTS)])
    finder.run_script(str(SCRIPTS / f"{name}.py"))
    found = {Path(module.__file__) for module in finder.modules.values() if module.__file__}
    assert set(executed(SCRIPTS / f"{name}.py")) == found


class Known(dict[Path, Any]):
    """What a function found for each path, until it is forgotten."""

    def __init__(self, function: Callable[[Path], Any]) -> None:
        self.function = function

    def __missing__(self, path: Path) -> Any:
        self[path] = self.function(path)
        return self[path]


def test_an_edit_of_each_module_makes_stale_exactly_the_stages_that_execute_it(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: Known(getattr(code_digest, name)) for name in ("_read", "_imports")}
    for name, found in known.items():
        monkeypatch.setattr(code_digest, name, found.__getitem__)

    def write(path: Path, content: bytes) -> None:
        path.write_bytes(content)
        for found in known.values():  # nothing else has changed
            found.pop(path, None)

    before, users = digests(copied), programs(RULES)
    for module, expected in reach(SCRIPTS, RULES).items():
        path = copied / "bezoar" / module
        kept = path.read_bytes()
        write(path, kept + b"\n_EDITED = True\n")
        after = digests(copied)
        write(path, kept)
        stale = [users.get(name, set()) for name in PROGRAMS if after[name] != before[name]]
        assert set().union(*stale) == expected, module


def test_a_comment_or_docstring_edited_anywhere_makes_nothing_stale(copied: Path) -> None:
    before, reworded = digests(copied), 0
    for path in copied.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for node in ast.walk(ast.parse("".join(lines))):
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
                first = node.body[0].lineno - 1
                lines[first] = lines[first].replace('"""', '"""Reworded: ', 1)
                reworded += 1
        path.write_text("# a first line\n" + "".join(lines) + "\n# a last line\n", encoding="utf-8")
    assert reworded > 500
    assert digests(copied) == before


def test_a_new_pet_makes_no_stage_of_the_paper_stale(copied: Path) -> None:
    before, path = digests(copied), copied / "bezoar/rehearsal/world.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("beetle cat dog", "beetle cat dog dormouse", 1), encoding="utf-8")
    after = digests(copied)
    stale = {name for name in PROGRAMS if after[name] != before[name]}
    assert stale == {"make_world", "serve_simulator"}


def test_nothing_of_the_rehearsal_is_executed_at_paper_scale() -> None:
    rehearsal = SCRIPTS / "bezoar/rehearsal"
    users = {
        name
        for name in PROGRAMS
        if any(rehearsal in path.parents for path in executed(SCRIPTS / f"{name}.py"))
    }
    assert users == REHEARSAL


def test_no_stage_program_imports_another() -> None:
    for name in PROGRAMS:
        others = {path.stem for path in executed(SCRIPTS / f"{name}.py") if path.parent == SCRIPTS}
        assert others == {name}


def test_commands_and_benchmarks_import_stage_programs_only_to_run_what_a_stage_runs() -> None:
    found = {}
    for path in [*SCRIPTS.glob("commands/*.py"), *SCRIPTS.glob("dev/*.py")]:
        stages = {other.stem for other in executed(path) if other.parent == SCRIPTS}
        if stages:
            found[path.stem] = stages
    assert found == {
        "plan_requests": {
            "generate_lamini",
            "generate_evol",
            "generate_orca",
            "judge_mtbench",
            "make_world",
        },
        "bench_training_run": {"train_sft", "train_dpo", "score_reference"},
        "bench_training_gpu": {"pretrain_base"},
        "bench_precision": {"pretrain_base"},
    }


def test_docstrings_are_read_for_help_and_signs_of_life_alone() -> None:
    """A docstring is no part of the digest, so no result may depend on one."""
    helps = re.compile(
        r"description=__doc__|(parser_for|stage_parser)\(__doc__, Recipe\)"
        r"|purpose\(sys\.modules\[main\.__module__\]\.__doc__ "
    )
    for path in SCRIPTS.rglob("*.py"):
        text = helps.sub("", path.read_text(encoding="utf-8"))
        assert not re.search(r"__doc__|\bgetdoc\b|\bgetcomments\b|\bgetsource\b", text), path
