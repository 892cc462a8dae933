"""Serve a model to the jobs that use it until this process is stopped: a Snakemake service.

Usage: serve_model.py --recipe '{"program": "vllm", "model": "…", "dtype": "bfloat16", …}' --address
results/serve/teacher.url --record …/teacher.json

       serve_model.py --await results/serve/teacher.url --record …/teacher.json        prints the
         address once the server answers

       serve_model.py --recipe … --record … --export TEACHER_BASE_URL … -- python generate_orca.py …
         serves the model to one command and ends with its exit status

Starts the server, writes its address to --address, waits until it answers a first completion (not
only /health: weights load late), writes what it is to --record, and ends it when told to (SIGTERM)
or, on Linux, when its parent is gone. The server gets no key and listens on the loopback interface
only. Snakemake starts a service's consumers with it and waits for its file no longer than
--latency-wait; so they wait for the record instead.

A command of its own gets the address in the variables that --export names, those that end in _KEY a
word, because a server on the loopback interface takes any key. Where its receipt says that nothing
changed, no server is started.
"""

import argparse
import ctypes
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bezoar import program, progress
from bezoar.errors import UserError
from bezoar.files import whole_file, write_json
from bezoar.llm.requantization import requantize
from bezoar.llm.settings import ServerSettings, server_count
from bezoar.provenance.fingerprint import nothing_to_do
from bezoar.recipe import add_recipe_argument


class Recipe(ServerSettings):
    """The settings of the stage, with their units."""

    model: str
    revision: str | None
    seed: int


WAIT_S = 0.5
TERMINATED = 143  # 128 and the number of the signal, as shells count
CACHE_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # llama.cpp's names
OTHER_WEIGHTS = frozenset("model-url hf-repo hf-file".split())


# What the recipe says elsewhere, or what must not stand on a command line.
OWN_OPTIONS = frozenset(
    "model weights host port dtype max-model-len ctx-size tensor-parallel-size quantization"
    " revision alias served-model-name api-key api-key-file hf-token cache-type-k"
    " cache-type-v".split()
)


def command(recipe: Recipe, port: int) -> list[str]:
    """Return the server's command line; raise `UserError` for an option that it cannot have."""
    place = ["--host", "127.0.0.1", "--port", str(port)]
    if "weights" in recipe and recipe["program"] in ("vllm", "transformers"):
        raise UserError(
            f"serve.weights: {recipe['program']} finds them by the model's name; remove it"
        )
    if "requantize" in recipe and "weights" not in recipe:
        raise UserError("serve.requantize: expected a GGUF file under serve.weights, to requantise")
    arguments = {
        "vllm": vllm,
        "transformers": transformers,
        "llama.cpp": llama_cpp,
        "xllamacpp": xllamacpp,
    }
    line = arguments[recipe["program"]](recipe, place)
    return [recipe["executable"], *line, *further(recipe.get("options", {}))]


def require_no_revision(recipe: Recipe) -> None:
    """Raise `UserError` if a revision is asked for that the program would not serve; beside weights
    that are a file it only says which these are.
    """
    if recipe["revision"] and "weights" not in recipe:
        raise UserError(
            f"teacher.revision: {recipe['program']} serves what it finds, not"
            f" {recipe['revision'][:12]}…; leave it null, or take program: vllm"
        )


def vllm(recipe: Recipe, place: list[str]) -> list[str]:
    """Return vLLM's arguments. Prefix caching is on, because prompts begin with what they share."""
    options = [
        "--dtype",
        recipe["dtype"],
        "--max-model-len",
        str(recipe["max_model_len"]),
        "--enable-prefix-caching",
        "--tensor-parallel-size",
        str(recipe["tensor_parallel_size"]),
    ]
    options += ["--quantization", recipe["quantization"]] if recipe["quantization"] else []
    options += ["--revision", recipe["revision"]] if recipe["revision"] else []
    return ["serve", recipe["model"], *place, *options]


def transformers(recipe: Recipe, place: list[str]) -> list[str]:
    """Return the arguments of `transformers serve`, which takes one GPU and whatever revision it
    finds.
    """
    require_no_revision(recipe)
    if recipe["tensor_parallel_size"] > 1:
        raise UserError("serve.tensor_parallel_size: transformers uses one GPU; take vllm, or 1")
    quantised = ["--quantization", recipe["quantization"]] if recipe["quantization"] else []
    return ["serve", *place, "--dtype", recipe["dtype"], *quantised, recipe["model"]]


def llama_cpp(recipe: Recipe, place: list[str]) -> list[str]:
    """Return the arguments of llama.cpp's llama-server, which divides its context among `parallel`
    requests. `dtype` is that of keys and values; weights that are not a file here are an option
    (`hf-repo` and `hf-file`), and bring their own quantisation.
    """
    require_no_revision(recipe)
    options = recipe.get("options", {})
    for name in OTHER_WEIGHTS & options.keys() if "weights" in recipe else ():
        raise UserError(f"serve: options: `{name}` names other weights than serve.weights; remove")
    context = recipe["max_model_len"] * server_count(options, "parallel")
    weights = ["--model", recipe["weights"]] if "weights" in recipe else []
    kept = CACHE_TYPES.get(recipe["dtype"], recipe["dtype"])
    cache = ["--cache-type-k", kept, "--cache-type-v", kept]
    return [*place, "--alias", recipe["model"], *weights, "--ctx-size", str(context), *cache]


def xllamacpp(recipe: Recipe, place: list[str]) -> list[str]:
    """Return the arguments of a Python that runs llama.cpp's server from the package xllamacpp."""
    if "weights" not in recipe:
        raise UserError("serve.weights: expected a GGUF file, which xllamacpp does not fetch")
    if other := recipe.get("options", {}).keys() - {"parallel", "threads"}:
        raise UserError(
            f"serve: options: `{min(other)}`: xllamacpp takes parallel and threads; remove it, or"
            " take program: llama.cpp"
        )
    threads = [] if "threads" in recipe.get("options", {}) else ["--threads", "1"]
    script = os.path.relpath(Path(__file__).with_name("serve_llama_cpp.py"))
    return [script, *llama_cpp(recipe, place), *threads]


def further(options: dict[str, object]) -> list[str]:
    """Return further options as arguments: true is a flag, a mapping or list is JSON, and false or
    null leaves one out.
    """
    line: list[str] = []
    for name, value in options.items():
        if name in OWN_OPTIONS or not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise UserError(
                f"serve: options: `{name}`: expected the name of an option that `serve` has no key"
                " for, without dashes before it, and no key or token; remove or correct it"
            )
        if value is None or value is False:
            continue
        line.append(f"--{name}")
        if value is not True:
            line.append(json.dumps(value) if isinstance(value, dict | list) else str(value))
    return line


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address: str, model: str) -> str:
    """Return nothing once the server completes a prompt, else why it does not."""
    body = json.dumps({"model": model, "prompt": "a", "max_tokens": 1}).encode()
    request = urllib.request.Request(
        f"{address}/completions", body, {"Content-Type": "application/json"}
    )
    # A proxy from the environment cannot reach our own child process.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(request, timeout=60).close()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read(200).decode(errors='replace')}"
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    return ""


def ended(status: int | None) -> str:
    """Return a server's exit status in words; of one that was killed, with the likeliest cause."""
    return f"status {status}{', perhaps out of memory' if status == -signal.SIGKILL else ''}"


def wait(child: "subprocess.Popen[bytes]", address: str, model: str, timeout_s: float) -> None:
    """Wait until the server answers; raise `UserError` if it dies or takes too long."""
    deadline, why = time.monotonic() + timeout_s, ""
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise UserError(
                f"the server of {model} ended with {ended(child.returncode)} before it answered;"
                " its last lines above say why"
            )
        why = answers(address, model)
        if not why and child.poll() is None:  # else another server took its port
            return
        time.sleep(WAIT_S)
    raise UserError(
        f"the server of {model} did not answer within {timeout_s:g} s ({why}); raise"
        " serve.start_timeout_s or look at its log"
    )


def awaited(address: Path, record: Path) -> str:
    """Return the address once the server answers; raise `UserError` if it ended, however it did."""
    while True:
        try:
            place, process = address.read_text(encoding="utf-8").split()
        except FileNotFoundError:
            raise UserError(
                f"{address}: gone, the server ended before it answered; its log says why"
            ) from None
        if record.is_file():
            return place
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            raise UserError(
                f"{address}: left behind, its process {process} was killed before the server"
                " answered, perhaps out of memory; run again"
            ) from None
        time.sleep(WAIT_S)


def end_with_parent() -> None:
    """Send this process SIGTERM when its parent is gone, however that ended (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Server(NamedTuple):
    """A server that answers: its process, and the address of its API."""

    child: "subprocess.Popen[bytes]"
    address: str


def started_server(line: list[str]) -> "subprocess.Popen[bytes]":
    """Start the server; raise `UserError` if there is no such program."""
    try:
        return subprocess.Popen(line, start_new_session=True, preexec_fn=end_with_parent)
    except OSError as error:
        raise UserError(
            f"{line[0]}: cannot be started ({error.strerror}); make its environment"
            " (docs/reproducing.md) or correct serve.executable"
        ) from None


@contextmanager
def running(recipe: Recipe, record: Path, address_file: Path | None) -> Iterator[Server]:
    """Start the server, wait until it answers, write its record, and end it with the block."""
    record.unlink(missing_ok=True)
    port, started = free_port(), time.monotonic()
    line = command(recipe, port)
    copy = record.with_suffix(".gguf")
    child: subprocess.Popen[bytes] | None = None
    try:
        if "requantize" in recipe:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with progress.task(f"requantise the weights to {recipe['requantize']}"):
                requantize(Path(recipe["weights"]), copy, recipe["requantize"])
            line[line.index("--model") + 1] = str(copy)
        child = started_server(line)
        address = f"http://127.0.0.1:{port}/v1"
        if address_file:
            with whole_file(address_file) as stream:
                stream.write(f"{address}\n{os.getpid()}\n")
        with progress.task(f"start the server of {recipe['model']}"):
            wait(child, address, recipe["model"], recipe["start_timeout_s"])
        copy.unlink(missing_ok=True)  # the server holds it open
        seconds = round(time.monotonic() - started, 1)
        write_json(record, {**recipe, "command": line, "seconds_to_first_answer": seconds})
        print(f"{recipe['model']} answers at {address}", flush=True)
        yield Server(child, address)
    finally:
        copy.unlink(missing_ok=True)
        if address_file:
            address_file.unlink(missing_ok=True)
        if child and child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)


def serve_to(line: list[str], names: list[str], recipe: Recipe, record: Path) -> int:
    """Run a command with the server's address in its environment; return its exit status.

    SIGTERM is passed on to it; an interrupt from the terminal reaches it by itself. Raise
    `UserError` if the server ends before the command, whatever that made of it.
    """
    if nothing_to_do([Path(line[1]).name, *line[2:]]):
        os.execvp(line[0], line)
    with running(recipe, record, None) as server:
        named = {name: "none" if name.endswith("_KEY") else server.address for name in names}
        child = subprocess.Popen(line, env=os.environ | named, preexec_fn=end_with_parent)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        while child.poll() is None:
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                child.wait(WAIT_S)
            if server.child.poll() is not None:
                child.terminate()
        if server.child.poll() is not None:
            raise UserError(
                f"the server of {recipe['model']} ended with {ended(server.child.returncode)} while"
                " it was needed; run again; answers are kept"
            )
        return child.returncode if child.returncode >= 0 else 128 - child.returncode


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_recipe_argument(parser, Recipe, required=False)
    parser.add_argument("--address", type=Path, help="file to write the address to")
    parser.add_argument(
        "--await",
        type=Path,
        dest="awaited",
        help="serve nothing; wait for the server that writes this address",
    )
    parser.add_argument(
        "--record", type=Path, required=True, help="file to write what was served to, JSON"
    )
    parser.add_argument(
        "--export", nargs="+", default=[], help="variables that the command finds the server by"
    )
    parser.add_argument("command", nargs="*", help="a command to serve the model to, after --")
    args = parser.parse_args(argv)
    if args.awaited:
        print(awaited(args.awaited, args.record))
        return
    if args.recipe is None:
        parser.error("--recipe is required, unless --await says to wait for a server")
    end_with_parent()
    if args.command:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
        sys.exit(serve_to(args.command, args.export, args.recipe, args.record))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with running(args.recipe, args.record, args.address) as server:
        raise UserError(
            f"the server of {args.recipe['model']} ended with {ended(server.child.wait())} while it"
            " was needed; run again; answers are kept"
        )


if __name__ == "__main__":
    program.run(main, quiet=True)
