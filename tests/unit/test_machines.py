"""Promises about the machines of users: locales, names of directories, links, disks that are full
or cannot be written. A program works there, or ends in one line and leaves nothing half-written.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import limited
import pytest
from peer import SETTINGS, Peer

from bezoar.files import write_jsonl
from bezoar.llm.answer_store import Store
from bezoar.readers import read_json, read_jsonl

SCRIPTS = Path(__file__).parents[2] / "scripts"
PAIR = {
    "chosen": "\n\nHuman: Grüße, wie geht’s …\n\nAssistant: gut",
    "rejected": "\n\nHuman: Grüße, wie geht’s …\n\nAssistant: 悪い",
}


def command(folder: str = ".", out: str = ".") -> list[str]:
    """Prepare preferences, a stage of standard library and our own code, in the directory."""
    return [
        str(SCRIPTS / "prepare_preferences.py"),
        *("--data", f"{folder}/rows.jsonl", "--pairs", f"{out}/pairs.jsonl"),
        *("--counts", f"{out}/counts.json", "--receipt", f"{out}/receipt.json"),
        *("--recipe", '{"first": 9, "seed": 0}', "--code", "x"),
    ]


def ran(
    words: list[str], folder: Path, limit: Callable[[], None] | None = None, **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    kept = {
        **{"PATH": os.environ["PATH"], "PYTHONPATH": str(SCRIPTS), "HOME": str(folder)},
        "PYTHONDONTWRITEBYTECODE": "1",  # a limit on files would cut it short, for everybody
    }
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=kept | environment,
        preexec_fn=limit,
        capture_output=True,
        check=False,
    )


def file_size(most: int) -> Callable[[], None]:
    """A limit on the size of a file, which stands for a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return limit


def one_line(done: "subprocess.CompletedProcess[bytes]") -> str:
    """The line that a program ended with, without signs of life that a slow machine adds."""
    lines = done.stderr.decode(errors="replace").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("-- "))
    assert done.returncode == 2 and text.startswith("error: ") and text.count("\n") == 1, text
    return text


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A directory with four hundred pairs."""
    write_jsonl(tmp_path / "rows.jsonl", [PAIR] * 400)
    return tmp_path


@pytest.fixture(scope="session")
def latin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a German who has set Latin-1."""
    folder = tmp_path_factory.mktemp("locales")
    name = "de_DE.ISO-8859-1"
    if not shutil.which("localedef"):
        pytest.skip("no localedef to make a locale with")
    make = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / name)]
    if subprocess.run(make, check=False, capture_output=True).returncode:
        pytest.skip("no sources of locales to make one from")
    return {"LOCPATH": str(folder), "LC_ALL": name}


LOCALES = [{}, {"LC_ALL": "C"}, {"LANG": "", "LC_ALL": ""}, {"LC_ALL": "xx_XX.nonsense"}]


@pytest.mark.parametrize("environment", LOCALES, ids=str)
def test_texts_and_names_are_the_same_in_any_locale(
    rows: Path, environment: dict[str, str]
) -> None:
    (rows / "für").mkdir()
    done = ran(command(out="für"), rows, **environment)
    assert done.returncode == 0, done.stderr
    [first, *_] = read_jsonl(rows / "für" / "pairs.jsonl")
    assert "Grüße, wie geht’s …" in first["prompt"] and first["rejected"] == "悪い"
    assert "für/pairs.jsonl" in read_json(rows / "für" / "receipt.json")["outputs"]["pairs"]


def test_texts_are_the_same_in_latin_1(rows: Path, latin: dict[str, str]) -> None:
    done = ran(command(), rows, **latin)
    assert done.returncode == 0, done.stderr
    assert "Grüße, wie geht’s …" in read_jsonl(rows / "pairs.jsonl")[0]["prompt"]
    broken = ran([*command()[:1], "--data", "nö…/x", *command()[3:]], rows, **latin)
    assert "no such file" in one_line(broken) or "expected a file" in one_line(broken)


def test_in_plain_ascii_texts_are_the_same_and_names_are_refused_in_one_line(rows: Path) -> None:
    ascii_only = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert ran(command(), rows, **ascii_only).returncode == 0
    assert "Grüße, wie geht’s …" in read_jsonl(rows / "pairs.jsonl")[0]["prompt"]
    assert "set LC_ALL=C.UTF-8" in one_line(ran(command(out="für"), rows, **ascii_only))
    assert not (rows / "für").exists()


@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C"}], ids=str)
def test_a_name_that_is_no_utf_8_is_named_before_anything_is_written(
    rows: Path, environment: dict[str, str]
) -> None:
    folder = Path(os.fsdecode(os.fsencode(rows) + b"/L\xe4nder"))
    folder.mkdir()
    done = ran(command(out=os.fsdecode(b"L\xe4nder")), rows, **environment)
    assert "L\\udce4nder/pairs.jsonl': expected a name that is UTF-8" in one_line(done)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "ü…", "it's", 'q"uote', "$HOME", "a\nb", "-x", "*", "[0]"])
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    write_jsonl(folder / "rows.jsonl", [PAIR])
    assert ran(command(), folder).returncode == 0
    done = ran(command(str(folder), str(folder / "more")), tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "more/pairs.jsonl").read_bytes() == (folder / "pairs.jsonl").read_bytes()


def test_results_may_be_links(rows: Path) -> None:
    (rows / "disk").mkdir()
    (rows / "results").symlink_to("disk")
    assert ran(command(out="results"), rows).returncode == 0
    assert sorted(os.listdir(rows / "disk")) == ["counts.json", "pairs.jsonl", "receipt.json"]
    (rows / "dead").symlink_to("nowhere/at/all")
    assert "dead" in one_line(ran(command(out="dead"), rows))


def test_a_full_disk_is_one_line_and_leaves_nothing(rows: Path) -> None:
    command_line = [*command(out="out"), "--recipe", '{"first": 400, "seed": 0}']
    done = ran(command_line, rows, file_size(2000))
    assert "File too large; free some space" in one_line(done)
    assert list((rows / "out").iterdir()) == []


def test_a_disk_that_cannot_be_written_is_one_line(rows: Path) -> None:
    line = one_line(ran(command(out="/proc/1/task"), rows))
    assert "/proc/1/task" in line


@pytest.mark.parametrize("place", ["/proc/1", "/nonexistent"])
def test_a_temporary_directory_that_is_none_is_not_needed(rows: Path, place: str) -> None:
    assert ran(command(), rows, TMPDIR=place).returncode == 0


ASK = """
import json, sys
from pathlib import Path
from bezoar import program
from bezoar.llm.client import LLMClient
def main():
    texts = [str(i) * 500 for i in range(60)]
    with LLMClient.of(json.loads(sys.argv[1]), Path("store/s.sqlite"), 4, None) as client:
        answers = client.ask([[{"role": "user", "content": text}] for text in texts], texts)
    print([answer.state for answer in answers].count("answered"))
program.run(main)
"""


@pytest.mark.parametrize("most", [1, 5000, 40_000, 80_000])
def test_answers_on_a_full_disk_end_in_one_line_and_the_next_run_goes_on(
    tmp_path: Path, most: int
) -> None:
    peer = Peer()
    (tmp_path / "prices.yaml").write_text("models: {m: {input: 1, output: 2, batch_share: 0.5}}\n")
    known = {
        "PEER_URL": f"{peer.url}/v1",
        "PEER_KEY": "k",
        "BEZOAR_PRICES": str(tmp_path / "prices.yaml"),
        "BEZOAR_BUDGET_USD": "9",
    }
    words = ["-c", ASK, json.dumps(SETTINGS)]
    line = one_line(ran(words, tmp_path, file_size(most), **known))
    assert "s.sqlite: cannot be" in line or "budget.db: cannot be" in line
    store = Store(tmp_path / "store/s.sqlite")
    stored, asked = len(list(store.rows())), len(peer.seen)
    store.close()
    done = ran(words, tmp_path, **known)
    peer.stop()
    assert (done.returncode, done.stdout) == (0, b"60\n"), done.stderr
    assert len(peer.seen) - asked == 60 - stored, "what is stored is not asked again"


def test_weights_on_a_full_disk_are_one_line_and_leave_nothing(
    tiny_base: Path, tmp_path: Path
) -> None:
    words = [
        *(limited.__file__, "50000", "start", "import_base"),
        *("--snapshot", str(tiny_base), "--base", "base", "--receipt", "receipt.json"),
        *("--recipe", '{"dtype": "float32", "seed": 0}', "--code", "x"),
    ]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and "free some space" in last
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
