"""
The base model as one safetensors file with its tokenizer: pretrained here (rehearsal) or imported
from a pinned snapshot.

REQUIRED INPUTS:
    corpus   = <results>/world/corpus.jsonl          where config: pretrain is given
    snapshot = config: sources: base_model           elsewhere
OUTPUTS:
    model    = <results>/base/model.safetensors      and config.json and the tokenizer's file
"""

if config["pretrain"]:

    rule base:
        """Pretrain the tiny base on the world's text for {params.steps} steps."""
        input:
            script="scripts/pretrain_base.py",
            lock="envs/main.lock",
            corpus="<results>/world/corpus.jsonl",
        output:
            model="<results>/base/model.safetensors",
            config="<results>/base/config.json",
            tokenizer="<results>/base/tokenizer.model",
            metrics="<results>/base.metrics.jsonl",
            receipt="<results>/receipts/base.json",
        log:
            "<logs>/base.txt",
        benchmark:
            "<benchmarks>/base.tsv"
        priority: FIRST
        threads: 2
        resources:
            **NEEDS.asked("base"),
        params:
            recipe=recipe("pretrain"),
            code=code("scripts/pretrain_base.py"),
            steps=config["pretrain"]["steps"],
            checkpoint=f"{LAYOUT.results}/.base.checkpoint.pt",
        shell:
            r"""
            exec &> >(tee {log:q})
            python {input.script:q} \
                --corpus {input.corpus:q} --base {output.model:q} \
                --checkpoint {params.checkpoint:q} \
                --metrics {output.metrics:q} \
                --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
            """

else:

    rule base:
        """Import the pinned base model as one {params.dtype} safetensors file."""
        input:
            script="scripts/import_base.py",
            lock="envs/main.lock",
            snapshot=LAYOUT.base_files(),
        output:
            model="<results>/base/model.safetensors",
            config="<results>/base/config.json",
            tokenizer=f"<results>/base/{LAYOUT.tokenizer}",
            receipt="<results>/receipts/base.json",
        log:
            "<logs>/base.txt",
        benchmark:
            "<benchmarks>/base.tsv"
        resources:
            **NEEDS.asked("base"),
        params:
            recipe=recipe("base"),
            code=code("scripts/import_base.py"),
            dtype=config["base"]["dtype"],
            snapshot=lambda wildcards: source("base_model"),
        shell:
            r"""
            exec &> >(tee {log:q})
            python {input.script:q} \
                --snapshot {params.snapshot:q} --base {output.model:q} \
                --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
            """
