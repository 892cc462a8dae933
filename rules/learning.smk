"""
What each state of the model has learned, on held-out items of the world (rehearsal only).

REQUIRED INPUTS:
    heldout  = <results>/world/heldout/{lamini,orca,evol,preferences}.jsonl
OUTPUTS:
    measured = <results>/learning/{state}.json           every value by item
    table    = <results>/learning.json
"""


rule learning:
    """Measure the state {wildcards.state}."""
    input:
        script="scripts/measure_learning.py",
        lock="envs/main.lock",
        heldout=expand(
            "<results>/world/{file}", file=[file for file in WORLD_FILES if "heldout/" in file]
        ),
        template=source("chat_template"),
        model=lambda wildcards: lineage.measured(LAYOUT, wildcards.state)[0],
        adapter=lambda wildcards: lineage.measured(LAYOUT, wildcards.state)[1] or [],
    output:
        measured="<results>/learning/{state}.json",
        receipt="<results>/receipts/learning_{state}.json",
    log:
        "<logs>/learning/{state}.txt",
    benchmark:
        "<benchmarks>/learning/{state}.tsv"
    threads: (config["learning"] or {}).get("threads", 1)
    resources:
        **NEEDS.asked("learning"),
    params:
        recipe=recipe("learning"),
        code=code("scripts/measure_learning.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --base {input.model:q} --adapter {input.adapter:q} --heldout {input.heldout:q} \
            --template {input.template:q} --output {output.measured:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule learning_table:
    """Compare the states with paired intervals."""
    input:
        script="scripts/collect_learning.py",
        lock="envs/main.lock",
        measured=expand("<results>/learning/{state}.json", state=LAYOUT.states),
    output:
        table="<results>/learning.json",
        receipt="<results>/receipts/learning_table.json",
    log:
        "<logs>/learning/table.txt",
    benchmark:
        "<benchmarks>/learning/table.tsv"
    params:
        recipe=as_json(recipes.seeded(LAYOUT)),
        code=code("scripts/collect_learning.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --measured {input.measured:q} --output {output.table:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
