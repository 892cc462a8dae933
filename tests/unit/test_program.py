"""How a program ends: in one line that a user can act on, or as a bug that says that it is one."""

import ast
import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bezoar import program

SCRIPTS = Path(program.__file__).parents[1]
START = "import errno, os, sys\nfrom bezoar import program\nfrom bezoar.errors import UserError\n"


PROGRAMS = [path for room in (".", "commands", "dev") for path in (SCRIPTS / room).glob("*.py")]


def required(tree: ast.Module) -> list[str]:
    """The options without which a program does not start."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if getattr(call.func, "id", "") == "stage_parser":
            found += ["--recipe", "--code", "--receipt"]
        if any(word.arg == "required" for word in call.keywords):
            found += [str(name.value) for name in call.args if isinstance(name, ast.Constant)]
    return found


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_the_usage_of_a_program_can_be_followed(path: Path) -> None:
    """It has every required option, and a recipe with all its keys or a `…` for the others."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    usage = ast.get_docstring(tree) or ""
    assert [option for option in required(tree) if option not in usage] == []
    recipes = re.findall(r"--recipe '(\{.*?\})'", usage, re.DOTALL)
    assert [recipe for recipe in recipes if "…" not in recipe and '"seed"' not in recipe] == []


def ran(body: str, **options: object) -> "subprocess.CompletedProcess[str]":
    code = f"{START}def main():\n    {body}\nprogram.run(main)\n"
    return subprocess.run(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **{"stdout": subprocess.PIPE, "env": {"PYTHONPATH": str(SCRIPTS)}, **options},  # type: ignore[call-overload]
    )


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("raise UserError('a.jsonl:3: expected a text')", 2, "error: a.jsonl:3: expected a text\n"),
        ("raise KeyboardInterrupt", 130, "error: interrupted; run it again to continue\n"),
        ("raise MemoryError", 2, "error: out of memory; "),
        (
            "raise OSError(errno.ENOSPC, 'full', '/big/x')",
            2,
            "error: /big/x: No space left on device; free some space and run it again\n",
        ),
        ("raise OSError(errno.EDQUOT, 'full')", 2, "error: Disk quota exceeded; "),
    ],
)
def test_what_a_user_can_act_on_is_one_line(body: str, status: int, message: str) -> None:
    done = ran(body)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


@pytest.mark.parametrize("body", ["raise KeyError('x')", "raise OSError(errno.ENXIO, 'bad')"])
def test_anything_else_is_a_bug_and_says_so_before_its_traceback(body: str) -> None:
    done = ran(body)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()[:2]
    assert first == program.BUG and second.startswith("Traceback")


def test_a_reader_that_goes_away_ends_a_program_silently() -> None:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        done = ran("print('x' * 1_000_000)", stdout=reader.stdin)
    assert (done.returncode, done.stderr) == (program.BROKEN_PIPE, "")


@pytest.mark.parametrize(("rank", "said"), [("0", "a line\n"), ("1", "")])
def test_of_several_processes_the_first_alone_says_something(rank: str, said: str) -> None:
    environment = {"PYTHONPATH": str(SCRIPTS), "RANK": rank}
    assert ran("print('a line')", env=environment).stdout == said
    failed = ran("print('a line'); raise UserError('no rows')", env=environment)
    assert (failed.returncode, failed.stdout) == (2, said)
    assert failed.stderr == "error: no rows\n"


def test_what_ends_well_ends_with_status_0() -> None:
    done = ran("print('done')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OutOfMemoryError("CUDA: tried to allocate 2 GiB"), "out of memory; "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory; "),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full; "),
        (RuntimeError("I/O error: File too large (os error 27)"), "the disk is full; "),
        (FileNotFoundError(2, "none", "a/b"), "a/b: No such file or directory; bring it"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/x']"), "no place for tem"),
        (OSError(errno.ENOLCK, "x"), "No locks available; its file system has no locks (Lustre"),
        (OSError(errno.ESTALE, "x", "a/b"), "a/b: Stale file handle; its disk or network file sys"),
        (OSError(errno.EMFILE, "x", "a"), "a: Too many open files; too many files are open at onc"),
        (
            BlockingIOError(errno.EAGAIN, "fork"),
            "Resource temporarily unavailable; no more process",
        ),
        (RuntimeError("I/O error: x (os error 5)"), "Input/output error; its disk or network file"),
        (
            RuntimeError("can't start new thread"),
            "Resource temporarily unavailable; no more process",
        ),
    ],
)
def test_what_the_machine_lacks_is_one_line_whoever_says_it(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        program.run(main)
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and shown.startswith(f"error: {line}") and shown.count("\n") == 1


@pytest.mark.parametrize(
    ("redirection", "status", "message"),
    [(">&-", 0, ""), (">&- 2>&-", 0, ""), ("> /dev/full", 2, "error: No space left on device; ")],
)
def test_a_stdout_that_takes_nothing_gives_no_traceback(
    redirection: str, status: int, message: str
) -> None:
    code = f"{START}def main():\n    print('x')\nprogram.run(main)\n"
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, code],
        env={"PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith(message) and done.stderr.count("\n") == bool(message)
