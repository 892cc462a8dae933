# OpenBezoar, rebuilt. `make` prints help.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# Settings are given on make's command line (`make rehearsal JOBS=4`), or in the environment under a
# name of our own (`BEZOAR_JOBS=4 make rehearsal`): NAME, MODE or MIRROR of another program are ignored here.
OPTIONS := CONFIG JOBS TORCH PROFILE MIRROR MODEL REVISION TEMPLATE NAME NAMESPACE DRY FILE MAX_BYTES KIND STORE MODE BUDGET_USD PRICES ACKNOWLEDGE_LICENCES CPU VERBOSE GIVE_UP UPGRADE OPEN PART BUSY N A B
unread = $(if $(BEZOAR_$1),,$(if $(filter environment,$(origin $1)),$(error $1=$($1) in the environment is not read; write BEZOAR_$1=$($1) make …, or make … $1=$($1))))
$(call unread,BUDGET_USD)
$(call unread,ACKNOWLEDGE_LICENCES)
$(if $(filter batch replay,$(MODE)),$(call unread,MODE))
$(foreach option,$(OPTIONS),$(eval $(option) := $$(value BEZOAR_$(option))))
$(foreach option,$(OPTIONS),$(eval export BEZOAR_$(option) = $$($(option))))
$(if $(findstring :,$(CURDIR)),$(error $(CURDIR): a directory with a colon in its name cannot be in PATH; rename it, or work in another one))

ENV := .venv
BIN := $(if $(filter /%,$(ENV)),,$$PWD/)$(ENV)/bin
RUN := env -u PYTHONHOME -u PYTHONSTARTUP -u PYTHONOPTIMIZE -u PYTHONSAFEPATH -u PYTHONIOENCODING -u SNAKEMAKE_PROFILE PATH="$(BIN):$$PATH" PYTHONPATH="$$PWD/scripts" PYTHONNOUSERSITE=1 PYTHONUTF8=1 PYTHONWARNINGS=ignore::FutureWarning HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
CORES = $(if $(JOBS),--cores $(JOBS))
WHERE_TO = --profile $(or $(PROFILE),profiles/default) $(CORES)
WORKFLOW = $(RUN) python scripts/commands/run_workflow.py $(WHERE_TO)$(if $(VERBOSE), --verbose)
LOOK = $(RUN) python scripts/commands/doctor.py --short $(WHERE_TO)
REHEARSAL = $(or $(CONFIG),config/rehearsal.yaml)
DRESS = $(or $(CONFIG),config/rehearsal.yaml config/dress-rehearsal.yaml)
TRIAL = $(or $(CONFIG),config/trial.yaml)
PAPER = $(or $(CONFIG),config/paper.yaml)
RESULTS = $$($(RUN) python scripts/commands/check_config.py --results $1)
REPORT = $(call RESULTS,$1)/report/index.html
PYTHON_FILES := scripts tests
# The environments that a part of `make bench` needs for its peers.
PEERS_data := .venv-bench
PEERS_real-data := .venv-bench
PEERS_client := .venv-curator
PEERS_sft := .venv-bench-training

.PHONY: help rehearsal dress-rehearsal trial reproduce evaluate doctor report learning plan cancel-batches export-answers import-answers forget test fuzz bench check fix lock pin clean environment development stale audit compare archive crate release evidence

help: ## print this
	@awk -F ':.*## ' '/^[a-z.-]+:.*## /{printf "  make %-17s%s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  CONFIG=file…  MIRROR=dir  PROFILE=profiles/slurm  JOBS=n  TORCH=auto|cpu|cuda  PYTHON=python3.12  VERBOSE=1"

environment: ## make .venv from the locks, once
	@scripts/commands/make_environment.sh "$(ENV)" "$(or $(TORCH),auto)" $(if $(findstring slurm,$(PROFILE)),slurm)

development: ## the same, with what tests and checks need
	@scripts/commands/make_environment.sh "$(ENV)" "$(or $(TORCH),auto)" development

rehearsal: environment ## the whole recipe in miniature, on a CPU
	@$(LOOK) --config $(REHEARSAL)
	@$(WORKFLOW) --small --config $(REHEARSAL)
	@echo "report: $(call REPORT,$(REHEARSAL))"

dress-rehearsal: environment ## every stage once at the paper's shape, on random weights: what fits, and how long it takes
	@$(LOOK) --config $(DRESS)
	@$(WORKFLOW) --small --config $(DRESS)
	@$(RUN) python scripts/commands/plan_requests.py --config $(DRESS) --profile $(or $(PROFILE),profiles/default)

trial: environment .venv-llama-cpp ## the whole recipe on a small real model and real data, on a CPU
	@$(LOOK) --config $(TRIAL)
	@$(WORKFLOW) --small --config $(TRIAL)
	@echo "report: $(call REPORT,$(TRIAL))"

reproduce: doctor ## the whole recipe at the paper's scale (GPU, keys)
	@$(WORKFLOW) --config $(PAPER)
	@echo "report: $(call REPORT,$(PAPER))"

stale: environment ## which stages of CONFIG are stale, and why
	@$(RUN) python scripts/commands/list_stale.py $(REHEARSAL)

audit: environment ## hash CONFIG's results again and recompute what needs no model; no GPU, key or network
	@results="$(call RESULTS,$(REHEARSAL))" && $(RUN) python scripts/commands/audit_results.py --results "$$results"

compare: environment ## two runs, A= and B= (results or archives): settings, inputs, code, numbers
	@$(RUN) python scripts/commands/compare_runs.py "$$BEZOAR_A" "$$BEZOAR_B"

archive: environment ## CONFIG's results, receipts and stores as one file to audit elsewhere
	@results="$(call RESULTS,$(REHEARSAL))" && $(RUN) python scripts/commands/archive_results.py --results "$$results" --config $(REHEARSAL) --output openbezoar.tar $(if $(MAX_BYTES),--max-bytes "$$BEZOAR_MAX_BYTES")

crate: environment .venv-crate ## CONFIG's run as a Workflow Run RO-Crate, validated; ro-crate-metadata.json
	@results="$(call RESULTS,$(REHEARSAL))" && $(RUN) python scripts/commands/write_crate.py --results "$$results"
	@PYTHONPATH=scripts .venv-crate/bin/python scripts/commands/validate_crate.py .

release: environment ## publish CONFIG's run on the hub as NAMESPACE=owner, with HF_TOKEN; DRY=1 only shows it
	@$(RUN) python scripts/commands/release.py --config $(PAPER) --namespace "$$BEZOAR_NAMESPACE" $(if $(DRY),--dry)

doctor: environment ## what is missing for CONFIG, each with what to do
	@$(RUN) python scripts/commands/doctor.py $(WHERE_TO) --config $(PAPER)

evaluate: environment ## both benchmarks on MODEL=directory or owner/name [REVISION= TEMPLATE= NAME=], a row in a table
	@$(RUN) python scripts/commands/evaluate_model.py --model "$$BEZOAR_MODEL" --revision "$$BEZOAR_REVISION" --template "$$BEZOAR_TEMPLATE" --name "$$BEZOAR_NAME" --config $(PAPER) $(CORES) --profile $(or $(PROFILE),profiles/default)

report: environment ## rebuild the report of CONFIG's finished run; OPEN=1 shows it in a browser
	@$(WORKFLOW) --config $(REHEARSAL) --finished --target report
	@echo "report: $(call REPORT,$(REHEARSAL))"
	@$(if $(OPEN),$(RUN) python -c 'import pathlib, sys, webbrowser; webbrowser.open(pathlib.Path(sys.argv[1]).resolve().as_uri())' "$(call REPORT,$(REHEARSAL))")

learning: environment ## seeds 39 to 41 of the rehearsal, for docs/learning.md
	$(RUN) python scripts/dev/repeat_rehearsal.py --seeds 39 40 41 $(CORES)

plan: environment ## what CONFIG's pending requests will cost, or with MODEL= those of its evaluation
	@$(RUN) python scripts/commands/plan_requests.py --config $(PAPER) --profile $(or $(PROFILE),profiles/default) --model "$$BEZOAR_MODEL" --revision "$$BEZOAR_REVISION" --template "$$BEZOAR_TEMPLATE" --name "$$BEZOAR_NAME"

cancel-batches: environment ## end the open batches of CONFIG; GIVE_UP=1 forgets what they would answer
	@$(RUN) python scripts/commands/cancel_batches.py $(if $(GIVE_UP),--give-up )--config $(PAPER)

export-answers: environment ## every stored answer of CONFIG as one file, FILE=
	$(RUN) python scripts/commands/exchange_answers.py export --config $(REHEARSAL) --file "$${BEZOAR_FILE:-answers.jsonl.xz}"

import-answers: environment ## add the answers of such a file; then make … MODE=replay
	$(RUN) python scripts/commands/exchange_answers.py import --config $(REHEARSAL) --file "$${BEZOAR_FILE:-answers.jsonl.xz}"

pin: environment ## write the hub's commit of today for each source without a revision into config/sources.yaml
	@$(RUN) python scripts/commands/pin_sources.py

forget: environment ## stored failures of KIND=refused, unparsable, truncated, provider_error, other_model or all of CONFIG; with STORE=file all its answers; DRY=1 counts
	@$(RUN) python scripts/commands/forget_failures.py --config $(REHEARSAL) $(if $(STORE),--store "$$BEZOAR_STORE" $(if $(KIND),--kind $(KIND)),--kind $(or $(KIND),none)) $(if $(DRY),--dry-run)

test: development ## all tests
	$(RUN) python -m pytest --numprocesses $(or $(JOBS),$$($(RUN) python -c 'from bezoar.workflow.machine import cores; print(cores())')) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

fuzz: development ## N (2,000) damaged inputs for each reader, program and provider; reports how each ended
	BEZOAR_EXAMPLES=$(or $(N),2000) $(RUN) python -m pytest tests/unit/test_fuzz*.py -p no:cacheprovider

evidence: development .venv-crate ## try to break every promise, beside Snakemake's own triggers; half an hour; for docs/evidence.md
	$(RUN) python scripts/dev/measure_evidence.py --output docs/evidence.md

bench: environment $(if $(PART),$(foreach part,$(PART),$(PEERS_$(part))),$(PEERS_data) $(PEERS_client) $(PEERS_sft)) ## speed and memory beside named peers, for docs/benchmarks.md, on an idle machine; PART=data|real-data|client|evaluation|sft|dpo|ablation|memory|precision|start|report, BUSY=1 beside other work
	@$(RUN) python scripts/dev/bench.py $(if $(BUSY),--busy) $(PART)

SIDE := .venv-bench .venv-bench-training .venv-curator .venv-crate .venv-llama-cpp .venv-serve
.PHONY: $(SIDE)
$(SIDE): .venv-%: .venv-%/.made
.venv-serve: ## an environment for vLLM, which serves the teacher (docs/reproducing.md)

$(SIDE:=/.made): .venv-%/.made: envs/%.lock | environment # for training, with the torch that .venv has
	@scripts/commands/make_side_environment.sh "$(ENV)" $(@D) $< $(if $(findstring training,$@),envs/torch-$(if $(wildcard $(ENV)/.made-cuda-*),cuda,cpu).lock)

check: development ## formatting, types, lint, schema; writes nothing
	$(RUN) scripts/dev/check.sh

fix: development ## format what can be formatted
	$(RUN) ruff check --quiet --fix-only $(PYTHON_FILES); $(RUN) ruff format $(PYTHON_FILES); $(RUN) python -m snakefmt --line-length 100 Snakefile rules; $(RUN) python scripts/dev/write_deviations.py; $(RUN) python scripts/dev/write_reach.py; $(RUN) python scripts/dev/write_resources.py

lock: development ## resolve envs/*.in into envs/*.lock
	$(RUN) python scripts/dev/lock_environments.py $(if $(UPGRADE),--upgrade)

clean: ## remove environments and caches; keeps data/, results/, logs/
	rm -rf .venv $(SIDE) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@echo "kept: data/ (sources), results/ (artifacts and stores of paid answers), logs/, benchmarks/, .snakemake/ (what is up to date)"
