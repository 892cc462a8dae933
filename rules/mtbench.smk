"""
MT-Bench: answers of each model, judgments of each answer, and the scores of all.

REQUIRED INPUTS:
    questions = config: sources: mt_bench_questions, mt_bench_references, mt_bench_judge_prompts
    model     = <results>/base, <results>/merge/{model} or <results>/models/{model}
OUTPUTS:
    answers   = <results>/mtbench/{model}/answers.jsonl     FastChat's format
    judgments = <results>/mtbench/{model}/judgments.jsonl   FastChat's format, one state a row
    scores    = <results>/mtbench.json
"""

from bezoar.workflow import served

JUDGE = LAYOUT.config["mtbench"]["judgments"]["judge"]


rule mtbench_answers:
    """Answer both turns with {wildcards.model}."""
    input:
        script="scripts/answer_mtbench.py",
        lock="envs/main.lock",
        model=model_file,
        questions=source("mt_bench_questions"),
        template=chat_template,
    output:
        answers="<results>/mtbench/{model}/answers.jsonl",
        receipt="<results>/receipts/mtbench_answers_{model}.json",
    log:
        "<logs>/mtbench/{model}.answers.txt",
    benchmark:
        "<benchmarks>/mtbench/{model}.answers.tsv"
    threads: config["mtbench"]["answers"]["threads"]
    resources:
        **NEEDS.asked("mtbench_answers"),
    params:
        recipe=recipe("mtbench.answers"),
        code=code("scripts/answer_mtbench.py"),
        template=lambda wildcards: chat_template(wildcards) or "tokenizer",
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --model {input.model:q} --name {wildcards.model} --questions {input.questions:q} \
            --template {params.template:q} --answers {output.answers:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule mtbench_judgments:
    """Judge the answers of {wildcards.model}."""
    input:
        script="scripts/judge_mtbench.py",
        lock="envs/main.lock",
        questions=source("mt_bench_questions"),
        references=source("mt_bench_references"),
        prompts=source("mt_bench_judge_prompts"),
        answers="<results>/mtbench/{model}/answers.jsonl",
        facts=FACTS,
        server=served.files(LAYOUT, "judge", JUDGE),
    output:
        judgments="<results>/mtbench/{model}/judgments.jsonl",
        counts="<results>/mtbench/{model}/counts.json",
        receipt="<results>/receipts/mtbench_judgments_{model}.json",
    log:
        "<logs>/mtbench/{model}.judgments.txt",
    benchmark:
        "<benchmarks>/mtbench/{model}.judgments.tsv"
    threads: served.threads(LAYOUT, "judge", JUDGE)
    resources:
        **NEEDS.asked("mtbench_judgments"),
        concurrency=16,
    params:
        recipe=as_json(recipes.judging(LAYOUT)),
        code=code("scripts/judge_mtbench.py"),
        store=store("judge-{model}"),
        server=lambda wildcards: served.before(LAYOUT, f"judge-{wildcards.model}", JUDGE),
    shell:
        r"""
        exec &> >(tee {log:q})
        {params.server}
        python {input.script:q} \
            --questions {input.questions:q} --references {input.references:q} \
            --judge-prompts {input.prompts:q} \
            --answers {input.answers:q} --store {params.store:q} --facts {input.facts:q} \
            --concurrency {resources.concurrency} --judgments {output.judgments:q} \
            --counts {output.counts:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule mtbench:
    """Aggregate all judgments."""
    input:
        script="scripts/score_mtbench.py",
        lock="envs/main.lock",
        judgments=expand("<results>/mtbench/{model}/judgments.jsonl", model=EVALUATED),
        second=expand(
            "<results>/mtbench/{model}/{column}.judgments.jsonl",
            column=LAYOUT.second_judges,
            model=EVALUATED,
        ),
    output:
        scores="<results>/mtbench.json",
        receipt="<results>/receipts/mtbench.json",
    log:
        "<logs>/mtbench/scores.txt",
    benchmark:
        "<benchmarks>/mtbench/scores.tsv"
    params:
        recipe=as_json(recipes.seeded(LAYOUT, pairs=LAYOUT.comparisons())),
        code=code("scripts/score_mtbench.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --judgments {input.judgments:q} {input.second:q} --output {output.scores:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
