"""
Adapters are merged onto their base in 16 bits, and the difference to the unmerged model is
measured.

REQUIRED INPUTS:
    base    = the model below it
    adapter = the adapter trained on it
    probe   = the first rows of <results>/filter/{scheme}.jsonl, whatever their verdict; over
              preferences, the pairs that it was trained on
OUTPUTS:
    model   = <results>/merge/openbezoar-{sft,hh-rlhf-sft,hh-rlhf-dpo}/model.safetensors
    report  = <results>/merge/{model}/merge.json   KL and differences of log-probabilities
    card    = <results>/merge/{model}/README.md    for the hub
"""


rule merge:
    """Merge the adapter of {wildcards.model} onto its {params.merge_onto}."""
    input:
        script="scripts/merge_adapter.py",
        lock="envs/main.lock",
        base=lambda wildcards: lineage.merge(LAYOUT, wildcards.model).base,
        adapter=lambda wildcards: lineage.merge(LAYOUT, wildcards.model).adapter,
        probe=lambda wildcards: lineage.merge(LAYOUT, wildcards.model).probe,
        template=source("chat_template"),
    output:
        model="<results>/merge/{model}/model.safetensors",
        config="<results>/merge/{model}/config.json",
        tokenizer=f"<results>/merge/{{model}}/{LAYOUT.tokenizer}",
        report="<results>/merge/{model}/merge.json",
        receipt="<results>/receipts/merge_{model}.json",
    log:
        "<logs>/merge/{model}.txt",
    benchmark:
        "<benchmarks>/merge/{model}.tsv"
    priority: FIRST
    threads: config["merge"]["threads"]
    resources:
        **NEEDS.asked("merge"),
    params:
        recipe=recipe("merge"),
        code=code("scripts/merge_adapter.py"),
        merge_onto=config["merge"]["merge_onto"],
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --base {input.base:q} --adapter {input.adapter:q} --probe {input.probe:q} \
            --template {input.template:q} --model {output.model:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule model_card:
    """Write the card of {wildcards.model}."""
    input:
        script="scripts/write_model_card.py",
        lock="envs/main.lock",
        receipts=lambda wildcards: [LAYOUT.receipt(t.stage) for t in trainings(wildcards)],
        merge="<results>/receipts/merge_{model}.json",
    output:
        card="<results>/merge/{model}/README.md",
        receipt="<results>/receipts/model_card_{model}.json",
    log:
        "<logs>/merge/{model}.card.txt",
    benchmark:
        "<benchmarks>/merge/{model}.card.tsv"
    params:
        recipe=card_of_model,
        code=code("scripts/write_model_card.py"),
        model=f"{LAYOUT.results}/merge/{{model}}",
        adapters=lambda wildcards: [t.directory for t in trainings(wildcards)],
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --model {params.model:q} --receipts {input.receipts:q} --merge-receipt {input.merge:q} \
            --adapters {params.adapters:q} \
            --card {output.card:q} --recipe {params.recipe:q} --code {params.code} \
            --receipt {output.receipt:q}
        """
