"""
A verdict for every claim of the paper that can be tested, and the paper's values beside ours where
they were filled in.

REQUIRED INPUTS:
    claims       = config/claims.yaml
    paper_values = config/paper_values.csv
    artifacts    = what the claims name: tables, counts, the base's receipt
OUTPUTS:
    verdicts     = <results>/claims.json
"""


rule claims:
    """Decide each claim by its rule, at the scale {params.scale}."""
    input:
        script="scripts/check_claims.py",
        lock="envs/main.lock",
        claims="config/claims.yaml",
        paper_values="config/paper_values.csv",
        artifacts=[
            "<results>/lm_eval.json",
            "<results>/mtbench.json",
            "<results>/receipts/base.json",
            *expand("<results>/generate/{scheme}.counts.json", scheme=GENERATED),
        ],
    output:
        verdicts="<results>/claims.json",
        receipt="<results>/receipts/claims.json",
    log:
        "<logs>/claims.txt",
    benchmark:
        "<benchmarks>/claims.tsv"
    params:
        recipe=as_json(recipes.claims(LAYOUT)),
        code=code("scripts/check_claims.py"),
        scale=config["scale"],
        results=lambda wildcards, output: dirname(output.verdicts),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} --claims {input.claims:q} --paper-values {input.paper_values:q} \
            --results {params.results:q} --artifacts {input.artifacts:q} \
            --output {output.verdicts:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
