"""A wrong configuration stops with one line that names key, file and the nearest valid key."""

import json
from pathlib import Path
from types import ModuleType

import pytest

import cancel_batches
import doctor
import evaluate_model
import exchange_answers
import forget_failures
import plan_requests
from bezoar.errors import UserError
from bezoar.workflow import configuration, sources
from bezoar.workflow.configuration import files_of, resolved
from bezoar.workflow.layout import MODELS, each

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_configurations_in_an_order_that_snakemake_reads_otherwise_are_refused() -> None:
    assert resolved(["config/paper.yaml", "config/trial.yaml"]) == resolved(["config/trial.yaml"])
    with pytest.raises(UserError, match=r"config/paper\.yaml is what the others override"):
        resolved(["config/rehearsal.yaml", "./config/paper.yaml"])
    with pytest.raises(UserError, match=r"config/trial\.yaml is named twice"):
        resolved(["config/trial.yaml", "config/released.yaml", "config/trial.yaml"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pathvars: {results: results/mine/}", r"`pathvars\.results`: .*a directory, without"),
        ("pathvars: {logs: ./logs}", r"`pathvars\.logs`: "),
        ("pathvars: {benchmarks: a//b}", r"`pathvars\.benchmarks`: "),
        ("lm_eval: {limit: 0}", r"`lm_eval\.limit`: "),
        ("dpo: {validation_share: 0}", r"`dpo\.validation_share`: "),
        ("sft: {validation_share: 1}", r"`sft\.validation_share`: "),
        ("sources: {chat_template: null}", r"`sources\.chat_template`: "),
        ("sources: {mt_bench_questions: null}", r"`sources\.mt_bench_questions`: "),
    ],
)
def test_values_that_would_end_a_run_late_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        configuration.checked([str(tmp_path / "mine.yaml")])


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["config/rehearsal.yaml"],
        ["config/rehearsal.yaml", "config/rehearsal-upstream.yaml"],
        ["config/rehearsal.yaml", "tests/workflow/smallest.yaml"],
        ["config/released.yaml"],
        ["config/released-models.yaml"],
        ["config/second-judge.yaml"],
        ["config/serve-vllm.yaml"],
        ["config/teacher-48gb.yaml"],
        ["config/teacher-48gb.yaml", "config/teacher-24gb.yaml"],
        ["config/open-models.yaml"],
        ["config/trial.yaml"],
        ["config/trial.yaml", "config/trial-without-dolly.yaml"],
        ["config/trial.yaml", "config/open-models.yaml"],
        ["config/trial.yaml", "config/open-models.yaml", "config/trial-open-models.yaml"],
    ],
)
def test_the_shipped_configurations_are_valid(names: list[str]) -> None:
    configuration.check(resolved(names), configuration.SCHEMA, files_of(names))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sft: {learning_rte: 0.1}",
            (
                r"mine\.yaml: `sft\.learning_rte`: unknown key; the nearest valid key is"
                r" `learning_rate`"
            ),
        ),
        (
            "sft: {learning_rate: fast}",
            r"mine\.yaml: `sft\.learning_rate`: expected number, found 'fast' \(its peak",
        ),
        (
            "sft: {order: [lamini, orka]}",
            r"mine\.yaml: `sft\.order\.1`: expected one of .* found 'orka'; nearest is `orca`",
        ),
        (
            "generate: {wizard: {}}",
            r"mine\.yaml: `generate\.wizard`: unknown key; the nearest valid key is",
        ),
        (
            "teacher: {timeout_s: 10m}",
            r"mine\.yaml: `teacher\.timeout_s`: expected number, found '10m' .*seconds",
        ),
        ("dpo: {completion_only: true}", r"mine\.yaml: `dpo\.completion_only`: unknown key"),
        (
            "extra_models: {table: {path: x, template: tokenizer}}",
            r"mine\.yaml: `extra_models`: 'table' is taken; give it another name \(letters",
        ),
        ("sft: [1", r"mine\.yaml:1: expected YAML"),
        (
            "launch: {processes: 3, accelerate: profiles/accelerate/gpus.yaml}",
            r"mine\.yaml: `launch\.processes`: expected sft\.batch_size, 128, to be a multiple of"
            r" micro_batch_size x processes, 4 x 3; take 2 processes, or change one of the sizes$",
        ),
        (
            "hh_sft: {micro_batch_size: 48}",
            r"mine\.yaml: `hh_sft\.micro_batch_size`: expected hh_sft\.batch_size, 128, .* 48 x 1;"
            r" change one of the sizes$",
        ),
        (
            "teacher: {prompt_form: '<|prompt|>{prompt}<|answer|>'}",
            r"mine\.yaml: `teacher`: .*`prompt_form`: expected %s where the prompt goes",
        ),
        (
            "filter: {rater: {extra: {reasoning_effort: low}}}",
            r"mine\.yaml: `filter\.rater`: .*`extra`: `reasoning_effort` is set by a setting",
        ),
        (
            "filter: {rater: {extra: {max_completion_tokens: 2000}}}",
            r"`filter\.rater`: .*`extra`: `max_completion_tokens` is set by a setting",
        ),
        (
            "mtbench: {judgments: {judge: {extra: {output_config: {effort: low}}}}}",
            r"`mtbench\.judgments\.judge`: .*`extra`: `output_config` is set by a setting",
        ),
        ("teacher: {json_schema: true}", r"`teacher`: .*`json_schema`: this API has no place"),
        (
            "teacher: {max_tokens: 2048}",
            r"`teacher`: .*`max_tokens`: 2048 leave no room for a prompt in the `context` of 2048",
        ),
    ],
)
def test_a_mistake_is_one_line_with_key_file_and_what_was_meant(
    tmp_path: Path, text: str, message: str
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        configuration.check(resolved([str(mine)]), configuration.SCHEMA, files_of([str(mine)]))
    assert "\n" not in str(error.value)


def test_a_card_of_80_gb_has_batches_for_four_processes_and_no_more(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    names = ["config/gpu-80gb.yaml", str(mine)]
    launch = "launch: {{processes: {}, accelerate: profiles/accelerate/gpus.yaml}}"
    for processes in (1, 2, 4):
        mine.write_text(launch.format(processes))
        configuration.check(resolved(names), configuration.SCHEMA, files_of(names))
    mine.write_text(launch.format(8))
    with pytest.raises(UserError, match=r"128, .* 32 x 8; take 4 processes, or"):
        configuration.check(resolved(names), configuration.SCHEMA, files_of(names))


def test_a_served_model_has_no_longer_context_than_its_server(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    names = ["config/serve-vllm.yaml", str(mine)]
    mine.write_text("teacher: {context: 4096}")
    with pytest.raises(UserError, match=r"4096 tokens, and `serve\.max_model_len` has 2048; make"):
        configuration.check(resolved(names), configuration.SCHEMA, files_of(names))
    mine.write_text("teacher: {context: 4096}\nserve: {max_model_len: 4096}")
    configuration.check(resolved(names), configuration.SCHEMA, files_of(names))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pathvars:", r"`pathvars`: expected object, found None"),
        ("pathvar: {results: x}", r"`pathvar`: unknown key; the nearest valid key is `pathvars`"),
    ],
)
@pytest.mark.parametrize(
    ("command", "more"),
    [
        (forget_failures, ["--kind", "all"]),
        (cancel_batches, []),
        (exchange_answers, ["export", "--file", "x"]),
        (exchange_answers, ["import", "--file", "x"]),
        (evaluate_model, ["--model", "owner/name"]),
        (plan_requests, ["--model", "owner/name"]),
    ],
)
def test_no_command_acts_on_a_configuration_that_breaks_the_schema(
    tmp_path: Path, command: ModuleType, more: list[str], text: str, message: str
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    with pytest.raises(UserError, match=rf"mine\.yaml: {message}"):
        command.main([*more, "--config", "config/paper.yaml", str(mine)])


def test_every_value_of_the_papers_config_has_a_tag() -> None:
    missing = [
        f"{number}: {line}"
        for number, line in enumerate(Path("config/paper.yaml").read_text().splitlines(), start=1)
        if ":" in line
        and not line.lstrip().startswith(("#", "{", "prompt_form"))
        and line.split("#")[0].rstrip()[-1:] not in (":", ",")
        and not line.startswith(("scale", "pathvars", "world", "pretrain", "learning:"))
        and "[" + "" not in line.split("#")[-1]
    ]
    assert not missing


def test_every_key_of_the_schema_is_set_by_the_papers_config_or_the_rehearsals() -> None:
    schema = configuration.load(configuration.SCHEMA)
    assert set(schema["properties"]) == set(resolved(["config/rehearsal.yaml"]))


def test_no_other_model_can_have_the_name_of_one_of_ours_or_of_a_table() -> None:
    names = configuration.load(configuration.SCHEMA)["properties"]["extra_models"]["propertyNames"]
    schemes = resolved([])["sft"]["order"]
    assert set(names["not"]["enum"]) == {*MODELS, *each("sft-*", schemes), "table"}


def test_every_source_is_found_and_the_nearest_id_is_named() -> None:
    registry = sources.load(Path("config/sources.yaml"))
    for name in ("config/paper.yaml", "config/rehearsal-upstream.yaml"):
        assert doctor.wanted(resolved([name]))
    with pytest.raises(
        UserError, match="no source `alpaca_seeds`; the nearest id is `alpaca_seed_tasks`"
    ):
        sources.find("alpaca_seeds", registry)


def test_the_doctor_lists_everything_that_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "TEACHER_BASE_URL",
        "TEACHER_API_KEY",
        "MIRROR",
        "ACKNOWLEDGE_LICENCES",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "knock", lambda url: "no network")
    config = Path("config/paper.yaml")
    with pytest.raises(SystemExit) as stop:
        doctor.main(["--config", str(config)])
    printed = capsys.readouterr().out
    assert stop.value.code == 1
    for what in (
        "OPENAI_API_KEY is not set",
        "ANTHROPIC_API_KEY is not set",
        "TEACHER_BASE_URL is not set",
        "source: no answer from https://huggingface.co (no network)",
        "databricks_dolly_15k",
        "licence: alpaca_seed_tasks",
    ):
        assert what in printed


def test_nothing_is_missing_for_the_rehearsal(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main(["--config", "config/rehearsal.yaml"])
    assert "nothing is missing for the rehearsal scale" in capsys.readouterr().out


def test_the_registry_is_pinned_or_says_that_it_is_not() -> None:
    for entry in sources.load(Path("config/sources.yaml")).values():
        pin = entry["revision"] if "hub" in entry else entry["sha256"]
        assert pin is None or len(pin) in (40, 64)
        assert entry["licence"] is None or isinstance(entry["licence"], str)
        assert json.dumps(entry)
