"""What a job of each rule asks for: memory, minutes and GPUs, from the configuration and its scale.

Rules hand this to Snakemake, which passes it on to a scheduler; `make plan`, `make doctor` and
docs/resources.md show the same numbers. They decide no result: no recipe, command line or receipt
holds them, so that a change makes nothing stale.

Where the numbers come from:

- Memory is the peak of the rehearsal (`MEASURED_MB`, two million parameters), with a margin, and
  what the weights of a larger model add (`HOST_BYTES`, from what each program holds at once).
- Work is counted in floating-point operations: 2 a parameter and token forwards, 6 with the
  backward pass (Kaplan et al., arXiv 2001.08361, section 2.1). QLoRA has no gradient of the frozen
  weights, and its gradient checkpointing repeats the forward pass: 6 again. Every row counts as
  long as `max_length` allows, so the seconds are an upper bound for the speeds below.
- A job that is killed for memory or time is asked for again with more: the first request times the
  attempt.
"""

import copy
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bezoar.errors import UserError
from bezoar.progress import clock
from bezoar.surroundings import own
from bezoar.workflow import machine, served
from bezoar.workflow.layout import Layout

MB = 2**20  # bytes, as Slurm, nvidia-smi and Snakemake's benchmarks count
# Peak memory in MB of the largest job of each rule, from benchmarks/rehearsal/*.tsv (max_rss) of a
# rehearsal on two cores of a CPU. Rules that are not here stayed below 200 MB.
MEASURED_MB = {
    "base": 754,
    "sft": 875,
    "hh_sft": 875,
    "dpo_reference": 620,
    "dpo": 1050,
    "merge": 594,
    "learning": 620,
    "lm_eval": 690,
    "mtbench_answers": 500,
    "data_items": 200,
    "data_duplicates": 60,
    "data_contamination": 60,
}
# Steps that need a network or take only moments: they run where Snakemake does. Nodes of a cluster
# often have no network, and a queue costs more than such a step.
LIGHT = frozenset(
    "fetch_file fetch_snapshot world flan generate_lamini generate_evol generate_orca filter"
    " preferences task_data data_description data_clean data_card model_card learning_table"
    " lm_eval_table"
    " mtbench_judgments mtbench_rejudge mtbench bridge evaluate_lm_eval evaluate_mtbench evaluate"
    " claims explorer report".split()
)
# Rules whose jobs ask a language model.
ASKING = (
    "generate_lamini generate_evol generate_orca filter mtbench_judgments mtbench_rejudge".split()
)
# Rules whose seconds are a limit alone: how long a server and what asks it take is not estimated.
UNKNOWN_TIME = frozenset(["serve", *ASKING])
SERVER_MB = 1200  # llama.cpp beside a client: its buffers, keys and values of a small model
MARGIN = 1.3  # between two runs, and between machines
SCHEDULED_MB = 400  # Snakemake itself, twice: it starts each job of a scheduler
CUDA_MB = 3000  # [ours] of host memory: CUDA's libraries and pinned buffers
# Bytes of host memory a parameter, on a machine whose GPU holds the model.
HOST_BYTES = {
    "base": 4,  # the model in 16 bits, and its copy that is written
    "import_model": 4,
    "sft": 2,  # a 16-bit checkpoint on its way to the GPU
    "hh_sft": 2,
    "dpo_reference": 2,
    "dpo": 2,
    "merge": 6,  # the merged model in 16 bits and its copy that is written, and the base
    "lm_eval": 2,  # and as much as the precision takes in which it is evaluated
    "mtbench_answers": 2,
}
DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
# The same where a CPU computes, in float32. A training's is the 16-bit checkpoint on its way into
# 4 bits: of a base of the paper's shape (`make dress-rehearsal`) SFT and the merge took 10.6 GB
# each, 3.1 bytes a parameter.
CPU_BYTES = HOST_BYTES | {
    **dict.fromkeys(("sft", "hh_sft", "dpo_reference", "dpo"), 3.2),
    **dict.fromkeys(("lm_eval", "mtbench_answers"), 6),
    "merge": 3.2,
}
CACHED_BYTES = 6  # [ours] of a parameter's dequantised weights, where they are kept (trial)
# Bytes that a kept row takes as Python objects: two lists of token ids of a few hundred each.
ROW_BYTES = 20_000
# Of the evaluation's items and their n-grams, at the paper's ten tasks.
EVALUATION_MB = {"data_items": 2000, "data_duplicates": 1000, "data_contamination": 4000}
# Operations a second. GPU: [ours] a quarter of the 165 TFLOP/s that NVIDIA states for an RTX 4090
# (dense, bfloat16, float32 sums). CPU: a thread in float32, measured on the rehearsal's base.
GPU_FLOPS, CPU_FLOPS = 4e13, 2.5e10
GPU_TOKEN_S, CPU_TOKEN_S = 0.05, 0.05  # [ours] of one step of generation, a batch at a time
LM_EVAL_TOKENS = 1_000_000  # [ours] a task: hellaswag has four times as many, rte a tenth
# Of a weight, on a CPU: to quantise it, and to pass it some eight times for what a training tries
# of its model before the first step. The dress rehearsal's took less with AVX2 alone.
CPU_SETUP_S = 7e-8
DISK_BYTES_S = 1e8  # [ours] a network file system
START_S = 30  # of a process: imports and reading, 7 to 20 s on the machines that were measured
# A job's limit: its estimate is uncertain, and a queue of minutes is as good as one of seconds.
LEAST_MINUTES, SLACK = 30, 2
PAPER_PARAMETERS = 3_426_473_600  # of OpenLLaMA-3B-v2: what the figures a token below are of
# Bytes of a GPU that a token of a micro-batch takes: logits, checkpoints, one layer; and the same
# without gradient checkpointing. Measured with 4 x 512 tokens on an H200: 0.38 and 3.6 million
# (docs/benchmarks.md, "Training on a GPU"). A CPU computes in float32.
TOKEN_BYTES, TOKEN_BYTES_WHOLE = 450_000, 4_000_000
CPU_TOKEN_BYTES, CPU_TOKEN_BYTES_WHOLE = 750_000, 8_000_000  # [ours]; the trial stays below
CACHE_BYTES = 2 * 2 * 26 * 3200  # of keys and values, a token: 16 bits, 26 layers of 3,200
LOGIT_BYTES = 32_000 * (2 + 4 + 4)  # of logits, a token: in 16 bits, in float32, and their softmax
# The same on a CPU: logits, a copy, their softmax and gradient in float32. [ours] the trial's
# vocabulary; a base with three times as many tokens takes three times as much.
CPU_LOGIT_BYTES = 49_152 * 4 * 4
PROMPT_TOKENS = 512  # [ours] a batch of MT-Bench's prompts is padded to its longest
CONTEXT_MB = 600  # [ours] of a GPU: CUDA's context


@dataclass(frozen=True)
class Need:
    """What one job of a rule needs: host memory in MB, seconds at most, GPUs and memory of each of
    them in MB. A job that runs beside the server that it asks, in one request with it, has the
    GPUs of the server as `server_gpus`; the server has `cores`, and leaves those that ask it
    `beside_mb` and `beside_cores`.
    """

    mem_mb: int
    seconds: float
    gpus: int = 0
    gpu_mb: int = 0
    server_gpus: int | None = None
    cores: int = 0
    beside_mb: int = 0
    beside_cores: int = 0

    @property
    def minutes(self) -> int:
        """The time limit that is asked for first."""
        return LEAST_MINUTES + math.ceil(SLACK * self.seconds / 60)


def parameters(layout: Layout) -> int:
    """Return how many parameters the base has: by its shape where it is made here, by its entry in
    the registry, else by the size of its weights, else as many as the paper's.

    Raise `UserError` if the registry names none that can be.
    """
    made = layout.config["pretrain"]
    if made:
        hidden, mlp = made["hidden_size"], made["mlp_size"]
        layer = 4 * hidden**2 + 3 * hidden * mlp
        rows = made["embedding_rows"] or made["vocabulary_size"]
        return int(2 * rows * hidden + made["layers"] * layer)
    name = layout.config["sources"]["base_model"]
    entry = layout.registry.get(name, {})
    if "parameters" in entry:
        count = entry["parameters"]
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UserError(
                f"config/sources.yaml: {name}: parameters: expected how many the model has, found"
                f" {count!r}"
            )
        return count
    place = Path(name) if name and "/" in name else Path(f"data/hub/{name}")
    return parameters_at(place) or PAPER_PARAMETERS


def parameters_at(place: Path) -> int:
    """Return how many parameters a directory's weights have at two bytes each, or a GGUF file's at
    the bits that its name says: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md has the
    convention. 0 where nothing is.
    """
    if place.is_file():
        said = re.findall(r"(?:Q|FP?)(\d+)", place.stem.upper())
        return 8 * place.stat().st_size // max(1, int(said[-1]) if said else 16)
    return sum(path.stat().st_size for path in place.glob("*.safetensors")) // 2


def gpus(scale: str) -> int:
    """Return how many GPUs a job that computes asks for: the paper's scale needs one, the dress
    rehearsal takes one where it is, here or on the cluster, and two of its jobs at once might not
    fit.
    """
    if own("CPU"):
        return 0
    if scale != "dress-rehearsal":
        return int(scale == "paper")
    there = limits_of_environment().gpus
    return int(bool(machine.gpus()) if there is None else there)


class Needs:
    """The needs of every rule of a configuration that is not light: `by_rule`.

    `devices` are the GPUs that a job asks for where that is known of another machine than this.
    """

    def __init__(self, layout: Layout, devices: int | None = None) -> None:
        self.layout, self.config = layout, layout.config
        self.size = parameters(layout)
        self.gpus = gpus(self.config["scale"]) if devices is None else devices
        self.processes = int(self.config["launch"]["processes"])
        self.by_rule = self.of_all()
        self.limits = limits_of_environment()

    def light(self) -> list[str]:
        """Return the rules whose jobs run where Snakemake does."""
        sharded = [f"{rule}_shard" for rule in LIGHT if rule.startswith("generate_")]
        here = LIGHT.union(sharded if self.layout.shards > 1 else [])
        return sorted(here.difference(self.by_rule))

    def asked(self, rule: str) -> "dict[str, Amount]":
        """Return the `resources:` of a rule; nothing where it is light, or has no job."""
        need = self.by_rule.get(rule)
        return asked(need, self.limits) if need else {}

    def of_all(self) -> dict[str, Need]:
        """Return rule -> its needs, in the order of the data."""
        config, layout = self.config, self.layout
        world = config["world"] or {}
        found = {"base": self.base()}
        largest = self.of_evaluated()
        if layout.extra:
            moved = largest.moved()
            found["import_model"] = largest.host("import_model", moved, gpus=0, like="base")
        if config["serve"] and not served.replayed():
            shared = served.shared(layout) and layout.generated
            found |= self.served() if shared else self.serving()
        for rule, more in EVALUATION_MB.items():
            found[rule] = self.host(rule, 0.0, gpus=0, more_mb=0 if world else more)
        pairs = min(config["preferences"]["first"], world.get("preference_pairs", 10**9))
        found["sft"] = self.training("sft", self.most_rows())
        found["hh_sft"] = self.training("hh_sft", pairs)
        found["dpo_reference"] = self.reference(pairs)
        found["dpo"] = self.training("dpo", pairs, sequences=2)
        found["merge"] = self.merge()
        if config["learning"]:
            found["learning"] = self.host("learning", self.learning_s(), gpus=0)
        found["lm_eval"] = largest.lm_eval()
        found["mtbench_answers"] = largest.answers()
        return found

    def of_evaluated(self) -> "Needs":
        """Return the needs as of the largest model that is evaluated, as far as it is here."""
        places = [Path(self.layout.import_directory(name)) for name in self.layout.extra]
        largest = copy.copy(self)
        largest.size = max([self.size, *map(parameters_at, places)])
        return largest

    def host(
        self,
        rule: str,
        seconds: float,
        gpus: int,
        gpu_bytes: float = 0.0,
        rows: int = 0,
        more_mb: float = 0.0,
        like: str = "",
    ) -> Need:
        """Return the needs of a rule that holds the weights as its table says, and `rows` rows."""
        weights = (HOST_BYTES if gpus else CPU_BYTES).get(rule, 0)
        large = max(0, self.size - 2_000_000)  # beyond the model that was measured
        mem = MARGIN * MEASURED_MB[like or rule] + SCHEDULED_MB + (CUDA_MB if gpus else 0) + more_mb
        mem += MARGIN * (weights * large + ROW_BYTES * rows) / MB
        gpu_mb = math.ceil(gpu_bytes / MB) + CONTEXT_MB if gpus else 0
        return Need(100 * math.ceil(mem / 100), START_S + seconds, gpus, gpu_mb)

    def speed(self, gpus: int, threads: int) -> float:
        """Return operations a second."""
        return GPU_FLOPS * gpus if gpus else CPU_FLOPS * threads

    def moved(self) -> float:
        """Return the seconds in which the weights are read and written once."""
        return 2 * 2 * self.size / DISK_BYTES_S

    def base(self) -> Need:
        """Return what pretraining, or the import, needs."""
        made = self.config["pretrain"]
        if not made:
            return self.host("base", self.moved(), gpus=0)
        tokens = made["steps"] * made["batch_size"] * made["window"]
        work = 6 * self.size * tokens / self.speed(0, 2)
        return self.host("base", work + self.moved(), gpus=0)

    def served(self) -> dict[str, Need]:
        """Return what the teacher's server needs, and the jobs that ask it: they end together."""
        gpus = int(self.config["serve"]["tensor_parallel_size"])
        days = 0.0 if self.config["world"] else 2 * 86_400.0
        mem_mb = 100 * math.ceil((200 * MARGIN + SCHEDULED_MB) / 100)
        asking, count = Need(mem_mb, days, server_gpus=gpus), len(self.layout.generated)
        # [ours] weights pass through the host's page cache, which a limit counts only in part
        server_mb = 1000 if self.config["world"] else 32_000
        cores = served.server_threads(self.layout)
        beside = {"beside_mb": mem_mb * count, "beside_cores": count}
        server = Need(server_mb, days, gpus, cores=cores, **beside)
        return {"serve": server, **{f"generate_{s}": asking for s in self.layout.generated}}

    def serving(self) -> dict[str, Need]:
        """Return what the jobs need that start a server of the model themselves."""
        gpus = int(self.config["serve"]["tensor_parallel_size"])
        jobs = self.layout.language_model_jobs()
        stages = [
            job.stage
            for job in jobs
            if served.asked(self.layout, job.stage, job.settings, *job.second.values())
        ]
        rules = [rule for rule in ASKING if any(stage.startswith(rule) for stage in stages)]
        weights = 0 if gpus else 2 * self.size  # [ours] at most, if it is as large as the base
        mem_mb = 100 * math.ceil((SERVER_MB + weights / MB) / 100)
        return {rule: Need(mem_mb, 86_400.0, gpus) for rule in rules}

    def most_rows(self) -> int:
        """Return the rows of the largest scheme, before the filter."""
        made = self.config["generate"]
        rows = {
            "lamini": made["lamini"]["rows"],
            "orca": sum(made["orca"]["quotas"].values()),
            "evol": 8 * made["evol"]["seeds_per_category"] * made["evol"]["epochs"],
        }
        return int(max(rows[scheme] for scheme in self.layout.schemes))

    def training(self, section: str, rows: int, sequences: int = 1) -> Need:
        """Return what a training on `rows` rows needs; DPO's have two sequences."""
        recipe = self.config[section]
        gpus = self.gpus * self.processes
        held_out = recipe["validation_share"]
        tokens = rows * sequences * recipe["max_length"]
        steps = rows * (1 - held_out) * recipe["epochs"] / recipe["batch_size"]
        work = 6 * self.size * recipe["epochs"] * (1 - held_out) * tokens
        share = min(held_out, recipe.get("max_eval_samples", rows) / max(rows, 1))
        work += (1 + steps / recipe["eval_steps"]) * 2 * self.size * share * tokens
        seconds = work / self.speed(gpus, recipe["threads"] * self.processes) + self.moved() / 2
        seconds += 0.0 if gpus else CPU_SETUP_S * self.size
        micro = recipe["micro_batch_size"] * sequences * recipe["max_length"]
        whole = not recipe["gradient_checkpointing"]
        token = TOKEN_BYTES_WHOLE if whole else TOKEN_BYTES
        gpu_bytes = self.quantised(recipe) + micro * self.activations() * token
        held = 0.0
        if not gpus and not self.config["pretrain"]:
            token = CPU_TOKEN_BYTES_WHOLE if whole else CPU_TOKEN_BYTES
            held = self.activations() * token + CPU_LOGIT_BYTES
        here_mb = MARGIN * micro * held / MB  # the rehearsal's own is in what was measured
        here_mb += self.cached_mb(recipe)
        need = self.host(section, seconds, gpus, gpu_bytes, rows, here_mb)
        return Need(need.mem_mb * self.processes, need.seconds, need.gpus, need.gpu_mb)

    def cached_mb(self, recipe: dict[str, Any]) -> float:
        """Return the MB of host memory that a CPU takes for dequantised weights, if it keeps
        them.
        """
        kept = recipe["cache_dequantized"] and not self.gpus
        return MARGIN * CACHED_BYTES * max(0, self.size - 2_000_000) / MB if kept else 0.0

    def quantised(self, recipe: dict[str, Any]) -> float:
        """Return the bytes of the 4-bit base on a GPU: NF4 with double quantisation takes 4.13 bits
        a weight (Dettmers et al., arXiv 2305.14314, section 3), embeddings 16.
        """
        return float(self.size * (0.6 + 2 * recipe["cache_dequantized"]))

    def activations(self) -> float:
        """Return what a token's activations take, of what they take in the paper's model: depth
        times width, where parameters are depth times width squared.
        """
        return float((self.size / PAPER_PARAMETERS) ** (2 / 3))

    def reference(self, pairs: int) -> Need:
        """Return what the reference's log-probabilities need."""
        recipe = self.config["dpo"]
        tokens = 2 * pairs * recipe["max_length"]
        seconds = 2 * self.size * tokens / self.speed(self.gpus, recipe["threads"])
        seconds += self.moved() / 2
        batch = 2 * recipe["reference_batch_size"] * recipe["max_length"]
        gpu_bytes = self.quantised(recipe) + batch * LOGIT_BYTES
        here_mb = self.cached_mb(recipe)
        return self.host("dpo_reference", seconds, self.gpus, gpu_bytes, pairs, here_mb)

    def merge(self) -> Need:
        """Return what a merge needs with its probes."""
        recipe = self.config["merge"]
        tokens = recipe["probe_rows"] * recipe["max_length"]
        work = 2 * 2 * self.size * tokens / self.speed(self.gpus, recipe["threads"])
        gpu_bytes = 3 * self.size + recipe["max_length"] * LOGIT_BYTES
        held = 0.0 if self.gpus or self.config["pretrain"] else CPU_LOGIT_BYTES
        here_mb = MARGIN * recipe["max_length"] * held / MB
        return self.host("merge", work + 2 * self.moved(), self.gpus, gpu_bytes, more_mb=here_mb)

    def learning_s(self) -> float:
        """Return the seconds that the world's held-out items take, 2,000 of them."""
        recipe = self.config["learning"]
        return float(2_000 / recipe["batch_size"] * recipe["max_new_tokens"] * CPU_TOKEN_S)

    def lm_eval(self) -> Need:
        """Return what the harness needs for one model."""
        recipe = self.config["lm_eval"]
        tokens = len(recipe["tasks"]) * LM_EVAL_TOKENS
        if recipe["limit"] or self.config["world"]:
            tokens = len(recipe["tasks"]) * (recipe["limit"] or 650) * 4 * 128
        seconds = 2 * self.size * tokens / self.speed(self.gpus, recipe["threads"])
        batch = recipe["batch_size"] * recipe["max_length"]
        gpu_bytes = self.evaluated(recipe) + batch * LOGIT_BYTES
        return self.evaluating("lm_eval", recipe, seconds + self.moved(), gpu_bytes)

    def answers(self) -> Need:
        """Return what answering MT-Bench's questions needs: two turns each."""
        recipe = self.config["mtbench"]["answers"]
        world = self.config["world"]
        questions = 8 * world["questions_per_category"] if world else 80
        batches = 2 * math.ceil(questions / recipe["batch_size"])
        step = GPU_TOKEN_S if self.gpus else CPU_TOKEN_S * max(1.0, self.size / 2e7)
        tokens = recipe["batch_size"] * 2 * recipe["max_new_tokens"]  # the second turn has both
        gpu_bytes = self.evaluated(recipe) + tokens * CACHE_BYTES * self.activations()
        read = 0 if world else recipe["batch_size"] * PROMPT_TOKENS
        work = 2 * self.size * read * batches
        seconds = work / self.speed(self.gpus, recipe["threads"]) + self.moved()
        seconds += batches * recipe["max_new_tokens"] * step
        cached = 0 if self.gpus else 2 * CACHE_BYTES * self.activations()  # in float32
        here_mb = MARGIN * read * cached / MB
        return self.evaluating("mtbench_answers", recipe, seconds, gpu_bytes, here_mb)

    def evaluated(self, recipe: dict[str, Any]) -> float:
        """Return the bytes of the weights in the precision in which a GPU evaluates them."""
        return float(DTYPE_BYTES[recipe["dtype"]] * self.size)

    def evaluating(
        self,
        rule: str,
        recipe: dict[str, Any],
        seconds: float,
        gpu_bytes: float,
        more_mb: float = 0,
    ) -> Need:
        """Return the needs of a benchmark: on the way to a GPU its weights lie in the host's
        memory.
        """
        more_mb += MARGIN * self.evaluated(recipe) / MB if self.gpus else 0
        return self.host(rule, seconds, self.gpus, gpu_bytes, more_mb=more_mb)


@dataclass(frozen=True)
class Place:
    """Where jobs of a kind run, and what one may ask for there at most: minutes, memory in MB (0:
    it cannot be asked for), cores. None is no limit.
    """

    partition: str | None = None
    minutes: int | None = None
    memory_mb: int | None = None
    cores: int | None = None


@dataclass(frozen=True)
class Limits:
    """The places of jobs with a GPU and of all others; whether the cluster has GPUs at all, None
    where none was asked.
    """

    plain: Place = Place()
    gpu: Place = Place()
    gpus: bool | None = None

    def of(self, need: Need) -> Place:
        """Return the place of a job."""
        return self.gpu if need.gpus or need.server_gpus else self.plain

    def text(self) -> str:
        """Return what `limits_of_environment` reads."""
        return json.dumps(asdict(self))


def limits_of_environment() -> Limits:
    """Return the limits in BEZOAR_LIMITS, which `bezoar.workflow.cluster` sets; none by default."""
    text = own("LIMITS")
    try:
        held = json.loads(text or "{}")
        gpus = held.pop("gpus", None)
        return Limits(**{kind: Place(**place) for kind, place in held.items()}, gpus=gpus)
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            f"BEZOAR_LIMITS: expected the limits that make finds out, found {text[:60]!r}; unset it"
        ) from None


Amount = int | str | Callable[..., int]


def asked(need: Need, limits: Limits) -> dict[str, Amount]:
    """Return a rule's `resources:`, so that each attempt asks for more than the one before; beside
    a server, the server alone.
    """
    place = limits.of(need)

    def mem_mb(wildcards: Any, attempt: int) -> int:
        most = need.mem_mb * (attempt if need.server_gpus is None else 1)
        room = math.inf if place.memory_mb is None else place.memory_mb - need.beside_mb
        return int(max(0, min(most, room)))

    def runtime(wildcards: Any, attempt: int) -> int:
        most = need.minutes * attempt
        return most if place.minutes is None else min(most, place.minutes)

    def cpus_per_task(wildcards: Any, threads: int) -> int:
        wanted = max(threads, need.cores)
        room = wanted if place.cores is None else place.cores - need.beside_cores
        return max(1, min(wanted, room))

    resources: dict[str, Amount] = {"mem_mb": mem_mb, "runtime": runtime}
    if need.gpus:
        resources |= {"gpu": need.gpus, "nodes": 1}
    if place.cores:
        resources["cpus_per_task"] = cpus_per_task
    if place.partition:
        resources["slurm_partition"] = place.partition
    return resources


def jobs(layout: Layout) -> dict[str, int]:
    """Return how many jobs of each rule that is not light a whole run has."""
    counts = {rule: 1 for rule in ("base", "hh_sft", "dpo_reference", "dpo", "serve")}
    counts |= dict.fromkeys(EVALUATION_MB, 1)
    counts |= {f"generate_{scheme}": 1 for scheme in layout.generated}
    counts |= {"sft": len(layout.schemes), "merge": len(layout.merged)}
    counts |= {"filter": len(layout.generated), "mtbench_judgments": len(layout.evaluated)}
    counts["mtbench_rejudge"] = len(layout.columns) * len(layout.evaluated)
    counts |= {"import_model": len(layout.extra), "learning": len(layout.states)}
    return counts | dict.fromkeys(("lm_eval", "mtbench_answers"), len(layout.evaluated))


@dataclass(frozen=True)
class Used:
    """What the largest job of a rule took: seconds, and memory of host and GPU in MB at its
    peak.
    """

    seconds: float
    mem_mb: float
    gpu_mb: float = 0.0


def used(receipts: Iterable[dict[str, Any]]) -> dict[str, Used]:
    """Return rule -> what its largest job took, from the receipts of a run."""
    found: dict[str, Used] = {}
    for receipt in receipts:
        before = found.get(receipt["stage"], Used(0.0, 0.0))
        found[receipt["stage"]] = Used(
            max(before.seconds, receipt["wall_s"]),
            max(before.mem_mb, receipt["peak_memory_bytes"] / MB),
            max(before.gpu_mb, receipt.get("hardware", {}).get("gpu_peak_bytes", 0) / MB),
        )
    return found


def table(
    layout: Layout,
    measured: Mapping[str, Used] | None = None,
    needs: Mapping[str, Need] | None = None,
) -> list[str]:
    """Return the lines of `make plan` about computing: each rule's jobs, memory, time; and what
    they took where that was `measured`. `needs` are others than the estimates.
    """
    measured = measured or {}
    heads = f"{'computing':<20}{'jobs':>5}{'memory':>10}{'GPUs':>6}{'of each':>10}"
    heads += f"{'at most':>11}{'limit':>12}"
    on_gpu = any(found.gpu_mb for found in measured.values())
    heads += f"{'took':>12}{'peak':>10}" if measured else ""
    lines = [heads + (f"{'GPU peak':>12}" if on_gpu else "")]
    counts, hours, limits = jobs(layout), 0.0, 0.0
    for rule, need in (needs or Needs(layout).by_rule).items():
        of_gpus = counts[rule] * need.gpus * need.seconds / 3600
        if rule in UNKNOWN_TIME:
            limits += of_gpus
        else:
            hours += of_gpus
        gpu = f"{need.gpu_mb / 1024:.1f} GiB" if need.gpu_mb else "-"
        line = (
            f"{rule:<20}{counts[rule]:>5}{need.mem_mb:>7,} MB{need.gpus or '-':>6}{gpu:>10}"
            f"{clock(need.seconds):>11}{need.minutes:>8,} min"
        )
        if took := measured.get(rule):
            line += f"{clock(took.seconds):>12}{took.mem_mb:>7,.0f} MB"
            line += f"{took.gpu_mb / 1024:>8.1f} GiB" if took.gpu_mb else ""
        lines.append(line)
    if hours or limits:
        lines.append(
            f"{hours:.0f} GPU-hours at most, of a GPU with {GPU_FLOPS / 1e12:.0f} TFLOP/s sustained"
            + (f"; and {limits:.0f} if the teacher's server takes all its time" if limits else "")
        )
    return lines


def most_gpu_mb(needs: Iterable[Need]) -> int:
    """Return the memory in MB that a GPU needs for all these jobs, one after the other."""
    return max((need.gpu_mb for need in needs), default=0)
