"""
The teacher's server, if `config: serve` describes one: started for the generation jobs, shared by
them, and stopped after them. Without it, the environment variable of `teacher: base_url_env` names
a server that is already running.

REQUIRED INPUTS:
    the model's weights, which the server fetches itself, and its environment (envs/serve.lock)
OUTPUTS:
    address = <results>/serve/teacher.url      as long as it runs
    record  = <results>/serve/teacher.json     precision, quantisation, command; kept
"""

# For the stages that ask the teacher: its server's address, and the shell line that waits for the
# server and exports it. A server on the loopback interface takes any key.
TEACHER_SERVER = "<results>/serve/teacher.url" if config["serve"] else []
TEACHER_ADDRESS = ""

if config["serve"]:
    TEACHER_ADDRESS = (
        "{base_url_env}=$(python scripts/serve_model.py"
        " --await {folder}/teacher.url --record {folder}/teacher.json);"
        " export {base_url_env} {api_key_env}=none"
    ).format(folder=f"{LAYOUT.results}/serve", **config["teacher"])

    rule serve:
        """Serve {params.model} until the last job that asks it has ended."""
        input:
            script="scripts/serve_model.py",
            lock="envs/serve.lock",
        output:
            address=service("<results>/serve/teacher.url"),
        log:
            "<logs>/serve/teacher.txt",
        benchmark:
            "<benchmarks>/serve/teacher.tsv"
        resources:
            **NEEDS.asked("serve"),
        params:
            recipe=recipe(
                "serve",
                model=config["teacher"]["model"],
                revision=config["teacher"]["revision"],
            ),
            code=code("scripts/serve_model.py"),
            model=config["teacher"]["model"],
            record=f"{LAYOUT.results}/serve/teacher.json",
        shell:
            r"""
            exec &> >(tee {log:q})
            exec python {input.script:q} \
                --recipe {params.recipe:q} --address {output.address:q} \
                --record {params.record:q} # {params.code}
            """
