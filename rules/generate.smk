"""
The teacher writes instruction data under three schemes.

REQUIRED INPUTS:
    seeds    = config: sources: alpaca_seeds, topics (lamini) · dolly (evol) · flan (orca)
    prompts  = prompts/lamini_*.txt · evol_*.txt · orca_system_messages.yaml
OUTPUTS:
    rows     = <results>/generate/{lamini,evol,orca}.jsonl
    counts   = <results>/generate/{lamini,evol,orca}.counts.json      the funnel: asked, parsed, dropped by rule, kept
    receipt  = <results>/generate/{lamini,evol,orca}.receipt.json
"""


rule generate_lamini:
    """Write new instructions from examples and topics, then their responses (LaMini-LM)."""
    input:
        script="scripts/generate_lamini.py",
        prompts=["prompts/lamini_example.txt", "prompts/lamini_topic.txt"],
        lock="envs/main.lock",
        seeds=source("alpaca_seeds"),
        topics=source("topics"),
        simulator=simulator(),
    output:
        rows="<results>/generate/lamini.jsonl",
        counts="<results>/generate/lamini.counts.json",
        receipt="<results>/generate/lamini.receipt.json",
    log:
        "<logs>/generate/lamini.txt",
    benchmark:
        "<benchmarks>/generate/lamini.tsv"
    resources:
        concurrency=16,
    params:
        recipe=recipe("generate.lamini", teacher=config["teacher"]),
        code=code("scripts/generate_lamini.py"),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --seeds {input.seeds:q} --topics {input.topics:q} --prompts prompts \
            --store <results>/store/generate-lamini.sqlite --facts {input.simulator:q} --concurrency {resources.concurrency} \
            --recipe {params.recipe:q} --code {params.code} \
            --rows {output.rows:q} --counts {output.counts:q} --receipt {output.receipt:q}
        """
