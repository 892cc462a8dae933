"""
Adapters are merged onto their base in 16 bits, and the difference to the unmerged model is measured.

REQUIRED INPUTS:
    base    = the model below it        adapter = the adapter trained on it        probe = rows it was trained on
OUTPUTS:
    model   = <results>/merge/{openbezoar-sft,openbezoar-hh-rlhf-sft,openbezoar-hh-rlhf-dpo}/model.safetensors
    report  = <results>/merge/{model}/merge.json         KL and logit differences
    card    = <results>/merge/{model}/README.md          for the hub
"""


rule merge:
    """Merge the adapter of {wildcards.model} onto its {params.onto}."""
    input:
        script="scripts/merge_adapter.py",
        lock="envs/main.lock",
        base=merge_base,
        adapter=merge_adapter,
        probe=merge_probe,
        template=source("chat_template"),
    output:
        model="<results>/merge/{model}/model.safetensors",
        config="<results>/merge/{model}/config.json",
        tokenizer="<results>/merge/{model}/" + TOKENIZER,
        report="<results>/merge/{model}/merge.json",
        receipt="<results>/receipts/merge_{model}.json",
    log:
        "<logs>/merge/{model}.txt",
    benchmark:
        "<benchmarks>/merge/{model}.tsv"
    priority: FIRST
    threads: config["merge"]["threads"]
    resources:
        mem_mb=32_000,
    params:
        recipe=recipe("merge"),
        code=code("scripts/merge_adapter.py"),
        onto=config["merge"]["onto"],
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --base $(dirname {input.base:q}) --adapter $(dirname {input.adapter:q}) --probe {input.probe:q} \
            --template {input.template:q} --model $(dirname {output.model:q}) \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule model_card:
    """Write the card of {wildcards.model}."""
    input:
        script="scripts/write_model_card.py",
        lock="envs/main.lock",
        receipts=model_card_receipts,
        merge="<results>/receipts/merge_{model}.json",
    output:
        card="<results>/merge/{model}/README.md",
        receipt="<results>/receipts/model_card_{model}.json",
    log:
        "<logs>/merge/{model}.card.txt",
    benchmark:
        "<benchmarks>/merge/{model}.card.tsv"
    params:
        recipe=model_card_recipe,
        code=code("scripts/write_model_card.py"),
        adapters=model_card_adapters,
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --model $(dirname {output.card:q}) --receipts {input.receipts:q} --merge-receipt {input.merge:q} --adapters {params.adapters:q} \
            --card {output.card:q} --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
