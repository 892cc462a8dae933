"""
External bytes: fetched from MIRROR or the network, checked by sha256, or pinned by the first fetch.

REQUIRED INPUTS:
    registry = config/sources.yaml
OUTPUTS:
    file     = data/{file}
    snapshot = data/hub/{source}/manifest.json      with the files of a hub repository beside it
"""


rule fetch_file:
    """Fetch data/{wildcards.file}, checked against its sha256."""
    input:
        script="scripts/fetch_source.py",
    output:
        file="data/{file}",
    log:
        "logs/sources/{file}.txt",
    benchmark:
        "benchmarks/sources/{file}.tsv"
    wildcard_constraints:
        file="(?!hub/).+",
    retries: 1
    resources:
        downloads=1,
    params:
        entry=entry_of_file,
        code=code("scripts/fetch_source.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --entry {params.entry:q} --output {output.file:q} --lock config/sources.lock
        """


rule fetch_snapshot:
    """Fetch the hub repository {wildcards.source} at its pinned revision."""
    input:
        script="scripts/fetch_source.py",
        lock="envs/main.lock",
    output:
        manifest="data/hub/{source}/manifest.json",
    log:
        "logs/sources/{source}.txt",
    benchmark:
        "benchmarks/sources/{source}.tsv"
    wildcard_constraints:
        source="[a-z0-9_]+",
    retries: 1
    resources:
        downloads=1,
    params:
        entry=entry_of_snapshot,
        code=code("scripts/fetch_source.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --entry {params.entry:q} --output {output.manifest:q} --lock config/sources.lock
        """
