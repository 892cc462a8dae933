"""
Other people's models for `make evaluate MODEL=…`: imported into the layout of ours, both
benchmarks, and a table with one row per model. Nothing is trained.

REQUIRED INPUTS:
    snapshot  = config: extra_models: source, hub or path
    results   = <results>/lm_eval/{model}.json, <results>/lm_eval/{model}.samples.jsonl
    judgments = <results>/mtbench/{model}/judgments.jsonl
OUTPUTS:
    model     = <results>/models/{extra}/model.safetensors   and config.json, tokenizer
    table     = <results>/evaluate/table.csv                 from both tables beside it
"""


rule import_model:
    """Import {wildcards.extra} as one {params.dtype} safetensors file."""
    input:
        script="scripts/import_base.py",
        lock="envs/main.lock",
        snapshot=lambda wildcards: LAYOUT.import_files(wildcards.extra),
    output:
        model="<results>/models/{extra}/model.safetensors",
        config="<results>/models/{extra}/config.json",
        receipt="<results>/receipts/import_model_{extra}.json",
    log:
        "<logs>/models/{extra}.txt",
    benchmark:
        "<benchmarks>/models/{extra}.tsv"
    resources:
        **NEEDS.asked("import_model"),
    params:
        recipe=recipe("base"),
        code=code("scripts/import_base.py"),
        dtype=config["base"]["dtype"],
        folder=lambda wildcards: LAYOUT.import_directory(wildcards.extra),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --snapshot {params.folder:q} --base {output.model:q} --any-tokenizer \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule evaluate_lm_eval:
    """Put the harness's results of the extra models into one table."""
    input:
        script="scripts/collect_lm_eval.py",
        lock="envs/main.lock",
        results=expand("<results>/lm_eval/{model}.json", model=EXTRA),
        samples=expand("<results>/lm_eval/{model}.samples.jsonl", model=EXTRA),
    output:
        table="<results>/evaluate/lm_eval.json",
        receipt="<results>/receipts/evaluate_lm_eval.json",
    log:
        "<logs>/evaluate/lm_eval.txt",
    benchmark:
        "<benchmarks>/evaluate/lm_eval.tsv"
    params:
        recipe=as_json(recipes.harness_table(LAYOUT, LAYOUT.comparisons_of_extra())),
        code=code("scripts/collect_lm_eval.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --results {input.results:q} --samples {input.samples:q} --output {output.table:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule evaluate_mtbench:
    """Aggregate the judgments of the extra models."""
    input:
        script="scripts/score_mtbench.py",
        lock="envs/main.lock",
        judgments=expand("<results>/mtbench/{model}/judgments.jsonl", model=EXTRA),
    output:
        scores="<results>/evaluate/mtbench.json",
        receipt="<results>/receipts/evaluate_mtbench.json",
    log:
        "<logs>/evaluate/mtbench.txt",
    benchmark:
        "<benchmarks>/evaluate/mtbench.tsv"
    params:
        recipe=as_json(recipes.seeded(LAYOUT, pairs=LAYOUT.comparisons_of_extra())),
        code=code("scripts/score_mtbench.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --judgments {input.judgments:q} --output {output.scores:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule evaluate:
    """Write a row for each extra model."""
    input:
        script="scripts/tabulate_evaluations.py",
        lock="envs/main.lock",
        lm_eval="<results>/evaluate/lm_eval.json",
        mtbench="<results>/evaluate/mtbench.json",
        receipts=list(map(LAYOUT.receipt, LAYOUT.evaluation_stages())),
    output:
        table="<results>/evaluate/table.csv",
        receipt="<results>/receipts/evaluate.json",
    log:
        "<logs>/evaluate/table.txt",
    benchmark:
        "<benchmarks>/evaluate/table.tsv"
    params:
        recipe=as_json(recipes.evaluate(LAYOUT)),
        code=code("scripts/tabulate_evaluations.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --lm-eval {input.lm_eval:q} --mtbench {input.mtbench:q} --receipts {input.receipts:q} \
            --output {output.table:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
