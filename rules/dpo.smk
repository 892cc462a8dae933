"""
Direct Preference Optimisation over the merged HH-RLHF-SFT model, which is also the reference.

REQUIRED INPUTS:
    pairs     = <results>/preferences/pairs.jsonl, or <results>/data/clean/pairs.jsonl
    base      = <results>/merge/openbezoar-hh-rlhf-sft/model.safetensors
OUTPUTS:
    reference = <results>/dpo_reference/logps.jsonl       log-probabilities; beta does not matter
    adapter   = <results>/dpo/adapter_model.safetensors   and held_out.json: both on held-out pairs
"""


rule dpo_reference:
    """Log-probabilities of every pair under the model that DPO starts from."""
    input:
        script="scripts/score_reference.py",
        lock="envs/main.lock",
        pairs=lineage.used(LAYOUT, PAIRS),
        base="<results>/merge/openbezoar-hh-rlhf-sft/model.safetensors",
        template=source("chat_template"),
    output:
        reference="<results>/dpo_reference/logps.jsonl",
        receipt="<results>/receipts/dpo_reference.json",
    log:
        "<logs>/dpo_reference.txt",
    benchmark:
        "<benchmarks>/dpo_reference.tsv"
    priority: FIRST
    threads: config["dpo"]["threads"]
    resources:
        **NEEDS.asked("dpo_reference"),
    params:
        recipe=as_json(recipes.reference(LAYOUT)),
        code=code("scripts/score_reference.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --pairs {input.pairs:q} --base {input.base:q} \
            --template {input.template:q} --reference {output.reference:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule dpo:
    """Align with beta {params.beta}."""
    input:
        script="scripts/train_dpo.py",
        lock="envs/main.lock",
        pairs=lineage.used(LAYOUT, PAIRS),
        reference="<results>/dpo_reference/logps.jsonl",
        base="<results>/merge/openbezoar-hh-rlhf-sft/model.safetensors",
        template=source("chat_template"),
    output:
        adapter="<results>/dpo/adapter_model.safetensors",
        config="<results>/dpo/adapter_config.json",
        lineage="<results>/dpo/lineage.json",
        metrics="<results>/dpo/metrics.jsonl",
        held_out="<results>/dpo/held_out.json",
        receipt="<results>/receipts/dpo.json",
    log:
        "<logs>/dpo.txt",
    benchmark:
        "<benchmarks>/dpo.tsv"
    priority: FIRST
    threads: config["dpo"]["threads"] * config["launch"]["processes"]
    resources:
        **NEEDS.asked("dpo"),
    params:
        recipe=as_json(recipes.training(LAYOUT, "dpo")),
        code=code("scripts/train_dpo.py"),
        launch=LAYOUT.launch(),
        beta=config["dpo"]["beta"],
    shell:
        r"""
        exec &> >(tee {log:q})
        {params.launch} {input.script:q} \
            --pairs {input.pairs:q} --reference {input.reference:q} --base {input.base:q} \
            --template {input.template:q} --adapter {output.adapter:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
