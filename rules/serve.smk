"""
The server of the model in `config: serve`. A shared one is started for the generation jobs and
stopped after them; otherwise each job that asks the model starts its own (workflow/served.py).
Without `serve`, the environment variable of `teacher: base_url_env` names a running server.

REQUIRED INPUTS:
    the model's weights (config: serve: weights), unless the server fetches them itself
OUTPUTS:
    address = <results>/serve/teacher.url      as long as it runs
    record  = <results>/serve/teacher.json     precision, quantisation, command; kept
"""

from bezoar.workflow import served

TEACHER = LAYOUT.config["teacher"]

if served.shared(LAYOUT) and not served.replayed():

    rule serve:
        """Serve {params.model} until the last job that asks it has ended."""
        input:
            script="scripts/serve_model.py",
            lock="envs/serve.lock",
            weights=served.weights_files(LAYOUT),
        output:
            address=service("<results>/serve/teacher.url"),
        log:
            "<logs>/serve/teacher.txt",
        benchmark:
            "<benchmarks>/serve/teacher.tsv"
        resources:
            **NEEDS.asked("serve"),
        params:
            recipe=as_json(served.server_recipe(LAYOUT)),
            code=code("scripts/serve_model.py"),
            model=TEACHER["model"],
            record=f"{LAYOUT.results}/serve/teacher.json",
        shell:
            r"""
            exec &> >(tee {log:q})
            exec python {input.script:q} \
                --recipe {params.recipe:q} --address {output.address:q} \
                --record {params.record:q} # {params.code}
            """
