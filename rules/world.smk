"""
The rehearsal's invented world: pretraining text, seeds, preference pairs, evaluation items, and
what the simulator knows.

REQUIRED INPUTS:
    messages = prompts/orca_system_messages.yaml
    template = config: sources: chat_template
OUTPUTS:
    files    = <results>/world/…        in the schemas of the files they stand in for
    receipt  = <results>/receipts/world.json
"""


rule world:
    """Invent a world of {params.people} people from the seed."""
    input:
        script="scripts/make_world.py",
        lock="envs/main.lock",
        messages="prompts/orca_system_messages.yaml",
        template="prompts/chat_template.json",
    output:
        files=expand("<results>/world/{file}", file=WORLD_FILES),
        receipt="<results>/receipts/world.json",
    log:
        "<logs>/world.txt",
    benchmark:
        "<benchmarks>/world.tsv"
    params:
        recipe=recipe("world"),
        code=code("scripts/make_world.py"),
        world=lambda wildcards, output: dirname(output.files[0]),
        people=(config["world"] or {}).get("people", 0),
    shell:
        r"""
        exec &> >(tee {log:q})
        python {input.script:q} \
            --system-messages {input.messages:q} --template {input.template:q} \
            --world {params.world:q} \
            --recipe {params.recipe:q} --code {params.code} --receipt {output.receipt:q}
        """
