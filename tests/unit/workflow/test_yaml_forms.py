"""Promise: what YAML reads in a surprising way is read right, or refused in one line."""

from pathlib import Path

import pytest

from bezoar.errors import UserError
from bezoar.workflow.configuration import SCHEMA, check, files_of, resolved


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("\ufeffseed: 3\r\nsft: {epochs: 1}\r\n", "seed", 3),
        ("seed: 010\n", "seed", 8),
        ("teacher: {timeout_s: 1:30}\n", "teacher.timeout_s", 90),
    ],
)
def test_a_form_that_yaml_knows_is_taken(
    tmp_path: Path, text: str, key: str, value: object
) -> None:
    (tmp_path / "mine.yaml").write_bytes(text.encode())
    files = ["config/rehearsal.yaml", str(tmp_path / "mine.yaml")]
    found = resolved(files)
    check(found, SCHEMA, files_of(files))
    for part in key.split("."):
        found = found[part]
    assert found == value


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("# all commented out\n", "expected a mapping"),
        ("sft: {learning_rate: 1e-4}\n", "expected number, found '1e-4'"),
        ("sft:\ndpo: {beta: 0.1}\n", "expected object, found None"),
        ("sft:\n\tepochs: 1\n", "expected YAML, found character"),
        ("sft: {keep_best: on}\n", "unknown key"),
    ],
)
def test_any_other_is_refused_in_one_line_with_its_file(
    tmp_path: Path, text: str, what: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    files = ["config/rehearsal.yaml", str(tmp_path / "mine.yaml")]
    with pytest.raises(UserError) as raised:
        check(resolved(files), SCHEMA, files_of(files))
    message = str(raised.value)
    assert what in message and "mine.yaml" in message and "\n" not in message
