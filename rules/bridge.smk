"""
The same answers judged again, each time in a column of its own, and what that does to the scores.

REQUIRED INPUTS:
    answers   = <results>/mtbench/{model}/answers.jsonl
    overrides = config/reference_overrides.yaml   if config: mtbench: rejudge: references: corrected
OUTPUTS:
    judgments = <results>/mtbench/{model}/{column}.judgments.jsonl   FastChat's format
    bridge    = <results>/bridge/{column}.json                       offsets and rank agreement
"""

from bezoar.workflow import served


rule mtbench_rejudge:
    """Judge the answers of {wildcards.model} once more, as {wildcards.column}."""
    input:
        script="scripts/judge_mtbench.py",
        lock="envs/main.lock",
        questions=source("mt_bench_questions"),
        references=source("mt_bench_references"),
        prompts=source("mt_bench_judge_prompts"),
        answers="<results>/mtbench/{model}/answers.jsonl",
        overrides=lambda wildcards: LAYOUT.overrides(wildcards.column),
        facts=FACTS,
        server=lambda wildcards: served.files(LAYOUT, "rejudge", LAYOUT.judge(wildcards.column)),
    output:
        judgments="<results>/mtbench/{model}/{column}.judgments.jsonl",
        counts="<results>/mtbench/{model}/{column}.counts.json",
        receipt="<results>/receipts/mtbench_rejudge_{column}_{model}.json",
    log:
        "<logs>/mtbench/{model}.{column}.txt",
    benchmark:
        "<benchmarks>/mtbench/{model}.{column}.tsv"
    threads: lambda wildcards: served.threads(LAYOUT, "rejudge", LAYOUT.judge(wildcards.column))
    resources:
        **NEEDS.asked("mtbench_rejudge"),
        concurrency=16,
    params:
        recipe=lambda wildcards: canonical(recipes.rejudge(LAYOUT, wildcards.column)),
        code=code("scripts/judge_mtbench.py"),
        store=store("rejudge-{column}.{model}"),
        server=served.before_column(LAYOUT),
    shell:
        r"""
        exec &> >(tee {log:q})
        {params.server}
        python {input.script:q} \
            --questions {input.questions:q} --references {input.references:q} \
            --judge-prompts {input.prompts:q} --overrides {input.overrides:q} \
            --answers {input.answers:q} --store {params.store:q} --facts {input.facts:q} \
            --concurrency {resources.concurrency} --judgments {output.judgments:q} \
            --counts {output.counts:q} --recipe {params.recipe:q} --code {params.code} \
            --receipt {output.receipt:q}
        """


rule bridge:
    """Compare the main judgments with those of {wildcards.column}."""
    input:
        script="scripts/bridge_judges.py",
        lock="envs/main.lock",
        first=expand("<results>/mtbench/{model}/judgments.jsonl", model=EVALUATED),
        second=expand("<results>/mtbench/{model}/{{column}}.judgments.jsonl", model=EVALUATED),
    output:
        bridge="<results>/bridge/{column}.json",
        receipt="<results>/receipts/bridge_{column}.json",
    log:
        "<logs>/bridge/{column}.txt",
    benchmark:
        "<benchmarks>/bridge/{column}.tsv"
    params:
        recipe=lambda wildcards: canonical(recipes.seeded(LAYOUT, column=wildcards.column)),
        code=code("scripts/bridge_judges.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --first {input.first:q} --second {input.second:q} --output {output.bridge:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
