"""Write docs/resources.md: what the jobs of a run ask for, at both scales.

Usage: write_resources.py [--output docs/resources.md]

A test compares the page with what this writes.
"""

from pathlib import Path

import written_page
from bezoar import program
from bezoar.workflow import resources
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout

SCALES = {
    "The paper's scale": ["config/paper.yaml"],
    "The paper's scale on a GPU of 80 GB": ["config/paper.yaml", "config/gpu-80gb.yaml"],
    "The rehearsal": ["config/rehearsal.yaml"],
}
HEAD = """# What jobs ask for

Written by `scripts/dev/write_resources.py` from `scripts/bezoar/workflow/resources.py`; do not
edit. `make plan` prints the same for any configuration.

Memory is the host's, with what Snakemake itself takes in a job; a MB is 2^20 bytes, as for Slurm
and nvidia-smi. The rehearsal's is measured; what a larger model adds, GPU memory and time are
estimates. Of the paper's shape every stage of `make dress-rehearsal` has been measured on two cores
of a CPU with AVX2 alone, and on a GPU all but the last merge and what evaluates that model
([growth.md](growth.md) has both beside what is asked for here;
[benchmarks.md](benchmarks.md), "The dress rehearsal").

Time is an upper bound: rows as long as `max_length`, on a GPU that sustains {gpu}
TFLOP/s, a quarter of an RTX 4090's peak, or a CPU of {cpu} GFLOP/s a thread. Counted in the same
way, SFT with `config/paper.yaml`'s settings for memory, but 2,048 tokens a pass in place of 1,024,
sustained 83 TFLOP/s on an H200. The limit is what a
scheduler is asked for first; a job that is killed for memory or time asks for twice as much, then
three times.
"""


def page() -> str:
    """Return the document."""
    head = HEAD.format(
        gpu=f"{resources.GPU_FLOPS / 1e12:.0f}", cpu=f"{resources.CPU_FLOPS / 1e9:.0f}"
    )
    parts = [
        f"## {title}\n```\n" + "\n".join(resources.table(Layout(resolved(files)))) + "\n```\n"
        for title, files in SCALES.items()
    ]
    return "\n".join([head, *parts])


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write."""
    written_page.write(description=__doc__, default=Path("docs/resources.md"), page=page, argv=argv)


if __name__ == "__main__":
    program.run(main)
