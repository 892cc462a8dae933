"""Serve the rehearsal's simulator over HTTP, with OpenAI's and Anthropic's protocols and batch
APIs. Not a language model.

Usage: serve_simulator.py --facts results/rehearsal/world/facts.json --port 0 [--faults '{"share":
0.1}'] [--rate '{"requests": 100, "tokens": 9000}']

Prints `listening <port>` and ends when its standard input closes, so it never outlives the program
that started it. Paths: POST /v1/chat/completions, /v1/completions, /v1/messages, /v1/files,
/v1/batches, /v1/messages/batches; GET /v1/models, /meter. If BEZOAR_SIMULATOR_KEY is set, every
other key is refused. Faults, rates and the meter: see bezoar.rehearsal.fake_provider.
"""

import argparse
import os
import sys
import threading
from pathlib import Path

from bezoar import program
from bezoar.readers import json_argument, read_json
from bezoar.rehearsal.fake_provider import FakeProvider, Faults, Meter, Rate
from bezoar.rehearsal.http_server import Server
from bezoar.rehearsal.simulator import Simulator
from bezoar.rehearsal.world import World


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and serve until standard input closes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--facts", type=Path, required=True, help="facts.json of the world")
    parser.add_argument(
        "--port", type=int, required=True, help="port on the loopback interface; 0 takes a free one"
    )
    parser.add_argument(
        "--faults",
        type=json_argument,
        default={},
        help="what goes wrong, JSON: share, kinds, turns, stall_s, retry_after_s",
    )
    parser.add_argument(
        "--rate", type=json_argument, default={}, help="limits, JSON: requests, tokens, window_s"
    )
    parser.add_argument("--prices", type=Path, help="price file of the meter")
    parser.add_argument(
        "--batch-s", type=float, default=0.0, help="seconds until a batch has ended"
    )
    parser.add_argument(
        "--models", nargs="*", default=[], help="models that exist; any if left out"
    )
    args = parser.parse_args(argv)
    faults = Faults(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in args.faults.items()
        }
    )
    provider = FakeProvider(
        Simulator(World(**read_json(args.facts))), faults, Meter(args.prices), args.batch_s
    )
    key = os.environ.get("BEZOAR_SIMULATOR_KEY", "")
    server = Server(args.port, provider, Rate(**args.rate), args.models, key)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"listening {server.server_address[1]}", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    program.run(main, quiet=True)
