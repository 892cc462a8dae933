"""Arguments that several programs take."""

from pathlib import Path

import pytest

from bezoar.arguments import by_stem, model_directory
from bezoar.errors import UserError


@pytest.mark.parametrize(
    "text", ["a/b", "a/b/model.safetensors", "a/b/adapter_model.safetensors", "a/b/manifest.json"]
)
def test_a_model_is_named_by_its_directory_or_by_the_file_that_the_workflow_knows(
    text: str,
) -> None:
    assert model_directory(text) == Path("a/b")


def test_files_are_told_apart_by_their_names_and_two_of_one_name_are_refused() -> None:
    files = [Path("b/orca.jsonl"), Path("a/lamini.jsonl")]
    assert list(by_stem(files).items()) == [("orca", files[0]), ("lamini", files[1])]
    for again in ("c/orca.json", "b/orca.jsonl"):
        with pytest.raises(UserError, match=f"^{again}: b/orca.jsonl is called orca, too"):
            by_stem([*files, Path(again)])
