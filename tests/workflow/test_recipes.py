"""What the rules hand over is what the programs take: every recipe of every configuration."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from smallest import CONFIG, ROOT, call

from bezoar import recipe
from bezoar.errors import UserError
from bezoar.workflow import recipes
from bezoar.workflow.configuration import merge, resolved
from bezoar.workflow.layout import Layout

pytestmark = pytest.mark.slow

CONFIGURATIONS = {
    "paper": ["config/paper.yaml"],
    "rehearsal": CONFIG,
    "dress rehearsal": [*CONFIG[:1], "config/dress-rehearsal.yaml"],
    "released": ["config/released.yaml"],
    "decontaminated": ["config/decontaminated.yaml"],
    "second judge": ["config/second-judge.yaml"],
    "served": ["config/serve-vllm.yaml"],
    "quantised": ["config/teacher-48gb.yaml", "config/teacher-24gb.yaml"],
    "open models": ["config/open-models.yaml"],
    "trial": ["config/trial.yaml"],
    "trial without Dolly": ["config/trial.yaml", "config/trial-without-dolly.yaml"],
    "Flan's files": ["config/flan-cot.yaml"],
    "models of others": ["config/released-models.yaml"],
}
# A program of a shell line, up to its recipe in single quotes.
HANDED_OVER = re.compile(r"scripts/(\w+)\.py(?:[^\n]*\\\n)*?[^\n]*?--recipe ('(?:[^']|'\"'\"')*')")
EVALUATED = "results/evaluate/table.csv"


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_recipe_that_the_rules_hand_over_is_taken(unused: Path, name: str) -> None:
    files = list(dict.fromkeys(["config/paper.yaml", *CONFIGURATIONS[name]]))
    targets = ["all", EVALUATED] if name == "models of others" else []
    # A server and the jobs that ask it need four cores together.
    done = call(unused, *targets, "--cores", "4", "-n", "-p", "--configfile", *files)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {(program, shlex.split(text)[0]) for program, text in HANDED_OVER.findall(done.stdout)}
    assert len(found) > 20
    for program, text in found:
        recipe.parse(text, importlib.import_module(program).Recipe)
    if "rehearsal" not in name:  # whose programs alone execute anything of bezoar/rehearsal
        assert not dict(found).keys() & {"make_world", "pretrain_base"}
    assert (name != "models of others") or "tabulate_evaluations" in dict(found)


def test_what_no_weight_of_a_training_depends_on_is_not_in_its_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another order makes those trainings stale whose rows, base or parent it changes."""
    monkeypatch.chdir(ROOT)
    config = resolved(["config/paper.yaml"])
    sft = {"order": ["evol", "lamini"], "chaining": "merge"}
    other = merge(config, {"sft": sft, "dpo": {"reference_batch_size": 1}})
    for section in ("sft", "hh_sft", "dpo"):
        made, same = (recipes.training(Layout(each), section) for each in (config, other))
        assert made == same and made["learning_rate"] == config[section]["learning_rate"]
    assert recipes.reference(Layout(config)) != recipes.reference(Layout(other))


def test_the_name_of_the_papers_judge_is_in_the_claims_and_in_no_judgment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    config = resolved(["config/paper.yaml", "config/second-judge.yaml"])
    other = merge(config, {"mtbench": {"judgments": {"paper_judge": "another"}}})
    made, renamed = Layout(config), Layout(other)
    assert recipes.judging(made) == recipes.judging(renamed)
    for column in made.columns:
        assert recipes.rejudge(made, column) == recipes.rejudge(renamed, column)
    assert recipes.claims(made) != recipes.claims(renamed)


def test_no_two_tables_of_scores_have_one_judges_name_and_a_correction_has_the_main_judge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    config = resolved(["config/paper.yaml", "config/second-judge.yaml"])
    judge = config["mtbench"]["judgments"]["judge"]
    for column in Layout(config).columns.values():
        again = {"references": "upstream", "judge": {**column["judge"], "effort": "high"}}
        said = rf"^mtbench\.rejudge\.again\.judge: {column['judge']['model']} judges in mtbench\."
        with pytest.raises(UserError, match=said) as no:
            Layout(merge(config, {"mtbench": {"rejudge": {"again": again}}}))
        assert "\n" not in str(no.value)
    other = {"mtbench": {"judgments": {"judge": {**judge, "model": "another"}}}}
    with pytest.raises(UserError, match=r"corrected-references\.judge: expected the settings of"):
        Layout(merge(config, other))


def test_a_template_that_is_no_path_and_no_source_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    config = resolved(["config/paper.yaml"])
    for template in ("tokenizer", "./mine.json", "alpaca_modified"):
        extra = {"x": {"path": "models/x", "template": template}}
        assert Layout(merge(config, {"extra_models": extra})).extra == extra
    wrong = {"extra_models": {"x": {"path": "models/x", "template": "mine.json"}}}
    with pytest.raises(UserError, match=r"extra_models\.x\.template: .* found 'mine\.json'"):
        Layout(merge(config, wrong))


def test_a_path_is_the_same_however_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for written in ("./seeds.jsonl", "mine//seeds.jsonl", "mine/./seeds.jsonl"):
        layout = Layout(merge(resolved([]), {"sources": {"dolly": written}}))
        assert layout.source("dolly") == str(Path(written))


def test_the_card_of_other_released_rows_names_no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wrote them is not known here; who wrote the paper's is."""
    monkeypatch.chdir(ROOT)
    config = resolved(["config/released.yaml"])
    mine = {"lamini": {"source": None, "hub": "me/x", "revision": "a" * 40}}
    other = Layout(merge(config, {"released": mine, "teacher": {"model": "qwen"}}))
    card = recipes.data_card(other, "lamini", [])
    assert (card["teacher"], card["rater"]) == ("as released by me/x",) * 2
    verdicts = [row["origin"] for row in card["sources"] if row["what"] == "verdicts"]
    assert verdicts == ["as released by me/x"]
    for layout, scheme in ((other, "orca"), (Layout(config), "lamini")):
        card = recipes.data_card(layout, scheme, [])
        assert "falcon-40b" in card["teacher"] and card["rater"] == "GPT-4, as released"
