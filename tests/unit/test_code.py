"""The digest of a program covers exactly what the program executes."""

from pathlib import Path

import pytest

from bezoar import code


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    root = tmp_path / "scripts"
    (root / "bezoar").mkdir(parents=True)
    (root / "bezoar" / "__init__.py").write_text("")
    (root / "bezoar" / "files.py").write_text("A = 1\n")
    (root / "bezoar" / "stats.py").write_text("from bezoar.files import A\n")
    (root / "bezoar" / "other.py").write_text("B = 1\n")
    (root / "score.py").write_text("import json\n\n\ndef late():\n    from bezoar import stats\n    return stats\n")
    return root


def test_imports_are_followed_through_modules_and_into_functions(scripts: Path) -> None:
    names = [path.relative_to(scripts).as_posix() for path in code.executed(scripts / "score.py")]
    assert names == ["bezoar/__init__.py", "bezoar/files.py", "bezoar/stats.py", "score.py"]


def test_only_an_edit_of_something_executed_changes_the_digest(scripts: Path) -> None:
    before = code.digest(scripts / "score.py")
    (scripts / "bezoar" / "other.py").write_text("B = 2\n")
    assert code.digest(scripts / "score.py") == before
    (scripts / "bezoar" / "files.py").write_text("A = 2\n")
    assert code.digest(scripts / "score.py") != before
