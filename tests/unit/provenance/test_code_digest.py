"""The digest of a program covers exactly what the program executes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


EVERYTHING = '''
"""Constructs whose trees differ between versions of Python."""
import a.b as c
type_ = {**d, "é": [*e], 1e3: -1j, b"\\xff": ...}
def f(x: int = 1, /, y=True, *z, k: "str" = u"x", **w) -> None:
    "A docstring."
    return f"a{x!r:>{y}}b" "c" f"{z=}" f"" f"{w:%Y-%m}{{}}" rf"\\d{k}"
class A(B, metaclass=C):
    async def g(self):
        async with p as q, r:
            yield (await q for q in s if q)
    @property
    def h(self): return lambda *n: n[1:, ..., None]
match v:
    case {"k": 1, **rest} | [1, *_] if (u := rest): pass
try: pass
except* (E, F) as error: raise error from None
'''


def test_a_syntax_tree_has_the_same_digest_in_every_python() -> None:
    """The value is that of Python 3.11, 3.12 and 3.13."""
    assert (
        code_digest.syntax_digest(EVERYTHING)
        == "1761e43eaa16636fbb998192b317a495902acfa779c142c048a2dca7c0a9ab4f"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x  =  (1)  # a comment"),
        ('"""A."""\nx = 1', '"""B."""\nx = 1'),
        ('def f():\n    """A."""\n    return 1', 'def f():\n    """B."""\n\n    return 1'),
        ('class A:\n    """A."""\n    x: int\n    "its unit"', "class A:\n    x: int"),
        ("f(\n    a,\n    b,\n)", "f(a, b)"),
        ("x = 'a' \"b\"", "x = 'ab'"),
        ("x = f'a{y}' 'b'", "x = f'a{y}b'"),
    ],
)
def test_what_only_a_reader_sees_is_no_part_of_a_digest(one: str, other: str) -> None:
    assert code_digest.syntax_digest(one) == code_digest.syntax_digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = True"),
        ("x = 1", "x = 1.0"),
        ("x = 'a'", "x = b'a'"),
        ("x = 'a'", "x = a"),
        ("f(a, b)", "f(b, a)"),
        ("f(a=b)", "f(b=a)"),
        ("x = f'{a}b'", "x = f'a{b}'"),
        ("x = f'{a!r}'", "x = f'{a!s}'"),
        ("def f(a, /, b): pass", "def f(a, b, /): pass"),
        ("if a:\n    b\n    c", "if a:\n    b\nc"),
        ("x = [[a], b]", "x = [[a, b]]"),
        ("x = 'A text that is used.'", "x = 'A text that was used.'"),
        ("raise A('a message')", "raise A('another message')"),
    ],
)
def test_what_is_executed_is_part_of_a_digest(one: str, other: str) -> None:
    assert code_digest.syntax_digest(one) != code_digest.syntax_digest(other)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text())
def test_no_comment_changes_a_digest_and_every_other_text_does(text: str, other: str) -> None:
    line = re.sub(r"[\r\n\f\0]", " ", text)
    assert code_digest.syntax_digest(f"x = 1  # {line}\n") == code_digest.syntax_digest("x = 1\n")
    same = code_digest.syntax_digest(f"x = {text!r}") == code_digest.syntax_digest(f"x = {other!r}")
    assert same == (text == other)
