"""
LM Evaluation Harness on every model, and one table with paired differences.

REQUIRED INPUTS:
    model   = <results>/base, <results>/merge/{model} or <results>/models/{model}
    tasks   = config: lm_eval: task_files, and the local data sets of config: lm_eval: data
OUTPUTS:
    data    = <results>/task_data/{task}/manifest.json   of items in a file, as the hub has them
    results = <results>/lm_eval/{model}.json   raw, with <results>/lm_eval/{model}.samples.jsonl
    table   = <results>/lm_eval.json
"""


rule task_data:
    """Give the items of {wildcards.task} the form of the hub's data set."""
    input:
        script="scripts/convert_items.py",
        lock="envs/main.lock",
        file=lambda wildcards: LAYOUT.converted[wildcards.task],
    output:
        manifest="<results>/task_data/{task}/manifest.json",
        receipt="<results>/receipts/task_data_{task}.json",
    log:
        "<logs>/lm_eval/data.{task}.txt",
    benchmark:
        "<benchmarks>/lm_eval/data.{task}.tsv"
    wildcard_constraints:
        task=alternatives(LAYOUT.converted),
    params:
        recipe=as_json(recipes.seeded(LAYOUT, num_fewshot=config["lm_eval"]["num_fewshot"])),
        code=code("scripts/convert_items.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --task {wildcards.task} --file {input.file:q} --data {output.manifest:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule lm_eval:
    """Evaluate {wildcards.model} with {params.few} examples."""
    input:
        script="scripts/run_lm_eval.py",
        lock="envs/main.lock",
        model=model_file,
        tasks=LAYOUT.task_files(),
        data=list(LAYOUT.task_data().values()),
    output:
        results="<results>/lm_eval/{model}.json",
        samples="<results>/lm_eval/{model}.samples.jsonl",
        receipt="<results>/receipts/lm_eval_{model}.json",
    log:
        "<logs>/lm_eval/{model}.txt",
    benchmark:
        "<benchmarks>/lm_eval/{model}.tsv"
    threads: config["lm_eval"]["threads"]
    resources:
        **NEEDS.asked("lm_eval"),
    params:
        recipe=recipe("lm_eval"),
        code=code("scripts/run_lm_eval.py"),
        few=config["lm_eval"]["num_fewshot"],
        data=[f"{task}={path}" for task, path in LAYOUT.task_data().items()],
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --model {input.model:q} --name {wildcards.model} --task-files {input.tasks:q} \
            --task-data {params.data:q} \
            --results {output.results:q} --samples {output.samples:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule lm_eval_table:
    """Put all models into one table."""
    input:
        script="scripts/collect_lm_eval.py",
        lock="envs/main.lock",
        results=expand("<results>/lm_eval/{model}.json", model=EVALUATED),
        samples=expand("<results>/lm_eval/{model}.samples.jsonl", model=EVALUATED),
    output:
        table="<results>/lm_eval.json",
        receipt="<results>/receipts/lm_eval_table.json",
    log:
        "<logs>/lm_eval/table.txt",
    benchmark:
        "<benchmarks>/lm_eval/table.tsv"
    params:
        recipe=as_json(recipes.harness_table(LAYOUT, LAYOUT.comparisons())),
        code=code("scripts/collect_lm_eval.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --results {input.results:q} --samples {input.samples:q} --output {output.table:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
