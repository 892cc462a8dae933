"""
A language model judges every generated row, as GPT-4 does in the paper; training keeps what it
accepts.

REQUIRED INPUTS:
    data   = <results>/generate/{scheme}.jsonl, or the released set (config: entry: released)
    prompt = prompts/filter.txt
OUTPUTS:
    rows   = <results>/filter/{scheme}.jsonl            every row, with its verdict
    counts = <results>/filter/{scheme}.counts.json
"""

from bezoar.workflow import served

RATERS = LAYOUT.config["filter"]["rater"], LAYOUT.config["filter"]["second_rater"]

if config["entry"] == "generate":

    rule filter:
        """Judge the rows of {wildcards.scheme}."""
        input:
            script="scripts/filter_rows.py",
            lock="envs/main.lock",
            prompts="prompts/filter.txt",
            data="<results>/generate/{scheme}.jsonl",
            facts=FACTS,
            server=served.files(LAYOUT, "filter", *RATERS),
        output:
            rows="<results>/filter/{scheme}.jsonl",
            counts="<results>/filter/{scheme}.counts.json",
            receipt="<results>/receipts/filter_{scheme}.json",
        log:
            "<logs>/filter/{scheme}.txt",
        benchmark:
            "<benchmarks>/filter/{scheme}.tsv"
        priority: FIRST
        threads: served.threads(LAYOUT, "filter", *RATERS)
        resources:
            **NEEDS.asked("filter"),
            concurrency=16,
        params:
            recipe=as_json(recipes.rating(LAYOUT)),
            code=code("scripts/filter_rows.py"),
            store=store("filter-{scheme}"),
            server=lambda wildcards: served.before(LAYOUT, f"filter-{wildcards.scheme}", *RATERS),
        shell:
            r"""
            exec &> >(tee {log:q})
            {params.server}
            python {input.script:q} \
                --data {input.data:q} --prompts {input.prompts:q} \
                --store {params.store:q} --facts {input.facts:q} \
                --concurrency {resources.concurrency} \
                --rows {output.rows:q} --counts {output.counts:q} \
                --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
            """

else:

    rule filter:
        """Take the released rows of {wildcards.scheme} with the verdicts they came with."""
        input:
            script="scripts/import_released.py",
            lock="envs/main.lock",
            manifest=lambda wildcards: LAYOUT.place(LAYOUT.released(wildcards.scheme)),
        output:
            rows="<results>/filter/{scheme}.jsonl",
            counts="<results>/filter/{scheme}.counts.json",
            receipt="<results>/receipts/filter_{scheme}.json",
        log:
            "<logs>/filter/{scheme}.txt",
        benchmark:
            "<benchmarks>/filter/{scheme}.tsv"
        params:
            recipe=lambda wildcards: canonical(recipes.seeded(LAYOUT, scheme=wildcards.scheme)),
            code=code("scripts/import_released.py"),
        shell:
            r"""
            exec &> >(tee {log:q})
            python {input.script:q} \
                --manifest {input.manifest:q} --rows {output.rows:q} --counts {output.counts:q} \
                --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
            """
