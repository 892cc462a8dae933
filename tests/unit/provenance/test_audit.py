"""Promises of `make audit` that need no finished workflow: what is made again, and what leads
nowhere.
"""

import sys
from contextlib import suppress
from pathlib import Path

import pytest

import audit_results
from bezoar.provenance.archive import PROJECT
from bezoar.provenance.receipt import Receipt

ROOT = Path(__file__).parents[3]
RESULTS = "results/tiny"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project without results is the current directory."""
    for name in PROJECT:
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)


def stage(
    name: str, command: list[str], outputs: dict[str, str], inputs: tuple[str, ...] = ()
) -> None:
    """Write the outputs of a stage (path: text) and its receipt."""
    for path, text in outputs.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        with Receipt(
            Path(f"{RESULTS}/receipts/{name}.json"),
            stage=name,
            recipe={},
            code="0" * 64,
            inputs={"inputs": [Path(path) for path in inputs]},
            outputs={"outputs": [Path(path) for path in outputs]},
        ):
            pass


def audited(capsys: pytest.CaptureFixture[str]) -> str:
    """Audit the run; return the page."""
    with suppress(SystemExit):
        audit_results.main(["--results", RESULTS])
    return capsys.readouterr().out


def test_rows_streamed_from_the_hub_are_held_by_hashes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An audit needs no network, and writes no lock."""
    rows = f"{RESULTS}/flan/niv2.jsonl"
    stage("flan_niv2", ["stream_flan.py", "--rows", rows], {rows: "{}\n"})
    monkeypatch.setattr(audit_results, "make_again", lambda stage, *_: [f"{stage}: made again"])
    page = audited(capsys)
    assert page.startswith(f"# Audit of {RESULTS}: SOUND")
    assert "read from the hub, or were not asked for): 1 stages (flan_niv2)" in page
    assert audit_results.is_light("generate_orca.py")
