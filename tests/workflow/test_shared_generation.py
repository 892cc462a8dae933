"""Generation that jobs share writes what one job writes, and their number makes nothing stale."""

import shutil
from pathlib import Path

import pytest
from smallest import RESULTS, planned, snakemake

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def shared(finished: Path, tmp_path: Path) -> Path:
    """The finished rehearsal, set to share each scheme's requests among three jobs."""
    folder = Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))
    smallest = folder / "tests/workflow/smallest.yaml"
    text = smallest.read_text()
    assert "\ngenerate:\n" in text
    smallest.write_text(
        text.replace("\ngenerate:\n", "\ngenerate:\n  shards: 3\n  shard_wait_s: 1\n")
    )
    return folder


def test_jobs_that_share_the_requests_write_the_same_rows(shared: Path) -> None:
    results = shared / RESULTS
    assert set(planned(shared)) <= {"report"}, "the report names the setting"
    made = {path: path.read_bytes() for path in (results / "generate").glob("*.jsonl")}
    rows = [path for path in made if not path.stem.endswith(".dropped")]
    assert len(rows) == len(made) - len(rows) == 3
    for path in made:
        path.unlink()
    for path in rows:
        (results / "store" / f"generate-{path.stem}.sqlite").unlink()
    done = snakemake(shared, *(str(path.relative_to(shared)) for path in made))
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path: path.read_bytes() for path in made} == made
    stores = {path.name for path in (results / "store").glob("generate-*.shard-*-of-3.sqlite")}
    assert {f"generate-{path.stem}.shard-{k}-of-3.sqlite" for path in rows for k in (1, 2, 3)} <= (
        stores
    )
    for stage in (path.stem for path in rows):
        receipt = (results / f"receipts/generate_{stage}.json").read_text()
        assert ".shard-" not in receipt, "their answers are in the job's own stores"
    assert not list((results / "generate").glob(".*")), "what the shards left is gone"
    assert set(planned(shared)) <= {"data_card", "report"}, "both read the new receipts"
