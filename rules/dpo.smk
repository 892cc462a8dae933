"""
Direct Preference Optimisation over the merged HH-RLHF-SFT model, which is also the reference.

REQUIRED INPUTS:
    pairs   = <results>/preferences/pairs.jsonl
    base    = <results>/merge/openbezoar-hh-rlhf-sft/model.safetensors
OUTPUTS:
    adapter = <results>/dpo/adapter_model.safetensors
"""


rule dpo:
    """Align with beta {params.beta}."""
    input:
        script="scripts/train_dpo.py",
        lock="envs/main.lock",
        pairs="<results>/preferences/pairs.jsonl",
        base="<results>/merge/openbezoar-hh-rlhf-sft/model.safetensors",
        template=source("chat_template"),
    output:
        adapter="<results>/dpo/adapter_model.safetensors",
        config="<results>/dpo/adapter_config.json",
        lineage="<results>/dpo/lineage.json",
        metrics="<results>/dpo/metrics.jsonl",
        receipt="<results>/receipts/dpo.json",
    log:
        "<logs>/dpo.txt",
    benchmark:
        "<benchmarks>/dpo.tsv"
    priority: TRAINING
    threads: config["dpo"]["threads"]
    resources:
        gpu=GPU,
        mem_mb=32_000,
    params:
        recipe=recipe("dpo"),
        code=code("scripts/train_dpo.py"),
        beta=config["dpo"]["beta"],
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --pairs {input.pairs:q} --base $(dirname {input.base:q}) \
            --template {input.template:q} --adapter $(dirname {output.adapter:q}) \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
