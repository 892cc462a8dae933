"""
What is in the generated data: duplicates, what they share with the evaluation, and a description;
cards; and the rows trainings read.

REQUIRED INPUTS:
    rows        = <results>/filter/{scheme}.jsonl, <results>/preferences/pairs.jsonl
    seeds       = config: sources: alpaca_seeds, dolly
    tasks       = the harness's tasks, config: sources: mt_bench_questions and mt_bench_references
    families    = config/task_families.yaml
OUTPUTS:
    evaluation  = <results>/data/evaluation_items.jsonl       every text of every evaluation item
    pairs       = <results>/data/duplicates.{jsonl,json}      by row, and counted
    matches     = <results>/data/contamination.{jsonl,json}   by row with the text, and counted
    description = <results>/data/description.json             funnel, lengths, diversity, the filter
    card        = <results>/data/cards/{scheme}/README.md     in the form of the Hugging Face hub
    kept        = <results>/data/clean/{rows}.jsonl           without what config: data: remove names
"""


rule data_items:
    """List every text of every evaluation item."""
    input:
        script="scripts/list_evaluation_items.py",
        lock="envs/main.lock",
        questions=source("mt_bench_questions"),
        references=source("mt_bench_references"),
        tasks=LAYOUT.task_files(),
        data=list(LAYOUT.task_data().values()),
    output:
        evaluation="<results>/data/evaluation_items.jsonl",
        receipt="<results>/receipts/data_items.json",
    log:
        "<logs>/data/items.txt",
    benchmark:
        "<benchmarks>/data/items.tsv"
    resources:
        **NEEDS.asked("data_items"),
    params:
        recipe=as_json(recipes.seeded(LAYOUT, tasks=config["lm_eval"]["tasks"])),
        code=code("scripts/list_evaluation_items.py"),
        data=[f"{task}={path}" for task, path in LAYOUT.task_data().items()],
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --questions {input.questions:q} --references {input.references:q} \
            --task-files {input.tasks:q} --task-data {params.data:q} --items {output.evaluation:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule data_duplicates:
    """Find duplicates, also across schemes and of seeds, at Jaccard {params.jaccard}."""
    input:
        script="scripts/find_duplicates.py",
        lock="envs/main.lock",
        rows=expand("<results>/filter/{scheme}.jsonl", scheme=SCHEMES),
        seeds=LAYOUT.seeds(),
    output:
        pairs="<results>/data/duplicates.jsonl",
        summary="<results>/data/duplicates.json",
        receipt="<results>/receipts/data_duplicates.json",
    log:
        "<logs>/data/duplicates.txt",
    benchmark:
        "<benchmarks>/data/duplicates.tsv"
    resources:
        **NEEDS.asked("data_duplicates"),
    params:
        recipe=recipe("data.duplicates"),
        code=code("scripts/find_duplicates.py"),
        jaccard=config["data"]["duplicates"]["jaccard"],
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --rows {input.rows:q} --seeds {input.seeds:q} --pairs {output.pairs:q} \
            --summary {output.summary:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule data_contamination:
    """Look for every {params.ngram}-gram of the evaluation in every row."""
    input:
        script="scripts/find_contamination.py",
        lock="envs/main.lock",
        rows=[lineage.collected(LAYOUT, rows) for rows in (*SCHEMES, PAIRS)],
        evaluation="<results>/data/evaluation_items.jsonl",
    output:
        matches="<results>/data/contamination.jsonl",
        summary="<results>/data/contamination.json",
        receipt="<results>/receipts/data_contamination.json",
    log:
        "<logs>/data/contamination.txt",
    benchmark:
        "<benchmarks>/data/contamination.tsv"
    resources:
        **NEEDS.asked("data_contamination"),
    params:
        recipe=recipe("data.contamination"),
        code=code("scripts/find_contamination.py"),
        ngram=config["data"]["contamination"]["ngram"],
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --rows {input.rows:q} --items {input.evaluation:q} --matches {output.matches:q} \
            --summary {output.summary:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule data_description:
    """Describe the data: funnel, lengths, diversity, the filter, task families."""
    input:
        script="scripts/describe_data.py",
        lock="envs/main.lock",
        rows=expand("<results>/filter/{scheme}.jsonl", scheme=SCHEMES),
        made=expand("<results>/generate/{scheme}.counts.json", scheme=GENERATED),
        judged=expand("<results>/filter/{scheme}.counts.json", scheme=SCHEMES),
        families="config/task_families.yaml",
    output:
        description="<results>/data/description.json",
        receipt="<results>/receipts/data_description.json",
    log:
        "<logs>/data/description.txt",
    benchmark:
        "<benchmarks>/data/description.tsv"
    params:
        recipe=as_json(recipes.seeded(LAYOUT, tasks=config["lm_eval"]["tasks"])),
        code=code("scripts/describe_data.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --rows {input.rows:q} --made {input.made:q} --judged {input.judged:q} \
            --families {input.families:q} \
            --description {output.description:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule data_clean:
    """Remove what config: data: remove names from {wildcards.rows}."""
    input:
        script="scripts/remove_rows.py",
        lock="envs/main.lock",
        rows=lambda wildcards: lineage.collected(LAYOUT, wildcards.rows),
        matches="<results>/data/contamination.jsonl",
        families="config/task_families.yaml",
    output:
        kept="<results>/data/clean/{rows}.jsonl",
        counts="<results>/data/clean/{rows}.counts.json",
        receipt="<results>/receipts/data_clean_{rows}.json",
    log:
        "<logs>/data/clean_{rows}.txt",
    benchmark:
        "<benchmarks>/data/clean_{rows}.tsv"
    params:
        recipe=as_json(recipes.removal(LAYOUT)),
        code=code("scripts/remove_rows.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --rows {input.rows:q} --matches {input.matches:q} --families {input.families:q} \
            --kept {output.kept:q} --counts {output.counts:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule data_card:
    """Write the card of the {wildcards.scheme} data."""
    input:
        script="scripts/write_data_card.py",
        lock="envs/main.lock",
        rows="<results>/filter/{scheme}.jsonl",
        receipts=card_receipts,
        tables=expand(
            "<results>/data/{table}.json",
            table=["description", "duplicates", "contamination"],
        ),
    output:
        card="<results>/data/cards/{scheme}/README.md",
        receipt="<results>/receipts/data_card_{scheme}.json",
    log:
        "<logs>/data/card_{scheme}.txt",
    benchmark:
        "<benchmarks>/data/card_{scheme}.tsv"
    params:
        recipe=lambda wildcards: canonical(
            recipes.data_card(LAYOUT, wildcards.scheme, CONFIG_FILES)
        ),
        code=code("scripts/write_data_card.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --rows {input.rows:q} --receipts {input.receipts:q} --tables {input.tables:q} \
            --card {output.card:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
