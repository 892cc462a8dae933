"""Promises of the suite itself: it says at its end what it skipped, and why."""

import ast
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_the_suite_ends_with_what_it_skipped_and_what_would_change_that(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "@pytest.mark.skipif(True, reason='no chromium')\n"
        "@pytest.mark.parametrize('width', [1, 2])\n"
        "def test_a(width): pass\n"
        "def test_b(): pytest.skip('no llama here')\n"
        "def test_c(): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    end = done.stdout.partition("not tested here: 3")[2]
    assert "    2  no chromium\n       -> install chromium" in end
    assert "    1  no llama here\n" in end


def test_slow_files_come_first_and_before_them_the_one_that_mostly_waits(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    slow = "import pytest\npytestmark = pytest.mark.slow\n"
    for name, mark in {"a": "", "b": slow, "slurm": slow}.items():
        (tmp_path / f"test_{name}.py").write_text(f"{mark}def test_x(): pass\n")
    collect = ["--collect-only", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *collect], cwd=tmp_path, capture_output=True, text=True
    )
    assert re.findall(r"^test_(\w+)\.py::", done.stdout, re.MULTILINE) == ["slurm", "b", "a"]


def test_every_file_that_plans_or_runs_the_workflow_is_marked_as_slow() -> None:
    texts = {path.name: path.read_text("utf-8") for path in TESTS.glob("workflow/test_*.py")}
    runs = {name for name, text in texts.items() if "from smallest import" in text}
    assert runs <= {name for name, text in texts.items() if "pytest.mark.slow" in text}
    assert len(runs) > 10 and "test_slurm.py" in runs


def silent_exits(tree: ast.AST) -> list[str]:
    """The tests that may end by `return` before their first assertion."""
    found = []
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for test in ast.walk(tree):
        if not (isinstance(test, ast.FunctionDef) and test.name.startswith("test_")):
            continue
        nested = [node for node in ast.walk(test) if isinstance(node, functions)][1:]
        inner = {node for function in nested for node in ast.walk(function)}
        own = [node for node in ast.walk(test) if node not in inner]
        asserts = [node.lineno for node in own if isinstance(node, ast.Assert)]
        returns = [node.lineno for node in own if isinstance(node, ast.Return)]
        if returns and (not asserts or min(returns) < min(asserts)):
            found.append(test.name)
    return found


def test_no_test_passes_by_leaving_early() -> None:
    assert silent_exits(ast.parse("def test_x():\n if no_tool: return\n assert 1")) == ["test_x"]
    found = {
        f"{path.name}: {name}"
        for path in TESTS.rglob("test_*.py")
        for name in silent_exits(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set()
