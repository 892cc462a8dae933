"""The digest of a program covers exactly what the program executes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bezoar.provenance import code_digest

CODE = Path(code_digest.__file__).parents[2]


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    root = tmp_path / "scripts"
    (root / "bezoar").mkdir(parents=True)
    (root / "bezoar" / "__init__.py").write_text("")
    (root / "bezoar" / "files.py").write_text("A = 1\n")
    (root / "bezoar" / "stats.py").write_text("from bezoar.files import A\n")
    (root / "bezoar" / "other.py").write_text("B = 1\n")
    (root / "score.py").write_text(
        "import json\n\n\ndef late():\n    from bezoar import stats\n    return stats\n"
    )
    return root


def test_imports_are_followed_through_modules_and_into_functions(scripts: Path) -> None:
    names = [
        path.relative_to(scripts).as_posix() for path in code_digest.executed(scripts / "score.py")
    ]
    assert names == ["bezoar/__init__.py", "bezoar/files.py", "bezoar/stats.py", "score.py"]


def test_only_an_edit_of_something_executed_changes_the_digest(scripts: Path) -> None:
    before = code_digest.digest(scripts / "score.py")
    (scripts / "bezoar" / "other.py").write_text("B = 2\n")
    assert code_digest.digest(scripts / "score.py") == before
    (scripts / "bezoar" / "files.py").write_text("A = 2\n")
    assert code_digest.digest(scripts / "score.py") != before


def test_what_a_source_imports_is_kept_by_its_content(
    scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scripts.parent)
    asked = [
        "from bezoar.provenance.code_digest import digest, executed, save",
        "from pathlib import Path",
        "import ast, sys",
        "if sys.argv[1] == 'kept': ast.parse = None",
        "print([p.name for p in executed(Path('scripts/score.py'))])",
        "save()",
    ]
    ask = [sys.executable, "-c", "\n".join(asked)]
    again = [
        subprocess.run(
            [*ask, word],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(CODE)},
        )
        for word in ("first", "kept")
    ]
    assert again[0].returncode == again[1].returncode == 0, again[1].stderr
    assert (
        again[0].stdout
        == again[1].stdout
        == "['__init__.py', 'files.py', 'stats.py', 'score.py']\n"
    )
    (scripts / "score.py").write_text("from bezoar import other\n")
    edited = subprocess.run(
        [*ask, "first"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(CODE)},
    )
    assert edited.stdout == "['__init__.py', 'other.py', 'score.py']\n", edited.stderr
