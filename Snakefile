"""Reproduce OpenBezoar (arXiv 2404.12195): `make reproduce`, or in miniature `make rehearsal`."""


configfile: "config/paper.yaml"


# The CUDA base that Dockerfile starts from. Snakemake uses it only with --sdm apptainer, for which
# the built image has to be named here.
container: "docker://nvidia/cuda:13.0.3-cudnn-runtime-ubuntu24.04@sha256:14f6d08d1cd4a96effbfe3101d0b56326f552c199d05e4979ee0bd616df5811b"


include: "rules/common.smk"
include: "rules/sources.smk"
include: "rules/world.smk"
include: "rules/base.smk"
include: "rules/serve.smk"
include: "rules/generate.smk"
include: "rules/filter.smk"
include: "rules/data.smk"
include: "rules/sft.smk"
include: "rules/merge.smk"
include: "rules/preferences.smk"
include: "rules/hh_sft.smk"
include: "rules/dpo.smk"
include: "rules/learning.smk"
include: "rules/lm_eval.smk"
include: "rules/mtbench.smk"
include: "rules/bridge.smk"
include: "rules/evaluate.smk"
include: "rules/claims.smk"
include: "rules/explorer.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        "<results>/report/index.html",
        LAYOUT.reported(),
        "<results>/base/model.safetensors",
        "<results>/preferences/pairs.jsonl",
        expand("<results>/generate/{scheme}.jsonl", scheme=GENERATED),
        expand("<results>/filter/{scheme}.jsonl", scheme=SCHEMES),
        expand("<results>/data/cards/{scheme}/README.md", scheme=SCHEMES),
        expand("<results>/sft/{scheme}/adapter_model.safetensors", scheme=SCHEMES),
        expand("<results>/merge/{model}/model.safetensors", model=MODELS[1:]),
        expand("<results>/{stage}/adapter_model.safetensors", stage=["hh_sft", "dpo"]),
        EVALUATIONS,
