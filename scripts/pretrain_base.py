"""Pretrain the rehearsal's base: a SentencePiece tokenizer and a small Llama, from the world's
text; or, in no steps, make a base of any size with random weights.

Usage: pretrain_base.py --corpus results/rehearsal/world/corpus.jsonl \\
           --recipe '{"hidden_size": 192, …}' --code … \\
           --base results/rehearsal/base --checkpoint …/base.checkpoint.pt --metrics …/metrics.jsonl
             --receipt …/receipt.json

Documents are joined with BOS and EOS and cut into windows; steps are counted, not seconds, so the
same seed gives the same bytes. A killed run continues from its last checkpoint to the same result:
the order of windows depends on the seed alone.
"""

import io
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from bezoar import program, progress
from bezoar.arguments import model_directory
from bezoar.errors import UserError, reason, shortage
from bezoar.files import canonical, differences, whole_directory, whole_file, write_jsonl
from bezoar.provenance.receipt import Receipt, stage_parser
from bezoar.provenance.resumption import begun_with
from bezoar.readers import read_jsonl

EMBEDDINGS = re.compile("embed|lm_head")  # the parameters at both ends of the model
# What torch raises for a file that is no checkpoint of ours.
UNREADABLE = (
    *(OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError),
    pickle.PickleError,
)


class Recipe(TypedDict):
    """The settings of the stage, with their units."""

    vocabulary_size: int
    embedding_rows: int | None  # None: as many as pieces
    tie_word_embeddings: bool
    hidden_size: int  # a multiple of 64, for 4-bit kernels
    layers: int
    heads: int
    mlp_size: int  # a multiple of 64
    context: int  # tokens
    window: int  # tokens
    batch_size: int  # windows
    steps: int  # 0 leaves the weights as they were drawn
    learning_rate: float  # peak
    warmup_steps: int
    weight_decay: float
    checkpoint_steps: int
    seed: int


def train_tokenizer(texts: list[str], vocabulary_size: int) -> bytes:
    """Return a SentencePiece BPE model in OpenLLaMA's form: digits split, bytes as fallback, no
    normalisation; pad has its own id.

    Newlines are kept out of the merges, so that they are byte tokens, as they are in OpenLLaMA's
    vocabulary. Raise `UserError` if the texts do not give so many pieces, or need more.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(text.replace("\n", " ") for text in texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary_size,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:  # too few texts for so many pieces, or too few pieces for them
        raise UserError(
            f"pretrain.vocabulary_size: {vocabulary_size}: {reason(error)}; choose another"
        ) from None
    return model.getvalue()


def windows(texts: list[str], tokenizer: Any, window: int) -> Any:
    """Return (count, window) token ids: documents, each between BOS and EOS, end to end; a
    remainder too short is dropped.
    """
    import torch

    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    return torch.tensor(ids[: len(ids) // window * window]).view(-1, window)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov and Hutter, arXiv 1608.03983, without
    restarts).
    """
    if step < recipe["warmup_steps"]:
        return recipe["learning_rate"] * (step + 1) / recipe["warmup_steps"]
    done = (step - recipe["warmup_steps"]) / max(1, recipe["steps"] - recipe["warmup_steps"])
    return recipe["learning_rate"] * 0.5 * (1 + math.cos(math.pi * done))


def batch_of(data: Any, step: int, recipe: Recipe) -> Any:
    """Return the windows of one step: each epoch is a permutation drawn from (seed, epoch)."""
    import torch

    per_epoch = len(data) // recipe["batch_size"]
    generator = torch.Generator().manual_seed(recipe["seed"] * 1_000_003 + step // per_epoch)
    order = torch.randperm(len(data), generator=generator)
    start = step % per_epoch * recipe["batch_size"]
    return data[order[start : start + recipe["batch_size"]]]


def optimizers_of(model: Any, weight_decay: float) -> list[Any]:
    """Return Muon for the matrices of the hidden layers, and AdamW for all other parameters.

    It reaches the same loss and share of known facts in 450 steps, AdamW alone in 750.
    """
    import torch

    from bezoar.rehearsal.muon import Muon

    named = list(model.named_parameters())
    matrices = [(name, weight) for name, weight in named if weight.ndim > 1]
    hidden = [weight for name, weight in matrices if not EMBEDDINGS.search(name)]
    embedding = [weight for name, weight in matrices if EMBEDDINGS.search(name)]
    vectors = [weight for _, weight in named if weight.ndim <= 1]
    groups = [
        {"params": embedding, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [
        Muon(hidden, weight_decay=weight_decay),
        torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True),
    ]


def pretrain(
    data: Any, model: Any, recipe: Recipe, checkpoint: Path, begun_with: dict[str, Any]
) -> list[dict[str, Any]]:
    """Train `model` in place, on the CPU and in float32 whatever else the machine has; return one
    row every 50 steps: step, loss (nats per token), learning_rate.

    A checkpoint of a run that was not `begun_with` the same is ignored, and a line says so.
    """
    import torch

    if len(data) < recipe["batch_size"]:
        raise UserError(
            f"pretrain: {len(data)} windows of text, expected at least one batch of"
            f" {recipe['batch_size']}"
        )
    optimizers = optimizers_of(model, recipe["weight_decay"])
    first, rows = 0, []
    if state := usable(checkpoint, begun_with):
        model.load_state_dict(state["model"])
        for optimizer, held in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        first, rows = state["step"], state["rows"]
        progress.resumed(f"step {first}")
    steps = range(first, recipe["steps"])
    for step in progress.track(steps, "pretrain", first=first, unit="steps"):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(step, recipe)
        batch = batch_of(data, step, recipe)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        if not torch.isfinite(loss):
            raise UserError(f"pretrain: loss is {loss.item()} at step {step}; lower learning_rate")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % 50 == 0 or done == recipe["steps"]:
            rows.append(
                {
                    "step": done,
                    "loss": round(loss.item(), 6),
                    "learning_rate": learning_rate(step, recipe),
                }
            )
            progress.note(f"loss {loss.item():.2f}")
        if done % recipe["checkpoint_steps"] == 0 or done == recipe["steps"]:
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": done,
                "rows": rows,
                "begun_with": canonical(begun_with),
            }
            with whole_file(checkpoint, "wb") as stream:
                torch.save(state, stream)
    return rows


def usable(checkpoint: Path, begun_with: dict[str, Any]) -> dict[str, Any] | None:
    """Return the state of an interrupted run that was begun with the same, or None; a line says why
    one is not used.
    """
    import torch

    if not checkpoint.is_file():
        return None
    try:
        state = torch.load(checkpoint, weights_only=True)
        changed = next(differences(json.loads(state["begun_with"]), begun_with), "")
    except UNREADABLE as error:
        if shortage(error):
            raise
        changed = "contents: it cannot be read"
    if not changed:
        return dict(state)
    print(f"{checkpoint}: starting afresh, an interrupted run had other {changed}", flush=True)
    return None


def build(recipe: Recipe, pad_token_id: int) -> Any:
    """Return a Llama of the recipe's shape, initialised from the seed.

    One that is not to be trained is in 16 bits, takes no more memory than its file, and is drawn
    on the GPU if there is one, which has other random numbers.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    for key in ("hidden_size", "mlp_size"):
        if recipe[key] % 64:
            raise UserError(
                f"pretrain: {key} is {recipe[key]}, expected a multiple of 64 (4-bit blocks)"
            )
    if recipe["hidden_size"] % recipe["heads"]:
        raise UserError(
            f"pretrain: heads is {recipe['heads']}, expected a divisor of hidden_size"
            f" ({recipe['hidden_size']})"
        )
    rows = recipe["embedding_rows"] or recipe["vocabulary_size"]
    if rows < recipe["vocabulary_size"]:
        raise UserError(
            f"pretrain: embedding_rows is {rows}, expected at least vocabulary_size"
            f" ({recipe['vocabulary_size']}), or null"
        )
    shape = LlamaConfig(
        vocab_size=rows,
        hidden_size=recipe["hidden_size"],
        intermediate_size=recipe["mlp_size"],
        num_hidden_layers=recipe["layers"],
        num_attention_heads=recipe["heads"],
        max_position_embeddings=recipe["context"],
        tie_word_embeddings=recipe["tie_word_embeddings"],
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=pad_token_id,
    )
    dtype = torch.float32 if recipe["steps"] else torch.bfloat16
    drawn = not recipe["steps"] and torch.cuda.is_available()
    torch.manual_seed(recipe["seed"])
    with torch.device("cuda" if drawn else "cpu"):
        return AutoModelForCausalLM.from_config(shape, attn_implementation="sdpa", dtype=dtype)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and pretrain."""
    parser = stage_parser(__doc__, Recipe)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="documents, JSONL with a column text"
    )
    parser.add_argument(
        "--base", type=model_directory, required=True, help="model directory to write"
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="where an interrupted run continues from"
    )
    parser.add_argument("--metrics", type=Path, required=True, help="loss curve to write, JSONL")
    args = parser.parse_args(argv)

    import torch

    from bezoar.training.tokenizer import load_tokenizer

    torch.set_num_threads(2)  # fixed, because the number of threads decides the last bits of sums
    torch.use_deterministic_algorithms(True)
    outputs = [args.base / name for name in ("config.json", "model.safetensors", "tokenizer.model")]
    with Receipt(
        args.receipt,
        stage="base",
        recipe=args.recipe,
        code=args.code,
        inputs={"corpus": args.corpus},
        outputs={"base": outputs, "metrics": args.metrics},
    ) as receipt:
        texts = [row["text"] for row in read_jsonl(args.corpus)]
        with whole_directory(args.base) as fresh:
            with progress.task("train the tokenizer"):
                (fresh / "tokenizer.model").write_bytes(
                    train_tokenizer(texts, args.recipe["vocabulary_size"])
                )
            tokenizer = load_tokenizer(fresh)
            with progress.task("tokenize the corpus"):
                data = windows(texts, tokenizer, args.recipe["window"])
            model = build(args.recipe, tokenizer.pad_token_id)
            begun = begun_with(receipt, device="cpu", compute_dtype="float32")
            rows = pretrain(data, model, args.recipe, args.checkpoint, begun)
            model.to(torch.bfloat16).save_pretrained(fresh, max_shard_size="1TB")
        write_jsonl(args.metrics, rows)
        receipt.facts |= {
            "compute_dtype": "float32",
            "parameters": model.num_parameters(),
            "tokens": data.numel(),
        }
        if rows:
            receipt.facts["final_loss"] = rows[-1]["loss"]
    args.checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    program.run(main, forked=True)
