"""
A model of others, from a pinned snapshot or a local directory, in the layout that ours have.

REQUIRED INPUTS:
    snapshot = config: extra_models: source, hub or path
OUTPUTS:
    model    = <results>/models/{extra}/model.safetensors      and config.json and its tokenizer's files
"""


rule import_model:
    """Import {wildcards.extra} as one {params.dtype} safetensors file."""
    input:
        script="scripts/import_base.py",
        lock="envs/main.lock",
        snapshot=extra_files,
    output:
        model="<results>/models/{extra}/model.safetensors",
        config="<results>/models/{extra}/config.json",
        receipt="<results>/receipts/model_{extra}.json",
    log:
        "<logs>/models/{extra}.txt",
    benchmark:
        "<benchmarks>/models/{extra}.tsv"
    resources:
        mem_mb=32_000,
    params:
        recipe=recipe("base"),
        code=code("scripts/import_base.py"),
        dtype=config["base"]["dtype"],
        folder=extra_folder,
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --snapshot {params.folder:q} --base $(dirname {output.model:q}) --any-tokenizer \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
