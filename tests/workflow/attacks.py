"""Mutations of a finished rehearsal and what each must make stale; `tests/workflow/test_stale.py`
and `scripts/dev/measure_evidence.py` try them.
"""

import ast
import json
import os
import re
from collections.abc import Callable
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from smallest import RESULTS

from bezoar.provenance.fingerprint import environment

CONFIG = "tests/workflow/smallest.yaml"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def receipts(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.stem: json.loads(path.read_text())
        for path in sorted((folder / RESULTS / "receipts").glob("*.json"))
    }


def paths(section: dict[str, dict[str, str]]) -> set[str]:
    return {path for files in section.values() for path in files}


def downstream(stale: set[str], held: dict[str, dict[str, Any]]) -> set[str]:
    """The stale stages and all that read, over any number of steps, what they write."""
    found, waiting = set(stale), list(stale)
    while waiting:
        stage = waiting.pop()
        made = paths(held[stage]["outputs"]) | {f"{RESULTS}/receipts/{stage}.json"}
        fresh = {
            name
            for name, receipt in held.items()
            if name not in found and paths(receipt["inputs"]) & made
        }
        found |= fresh
        waiting += fresh
    return found


def rules_of(stages: set[str], rules: set[str]) -> dict[str, int]:
    """Rule -> number of its stages: the longest rule name that a stage's name begins with."""
    counted: dict[str, int] = {}
    for stage in stages:
        rule = max(
            (rule for rule in rules if stage == rule or stage.startswith(f"{rule}_")), key=len
        )
        counted[rule] = counted.get(rule, 0) + 1
    return counted


class Attack:
    """One change to a project folder that can be taken back."""

    def __init__(
        self,
        name: str,
        stale: str | Callable[[dict[str, Any]], set[str]],
        change: Callable[[Path], None],
        *files: str,
        variables: dict[str, str] | None = None,
    ) -> None:
        self.name, self.change, self.files, self.variables = name, change, files, variables or {}
        self.wanted = stale
        self.deleted = set(files) if "deleted" in name else set()

    def stale(self, held: dict[str, dict[str, Any]]) -> set[str]:
        """The stages whose own receipt no longer holds."""
        if callable(self.wanted):
            return self.wanted(held)
        return {
            stage
            for stage in held
            if any(fnmatch(stage, pattern) for pattern in self.wanted.split())
        }

    @contextmanager
    def on(self, folder: Path) -> Any:
        kept = {name: ((folder / name).read_bytes(), (folder / name).stat()) for name in self.files}
        old = {name: os.environ.get(name) for name in self.variables}
        os.environ.update(self.variables)
        try:
            self.change(folder)
            yield
        finally:
            for name, (content, facts) in kept.items():
                (folder / name).write_bytes(content)
                os.utime(folder / name, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            for name, value in old.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def nothing(folder: Path) -> None:
    return


def append(name: str, text: str = "\n# one more line\n") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with open(folder / name, "a", encoding="utf-8") as stream:
            stream.write(text)

    return change


def flip(name: str, keep_mtime: bool = True) -> Callable[[Path], None]:
    """Change one bit in the middle of a file, in place, and set its date back; an empty file gets
    an empty line.
    """

    def change(folder: Path) -> None:
        facts = (folder / name).stat()
        content = bytearray((folder / name).read_bytes() or b"\v")
        content[len(content) // 2] ^= 1
        with open(folder / name, "r+b") as stream:
            stream.write(content)
        if keep_mtime:
            os.utime(folder / name, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    return change


def leaf(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = yaml.safe_load((folder / CONFIG).read_text())
        *outer, last = key.split(".")
        place = config
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = value
        (folder / CONFIG).write_text(yaml.safe_dump(config))

    return change


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text, f"{name}: no {old!r}"
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def reads_or_writes(name: str) -> Callable[[dict[str, Any]], set[str]]:
    def stale(held: dict[str, Any]) -> set[str]:
        return {
            stage
            for stage, receipt in held.items()
            if name in paths(receipt["inputs"]) | paths(receipt["outputs"])
        }

    return stale


def itself_and_readers(stage: str) -> Callable[[dict[str, Any]], set[str]]:
    """A stage and those that read its receipt."""
    return lambda held: {stage} | reads_or_writes(f"{RESULTS}/receipts/{stage}.json")(held)


def runs(program: str) -> Callable[[dict[str, Any]], set[str]]:
    """The stages whose program this is; no other program imports it."""
    return lambda held: {s for s, receipt in held.items() if receipt["command"][0] == program}


def statement(name: str) -> Callable[[Path], None]:
    """Append a statement to a source: a comment would make nothing stale."""
    return append(name, "\n_EDITED = True\n")


def reword(folder: Path) -> None:
    """Append a comment to every source and give every docstring another first word."""
    for path in (folder / "scripts").rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for node in ast.walk(ast.parse("".join(lines))):
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
                first = node.body[0].lineno - 1
                lines[first] = lines[first].replace('"""', '"""Reworded: ', 1)
        path.write_text("".join(lines) + "\n# one more line\n", encoding="utf-8")


def programs() -> list[str]:
    """Every program that a rule names, with a receipt to its name."""
    root = Path(__file__).parents[2]
    named = {
        name
        for path in (root / "rules").glob("*.smk")
        for name in re.findall(r'script="scripts/(\w+\.py)"', path.read_text())
    }
    return sorted(named - {"fetch_source.py", "import_base.py", "tabulate_evaluations.py"})


MODULES = {  # docs/reach.md lists them all
    "provenance/receipt.py": "*",
    "llm/client.py": "generate_* filter_* mtbench_judgments_* mtbench_rejudge_*",
    "evaluation/statistics.py": "lm_eval_table mtbench bridge_* learning_table model_card_* report",
    "data/flan.py": "generate_orca world",
    "data/rouge.py": "generate_lamini",
    "training/split.py": "sft_* hh_sft dpo",
    "report/plots.py": "report",
}
PROMPTS = {
    "prompts/lamini_topic.txt": "generate_lamini",
    "prompts/evol_in_depth.txt": "generate_evol",
    "prompts/filter.txt": "filter_*",
}
# The report lists every leaf that is not the paper's.
LEAVES: list[tuple[str, Any, str]] = [
    ("seed", 7, "*"),
    ("scale", "paper", "claims explorer report data_card_* model_card_*"),
    ("generate.lamini.rouge_l", 0.6, "generate_lamini report"),
    ("generate.evol.breadth_share", 0.4, "generate_evol report"),
    ("generate.orca.rows_per_task", 61, "generate_orca report"),
    ("filter.attempts", 9, "filter_* report"),
    ("sft.lora.r", 9, "sft_* model_card_openbezoar-sft report"),  # whose setting it is, too
    ("hh_sft.learning_rate", 0.9, "hh_sft report"),
    ("dpo.beta", 0.2, "dpo report"),
    ("merge.probe_rows", 5, "merge_* report"),
    ("lm_eval.num_fewshot", 1, "lm_eval_base lm_eval_openbezoar* report"),
    ("mtbench.answers.max_new_tokens", 9, "mtbench_answers_* report"),
    ("mtbench.judgments.repeats", 2, "mtbench_judgments_* mtbench_rejudge_* report"),
    ("mtbench.judgments.paper_judge", "another", "claims report"),
    ("learning.max_new_tokens", 9, "learning_[!t]* report"),
    ("pretrain.steps", 61, "base report"),
    ("world.people", 31, "world report"),
    ("preferences.first", 99, "preferences report"),
]
ARTIFACTS = [
    "world/corpus.jsonl",
    "world/facts.json",
    "base/model.safetensors",
    "base/tokenizer.model",
    "base/config.json",
    "merge/openbezoar-sft/generation_config.json",
    "generate/evol.jsonl",
    "generate/orca.counts.json",
    "filter/lamini.jsonl",
    "sft/orca/adapter_model.safetensors",
    "merge/openbezoar-sft/model.safetensors",
    "dpo/lineage.json",
    "lm_eval/base.samples.jsonl",
    "mtbench/base/answers.jsonl",
    "mtbench/base/judgments.jsonl",
    "mtbench.json",
    "claims.json",
    "report/index.html",
]

MTBENCH = f"{RESULTS}/receipts/mtbench.json"
GONE = [
    "base/config.json",
    "filter/evol.jsonl",
]  # one that comes with the weights, and one that rules name


def _delete(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


# The lock of the build that runs here: that of the other one changes nothing.
TORCH_LOCK = next(f"envs/{name}" for name in environment()["locks"] if name.startswith("torch-"))

ATTACKS = [
    *(
        Attack(f"program {name}", runs(name), statement(f"scripts/{name}"), f"scripts/{name}")
        for name in programs()
    ),
    *(
        Attack(f"module {name}", stages, statement(path), path)
        for name, stages in MODULES.items()
        if (path := f"scripts/bezoar/{name}")
    ),
    Attack(
        "a new pet in the invented world",
        "world",
        edit("scripts/bezoar/rehearsal/world.py", "beetle cat dog", "beetle cat dog dormouse"),
        "scripts/bezoar/rehearsal/world.py",
    ),
    Attack(
        "page template",
        "report",
        append("scripts/bezoar/report/report.html.j2", "\n<!-- x -->"),
        "scripts/bezoar/report/report.html.j2",
    ),
    *(Attack(f"prompt {name}", stages, append(name), name) for name, stages in PROMPTS.items()),
    *(Attack(f"config {key}", stages, leaf(key, value), CONFIG) for key, value, stages in LEAVES),
    Attack(
        "two values of sft swapped",
        "sft_* report",
        edit(CONFIG, "sft: {epochs: 1, eval_steps: 2}", "sft: {epochs: 2, eval_steps: 1}"),
        CONFIG,
    ),
    Attack(
        "reason of a deviation",
        "report",
        edit("config/paper.yaml", "# [ours] every draw", "# [ours] each draw"),
        "config/paper.yaml",
    ),
    Attack("claims", "claims", append("config/claims.yaml"), "config/claims.yaml"),
    Attack("lock main", "*", append("envs/main.lock"), "envs/main.lock"),
    Attack("lock torch", "*", append(TORCH_LOCK), TORCH_LOCK),
    Attack("image digest", "*", nothing, variables={"BEZOAR_IMAGE": "sha256:1234"}),
    Attack("processor features", "*", nothing, variables={"ATEN_CPU_CAPABILITY": "default"}),
    Attack(
        "option in a rule's shell",
        "claims",
        edit("rules/claims.smk", "--claims {", "--new 1 --claims {"),
        "rules/claims.smk",
    ),
    *(
        Attack(f"{name}, same size and date", reads_or_writes(path), flip(path), path)
        for name in ARTIFACTS
        if (path := f"{RESULTS}/{name}")
    ),
    *(
        Attack(f"{name} deleted", reads_or_writes(path), _delete(path), path)
        for name in GONE
        if (path := f"{RESULTS}/{name}")
    ),
    Attack(
        "receipt deleted",
        itself_and_readers("dpo"),
        _delete(f"{RESULTS}/receipts/dpo.json"),
        f"{RESULTS}/receipts/dpo.json",
    ),
    Attack(
        "receipt cut short",
        itself_and_readers("filter_orca"),
        lambda folder: (folder / RESULTS / "receipts/filter_orca.json").write_text("{"),
        f"{RESULTS}/receipts/filter_orca.json",
    ),
    Attack(
        "receipt edited",
        reads_or_writes(MTBENCH),
        edit(MTBENCH, '"wall_s": ', '"wall_s": 1'),
        MTBENCH,
    ),
]


def tried() -> list[Attack]:
    """Return the attacks of a run of the tests: every fourth of those that differ in their file
    alone, and all others; all of them with BEZOAR_EVIDENCE, as `make evidence` sets it.
    """
    if os.environ.get("BEZOAR_EVIDENCE"):
        return ATTACKS
    sources = [attack for attack in ATTACKS if attack.name.startswith("program ")]
    artifacts = [attack for attack in ATTACKS if attack.name.endswith("same size and date")]
    alike = [*sources, *artifacts]
    return [attack for attack in ATTACKS if attack not in alike or attack in alike[::4]]
