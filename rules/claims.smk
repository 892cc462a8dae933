"""
A verdict for every claim of the paper that can be tested.

REQUIRED INPUTS:
    claims   = config/claims.yaml
    tables   = <results>/lm_eval.json, <results>/mtbench.json
OUTPUTS:
    verdicts = <results>/claims.json
"""


rule claims:
    """Decide each claim by its rule, at the scale {params.scale}."""
    input:
        script="scripts/check_claims.py",
        lock="envs/main.lock",
        claims="config/claims.yaml",
        tables=["<results>/lm_eval.json", "<results>/mtbench.json"],
    output:
        verdicts="<results>/claims.json",
        receipt="<results>/receipts/claims.json",
    log:
        "<logs>/claims.txt",
    benchmark:
        "<benchmarks>/claims.tsv"
    params:
        recipe=claims_recipe(),
        code=code("scripts/check_claims.py"),
        scale=config["scale"],
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} --claims {input.claims:q} --tables {input.tables:q} --output {output.verdicts:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
