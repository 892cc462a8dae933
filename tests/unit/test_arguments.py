"""Arguments that several programs take."""

from pathlib import Path

import pytest

from bezoar.arguments import model_directory


@pytest.mark.parametrize(
    "text", ["a/b", "a/b/model.safetensors", "a/b/adapter_model.safetensors", "a/b/manifest.json"]
)
def test_a_model_is_named_by_its_directory_or_by_the_file_that_the_workflow_knows(
    text: str,
) -> None:
    assert model_directory(text) == Path("a/b")
