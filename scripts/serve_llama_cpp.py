"""llama.cpp's own server out of the package xllamacpp, until this process is stopped.

Usage: python serve_llama_cpp.py --host 127.0.0.1 --port 8080 --model weights.gguf --alias NAME \\
           --ctx-size 8192 [--parallel 4] [--threads 2]

The options are llama-server's own. It runs with the Python of an environment that has xllamacpp,
and therefore imports nothing of this project.
"""

import argparse
import os
import sys
import time

WARNINGS = 2  # of llama.cpp's levels; each request is a line from 3 on


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True, help="weights, a GGUF file")
    parser.add_argument("--alias", required=True, help="the model's name in answers")
    parser.add_argument("--ctx-size", type=int, required=True, help="tokens, over all requests")
    parser.add_argument("--parallel", type=int, default=1, help="requests at a time")
    parser.add_argument("--threads", type=int, default=1)
    for name in ("--cache-type-k", "--cache-type-v"):
        parser.add_argument(name, default="f16", help="type of keys or values, such as f16")
    args = parser.parse_args()
    try:
        import xllamacpp
    except ImportError:
        sys.exit(f"{sys.executable}: no package xllamacpp; make .venv-llama-cpp installs it")
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.model_alias = {args.alias}
    params.hostnames = [args.host]
    params.port = args.port
    params.n_ctx = args.ctx_size
    params.n_parallel = args.parallel
    params.verbosity = WARNINGS
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    try:
        params.cache_type_k, params.cache_type_v = (
            xllamacpp.ggml_type[f"GGML_TYPE_{kind.upper()}"]
            for kind in (args.cache_type_k, args.cache_type_v)
        )
    except KeyError as error:
        sys.exit(f"serve.dtype: llama.cpp knows no type {error.args[0]}; float16 is usual")
    parent = os.getppid()
    try:
        server = xllamacpp.Server(params)
    except Exception as error:  # a bare RuntimeError for whatever is wrong with the file
        sys.exit(f"{args.model}: llama.cpp cannot serve it ({error})")
    print(f"{args.alias} at {server.listening_address}", flush=True)
    while os.getppid() == parent:  # it ends with whoever started it
        time.sleep(1)


if __name__ == "__main__":
    main()
