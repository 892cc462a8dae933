"""
Supervised tuning of the merged SFT model on the chosen answers of HH-RLHF.

REQUIRED INPUTS:
    data    = <results>/preferences/pairs.jsonl, or <results>/data/clean/pairs.jsonl
    base    = <results>/merge/openbezoar-sft/model.safetensors
OUTPUTS:
    adapter = <results>/hh_sft/adapter_model.safetensors
"""


rule hh_sft:
    """Train on the chosen answers for {params.epochs} epoch(s)."""
    input:
        script="scripts/train_sft.py",
        lock="envs/main.lock",
        data=lineage.used(LAYOUT, PAIRS),
        base="<results>/merge/openbezoar-sft/model.safetensors",
        template=source("chat_template"),
    output:
        adapter="<results>/hh_sft/adapter_model.safetensors",
        config="<results>/hh_sft/adapter_config.json",
        lineage="<results>/hh_sft/lineage.json",
        metrics="<results>/hh_sft/metrics.jsonl",
        receipt="<results>/receipts/hh_sft.json",
    log:
        "<logs>/hh_sft.txt",
    benchmark:
        "<benchmarks>/hh_sft.tsv"
    priority: FIRST
    threads: config["hh_sft"]["threads"] * config["launch"]["processes"]
    resources:
        **NEEDS.asked("hh_sft"),
    params:
        recipe=as_json(recipes.training(LAYOUT, "hh_sft")),
        code=code("scripts/train_sft.py"),
        launch=LAYOUT.launch(),
        epochs=config["hh_sft"]["epochs"],
    shell:
        r"""
        exec &> >(tee {log:q})
        {params.launch} {input.script:q} \
            --stage hh_sft --data {input.data:q} --base {input.base:q} \
            --template {input.template:q} --adapter {output.adapter:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
