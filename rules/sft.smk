"""
QLoRA, one scheme after the other: one adapter is trained on {lamini, orca, evol} in turn over the
same 4-bit base (config: sft: chaining: carry), or each scheme has an adapter of its own, merged
before the next (merge).

REQUIRED INPUTS:
    data    = <results>/filter/{scheme}.jsonl, or <results>/data/clean/{scheme}.jsonl
    base    = <results>/base/model.safetensors, or <results>/merge/sft-{scheme before}/…
    parent  = <results>/sft/{scheme before}/adapter_model.safetensors, if it is continued
OUTPUTS:
    adapter = <results>/sft/{scheme}/adapter_model.safetensors   and config, lineage, metrics
"""


rule sft:
    """Train on {wildcards.scheme} with learning rate {params.learning_rate}."""
    input:
        script="scripts/train_sft.py",
        lock="envs/main.lock",
        data=lambda wildcards: lineage.sft_training(LAYOUT, wildcards.scheme).rows,
        base=lambda wildcards: lineage.sft_training(LAYOUT, wildcards.scheme).base,
        template=source("chat_template"),
        parent=lambda wildcards: lineage.sft_training(LAYOUT, wildcards.scheme).parent or [],
    output:
        adapter="<results>/sft/{scheme}/adapter_model.safetensors",
        config="<results>/sft/{scheme}/adapter_config.json",
        lineage="<results>/sft/{scheme}/lineage.json",
        metrics="<results>/sft/{scheme}/metrics.jsonl",
        receipt="<results>/receipts/sft_{scheme}.json",
    log:
        "<logs>/sft/{scheme}.txt",
    benchmark:
        "<benchmarks>/sft/{scheme}.tsv"
    priority: FIRST
    threads: config["sft"]["threads"] * config["launch"]["processes"]
    resources:
        **NEEDS.asked("sft"),
    params:
        recipe=as_json(recipes.training(LAYOUT, "sft")),
        code=code("scripts/train_sft.py"),
        launch=LAYOUT.launch(),
        learning_rate=config["sft"]["learning_rate"],
    shell:
        r"""
        exec &> >(tee {log:q})
        {params.launch} {input.script:q} \
            --stage sft --data {input.data:q} --base {input.base:q} --parent {input.parent:q} \
            --template {input.template:q} --adapter {output.adapter:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
