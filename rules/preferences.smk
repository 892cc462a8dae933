"""
HH-RLHF dialogues become (prompt, chosen, rejected) rows.

REQUIRED INPUTS:
    data   = config: sources: preferences, in order
OUTPUTS:
    pairs  = <results>/preferences/pairs.jsonl
    counts = <results>/preferences/counts.json           used, and dropped by rule
"""


rule preferences:
    """Convert the first {params.first} pairs."""
    input:
        script="scripts/prepare_preferences.py",
        lock="envs/main.lock",
        data=LAYOUT.source_list("preferences"),
    output:
        pairs="<results>/preferences/pairs.jsonl",
        counts="<results>/preferences/counts.json",
        receipt="<results>/receipts/preferences.json",
    log:
        "<logs>/preferences.txt",
    benchmark:
        "<benchmarks>/preferences.tsv"
    priority: FIRST
    params:
        recipe=recipe("preferences"),
        code=code("scripts/prepare_preferences.py"),
        first=config["preferences"]["first"],
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --data {input.data:q} --pairs {output.pairs:q} --counts {output.counts:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
