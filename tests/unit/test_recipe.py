"""A program takes the recipe that it describes, and no other, by hand on the command line too."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints

import pytest
from typing_extensions import TypedDict, is_typeddict

from bezoar import recipe
from bezoar.errors import UserError

SCRIPTS = Path(recipe.__file__).parents[1]
WITHOUT = {"fetch_source", "serve_llama_cpp", "serve_simulator"}  # programs that take no recipe
PROGRAMS = sorted({path.stem for path in SCRIPTS.glob("*.py")} - WITHOUT)


def example(kind: Any) -> Any:
    """The simplest value of a type."""
    if is_typeddict(kind):
        return {key: example(inner) for key, inner in get_type_hints(kind).items()}
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if NoneType in get_args(kind):
        return example(get_args(kind)[0])
    return (get_origin(kind) or kind)()


def faulty(kind: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The message, with a recipe that lacks a key or has one too many, nested ones too."""
    whole = example(kind)
    for key in kind.__required_keys__:
        yield f'lacks "{key}"', {name: value for name, value in whole.items() if name != key}
    yield 'has no key "surplus"', whole | {"surplus": 1}
    for key, inner in whole.items():
        if isinstance(inner, dict) and inner:
            first = next(iter(inner))
            lacking = {name: value for name, value in inner.items() if name != first}
            yield f'lacks "{key}.{first}"', whole | {key: lacking}
            yield f'has no key "{key}.surplus"', whole | {key: inner | {"surplus": 1}}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_recipe_that_lacks_a_key_or_has_one_too_many_is_named_in_one_line(name: str) -> None:
    module = importlib.import_module(name)
    for fault, recipe_of_it in faulty(module.Recipe):
        with pytest.raises(UserError) as error:
            module.main(["--recipe", json.dumps(recipe_of_it)])
        assert str(error.value) == f"--recipe of {name}: {fault}; `{name}.py --help` lists its keys"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_whole_recipe_is_taken_and_the_next_missing_argument_named(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(name)
    with pytest.raises((SystemExit, UserError)) as stop:
        module.main(["--recipe", json.dumps(example(module.Recipe))])
    assert "--recipe" not in str(stop.value) + capsys.readouterr().err.partition("error:")[2]


class Inner(TypedDict):
    r: int


class Recipe(TypedDict):
    inner: Inner
    share: float
    limit: int | None
    more: NotRequired[str]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"inner": {"r": 1}, "share": 1, "limit": null', "expected JSON, "),
        ("[]", "it: input should be a valid dictionary, found []; "),
        (
            '{"inner": {"r": "1"}, "share": true, "limit": 0.5}',
            "\"inner.r\": input should be a valid integer, found '1'; "
            '"share": input should be a valid number, found True; '
            '"limit": input should be a valid integer, found 0.5; ',
        ),
        ("{}", 'lacks "inner", "share", "limit"; '),
    ],
)
def test_every_fault_is_named_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        recipe.parse(text, Recipe)
    assert str(error.value).startswith(f"--recipe of test_recipe: {message}")
    assert "\n" not in str(error.value)


def test_a_recipe_comes_through_as_it_was_written() -> None:
    text = '{"inner":{"r":1},"limit":null,"share":1}'
    assert json.dumps(recipe.parse(text, Recipe), separators=(",", ":")) == text


def test_by_hand_it_is_one_line_and_status_2() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "train_sft.py"), "--recipe", '{"seed": 1}'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith('error: --recipe of train_sft: lacks "lora", ')
    assert done.stderr.count("\n") == 1
