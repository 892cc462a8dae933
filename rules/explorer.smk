"""
Every row behind the numbers on one page, to search, filter and link to.

REQUIRED INPUTS:
    rows    = <results>/filter/{scheme}.jsonl, data/{duplicates,contamination}.jsonl
    dropped = <results>/generate/{scheme}.dropped.jsonl
    chat    = <results>/mtbench/{model}/{answers,judgments}.jsonl
    pairs   = <results>/preferences/pairs.jsonl, or data/clean/pairs.jsonl, dpo/held_out.json
    samples = <results>/lm_eval/{model}.samples.jsonl, lm_eval.json, data/evaluation_items.jsonl
OUTPUTS:
    page    = <results>/report/rows.html
"""


rule explorer:
    """Put the rows of {params.scale} on a page."""
    input:
        script="scripts/build_explorer.py",
        lock="envs/main.lock",
        template="scripts/bezoar/report/explorer/page.html.j2",
        rows=expand("<results>/filter/{scheme}.jsonl", scheme=SCHEMES),
        dropped=expand("<results>/generate/{scheme}.dropped.jsonl", scheme=GENERATED),
        duplicates="<results>/data/duplicates.jsonl",
        contamination="<results>/data/contamination.jsonl",
        evaluation="<results>/data/evaluation_items.jsonl",
        answers=expand("<results>/mtbench/{model}/answers.jsonl", model=EVALUATED),
        judgments=expand("<results>/mtbench/{model}/judgments.jsonl", model=EVALUATED),
        pairs=lineage.used(LAYOUT, PAIRS),
        held_out="<results>/dpo/held_out.json",
        samples=expand("<results>/lm_eval/{model}.samples.jsonl", model=EVALUATED),
        lm_eval="<results>/lm_eval.json",
    output:
        page="<results>/report/rows.html",
        receipt="<results>/receipts/explorer.json",
    log:
        "<logs>/explorer.txt",
    benchmark:
        "<benchmarks>/explorer.tsv"
    params:
        recipe=as_json(recipes.explorer(LAYOUT)),
        code=code("scripts/build_explorer.py"),
        scale=config["scale"],
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} --rows {input.rows:q} --dropped {input.dropped:q} \
            --duplicates {input.duplicates:q} --contamination {input.contamination:q} \
            --items {input.evaluation:q} --answers {input.answers:q} \
            --judgments {input.judgments:q} --samples {input.samples:q} \
            --lm-eval {input.lm_eval:q} --pairs {input.pairs:q} --held-out {input.held_out:q} \
            --template {input.template:q} --output {output.page:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
