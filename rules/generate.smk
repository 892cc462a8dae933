"""
The teacher writes instruction data under three schemes.

REQUIRED INPUTS:
    seeds   = config: sources: alpaca_seeds, topics, dolly, teacher_tokenizer, flan
    prompts = prompts/lamini_*.txt, evol_*.txt, orca_system_messages.yaml
OUTPUTS:
    flan    = <results>/flan/{source}.jsonl                       rows of a streamed submix
    rows    = <results>/generate/{lamini,evol,orca}.jsonl
    counts  = <results>/generate/{lamini,evol,orca}.counts.json   the funnel
    dropped = <results>/generate/{lamini,evol,orca}.dropped.jsonl what each rule dropped
    store   = <results>/store/generate-*.sqlite                   every answer, never deleted
"""

from bezoar.workflow import shared_generation

EVALUATOR = LAYOUT.config["generate"]["evol"]["evaluator"]


rule generate_lamini:
    """Write new instructions from examples and topics, then their responses (LaMini-LM)."""
    input:
        script="scripts/generate_lamini.py",
        lock="envs/main.lock",
        prompts=expand("prompts/lamini_{kind}.txt", kind=["example", "topic"]),
        seeds=source("alpaca_seeds"),
        topics=source("topics"),
        facts=FACTS,
        server=served.files(LAYOUT, "generate-lamini", TEACHER),
        shards=shared_generation.before_whole(LAYOUT, "lamini"),
    output:
        rows="<results>/generate/lamini.jsonl",
        counts="<results>/generate/lamini.counts.json",
        dropped="<results>/generate/lamini.dropped.jsonl",
        receipt="<results>/receipts/generate_lamini.json",
    log:
        "<logs>/generate/lamini.txt",
    benchmark:
        "<benchmarks>/generate/lamini.tsv"
    priority: FIRST
    threads: served.threads(LAYOUT, "generate-lamini", TEACHER)
    resources:
        **NEEDS.asked("generate_lamini"),
        concurrency=16,
    params:
        recipe=as_json(recipes.generation(LAYOUT, "lamini")),
        code=code("scripts/generate_lamini.py"),
        store=store("generate-lamini"),
        server=lambda wildcards: served.before(LAYOUT, "generate-lamini", TEACHER),
        share="",
    shell:
        r"""
        exec &> >(tee {log:q})
        {params.server}
        python {input.script:q} {params.share} \
            --seeds {input.seeds:q} --topics {input.topics:q} \
            --prompts {input.prompts:q} \
            --store {params.store:q} --facts {input.facts:q} --concurrency {resources.concurrency} \
            --rows {output.rows:q} --counts {output.counts:q} --dropped {output.dropped:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule generate_evol:
    """Evolve Dolly's instructions over {params.epochs} epochs and answer them (Evol-Instruct)."""
    input:
        script="scripts/generate_evol.py",
        lock="envs/main.lock",
        prompts=sorted(str(path) for path in Path("prompts").glob("evol_*.txt")),
        seeds=source("dolly"),
        tokenizer=source("teacher_tokenizer"),
        facts=FACTS,
        server=served.files(LAYOUT, "generate-evol", TEACHER, EVALUATOR),
        shards=shared_generation.before_whole(LAYOUT, "evol"),
    output:
        rows="<results>/generate/evol.jsonl",
        counts="<results>/generate/evol.counts.json",
        dropped="<results>/generate/evol.dropped.jsonl",
        receipt="<results>/receipts/generate_evol.json",
    log:
        "<logs>/generate/evol.txt",
    benchmark:
        "<benchmarks>/generate/evol.tsv"
    priority: FIRST
    threads: served.threads(LAYOUT, "generate-evol", TEACHER, EVALUATOR)
    resources:
        **NEEDS.asked("generate_evol"),
        concurrency=16,
    params:
        recipe=as_json(recipes.generation(LAYOUT, "evol")),
        code=code("scripts/generate_evol.py"),
        store=store("generate-evol"),
        server=lambda wildcards: served.before(LAYOUT, "generate-evol", TEACHER, EVALUATOR),
        share="",
        epochs=config["generate"]["evol"]["epochs"],
    shell:
        r"""
        exec &> >(tee {log:q})
        {params.server}
        python {input.script:q} {params.share} \
            --seeds {input.seeds:q} --tokenizer {input.tokenizer:q} --prompts {input.prompts:q} \
            --store {params.store:q} --facts {input.facts:q} --concurrency {resources.concurrency} \
            --rows {output.rows:q} --counts {output.counts:q} --dropped {output.dropped:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule flan:
    """Keep what the quotas take of the submix {wildcards.source}."""
    input:
        script="scripts/stream_flan.py",
        lock="envs/main.lock",
        prompts="prompts/orca_system_messages.yaml",
        tokenizer=source("teacher_tokenizer"),
    output:
        rows="<results>/flan/{source}.jsonl",
        counts="<results>/flan/{source}.counts.json",
        receipt="<results>/receipts/flan_{source}.json",
    log:
        "<logs>/flan/{source}.txt",
    benchmark:
        "<benchmarks>/flan/{source}.tsv"
    wildcard_constraints:
        source="[a-z0-9_]+",
    priority: FIRST
    retries: 1
    resources:
        downloads=1,
    params:
        recipe=as_json(recipes.flan(LAYOUT)),
        entry=entry_of_snapshot,
        code=code("scripts/stream_flan.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --entry {params.entry:q} --lock config/sources.lock \
            --prompts {input.prompts:q} --tokenizer {input.tokenizer:q} \
            --rows {output.rows:q} --counts {output.counts:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


rule generate_orca:
    """Explain Flan Collection rows under a system message (Orca)."""
    input:
        script="scripts/generate_orca.py",
        lock="envs/main.lock",
        prompts="prompts/orca_system_messages.yaml",
        tokenizer=source("teacher_tokenizer"),
        flan=LAYOUT.flan_files(),
        streamed=expand("<results>/flan/{source}.counts.json", source=LAYOUT.streamed),
        facts=FACTS,
        server=served.files(LAYOUT, "generate-orca", TEACHER),
        shards=shared_generation.before_whole(LAYOUT, "orca"),
    output:
        rows="<results>/generate/orca.jsonl",
        counts="<results>/generate/orca.counts.json",
        dropped="<results>/generate/orca.dropped.jsonl",
        receipt="<results>/receipts/generate_orca.json",
    log:
        "<logs>/generate/orca.txt",
    benchmark:
        "<benchmarks>/generate/orca.tsv"
    priority: FIRST
    threads: served.threads(LAYOUT, "generate-orca", TEACHER)
    resources:
        **NEEDS.asked("generate_orca"),
        concurrency=16,
    params:
        recipe=as_json(recipes.generation(LAYOUT, "orca")),
        code=code("scripts/generate_orca.py"),
        store=store("generate-orca"),
        server=lambda wildcards: served.before(LAYOUT, "generate-orca", TEACHER),
        share="",
    shell:
        r"""
        exec &> >(tee {log:q})
        {params.server}
        python {input.script:q} {params.share} --concurrency {resources.concurrency} \
            --flan {input.flan:q} --streamed {input.streamed:q} --tokenizer {input.tokenizer:q} \
            --prompts {input.prompts:q} --store {params.store:q} --facts {input.facts:q} \
            --rows {output.rows:q} --counts {output.counts:q} --dropped {output.dropped:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """


if LAYOUT.shards > 1:
    # The same command with a share of the requests, which fills a store of its own and writes
    # nothing else; the rule that it is made from puts the stores together.

    use rule generate_lamini as generate_lamini_shard with:
        output:
            rows=temp(touch("<results>/generate/.lamini.{number}.rows")),
            counts=temp(touch("<results>/generate/.lamini.{number}.counts")),
            dropped=temp(touch("<results>/generate/.lamini.{number}.dropped")),
            receipt=temp(touch("<results>/generate/.lamini.{number}.receipt")),
        log:
            "<logs>/generate/lamini.{number}.txt",
        benchmark:
            "<benchmarks>/generate/lamini.{number}.tsv"
        params:
            server=shared_generation.own_server(LAYOUT),
            share=shared_generation.share(LAYOUT),

    use rule generate_evol as generate_evol_shard with:
        output:
            rows=temp(touch("<results>/generate/.evol.{number}.rows")),
            counts=temp(touch("<results>/generate/.evol.{number}.counts")),
            dropped=temp(touch("<results>/generate/.evol.{number}.dropped")),
            receipt=temp(touch("<results>/generate/.evol.{number}.receipt")),
        log:
            "<logs>/generate/evol.{number}.txt",
        benchmark:
            "<benchmarks>/generate/evol.{number}.tsv"
        params:
            server=shared_generation.own_server(LAYOUT),
            share=shared_generation.share(LAYOUT),

    use rule generate_orca as generate_orca_shard with:
        output:
            rows=temp(touch("<results>/generate/.orca.{number}.rows")),
            counts=temp(touch("<results>/generate/.orca.{number}.counts")),
            dropped=temp(touch("<results>/generate/.orca.{number}.dropped")),
            receipt=temp(touch("<results>/generate/.orca.{number}.receipt")),
        log:
            "<logs>/generate/orca.{number}.txt",
        benchmark:
            "<benchmarks>/generate/orca.{number}.tsv"
        params:
            server=shared_generation.own_server(LAYOUT),
            share=shared_generation.share(LAYOUT),
