"""
One self-contained page: the scale first, then claims, tables, funnel, curves, deviations,
artifacts.

REQUIRED INPUTS:
    artifacts = <results>/{claims,lm_eval,mtbench,learning}.json, counts and curves
    receipts  = <results>/receipts/*.json
OUTPUTS:
    page      = <results>/report/index.html
"""


rule report:
    """Build the report of the scale {params.scale}."""
    input:
        script="scripts/build_report.py",
        lock="envs/main.lock",
        template=sorted(str(path) for path in Path("scripts/bezoar/report").glob("*.html.j2")),
        artifacts=LAYOUT.reported(),
        receipts=list(map(LAYOUT.receipt, LAYOUT.stages())),
    output:
        page="<results>/report/index.html",
        receipt="<results>/receipts/report.json",
    log:
        "<logs>/report.txt",
    benchmark:
        "<benchmarks>/report.tsv"
    params:
        recipe=as_json(recipes.report(LAYOUT, CONFIG_FILES)),
        code=code("scripts/build_report.py"),
        scale=config["scale"],
        results=lambda wildcards, output: dirname(dirname(output.page)),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --results {params.results:q} --artifacts {input.artifacts:q} \
            --receipts {input.receipts:q} \
            --template {input.template:q} --output {output.page:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
