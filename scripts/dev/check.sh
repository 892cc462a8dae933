#!/bin/sh
# Check and never write: formatting, lint, types, the workflow's own lint, the configurations. `python -m`: the programs that pip writes
# do not start in a directory whose name holds a space and a quote or a dollar.
set -eu
# `--no-cache`: a module added since changes how the imports of other files sort, which the cache does not see.
ruff check --no-cache scripts tests
ruff format --check scripts tests
python -m snakefmt --line-length 100 --check Snakefile rules
python -m mypy
for config in config/paper.yaml config/rehearsal.yaml "config/rehearsal.yaml config/rehearsal-upstream.yaml" "config/rehearsal.yaml config/dress-rehearsal.yaml" config/released.yaml "config/paper.yaml config/flan-cot.yaml" config/decontaminated.yaml "config/paper.yaml config/gpu-80gb.yaml" config/serve-vllm.yaml config/teacher-48gb.yaml "config/teacher-48gb.yaml config/teacher-24gb.yaml" config/open-models.yaml config/second-judge.yaml config/trial.yaml "config/trial.yaml config/trial-without-dolly.yaml" "config/trial.yaml config/open-models.yaml config/trial-open-models.yaml"; do
    # shellcheck disable=SC2086 # several files are several arguments
    python scripts/commands/check_config.py $config
done
python -m snakemake --lint
