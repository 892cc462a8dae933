"""What a dress rehearsal on this machine took, and the needs that follow from it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bezoar.provenance.audit import read_receipts
from bezoar.workflow.configuration import resolved
from bezoar.workflow.layout import Layout
from bezoar.workflow.resources import CONTEXT_MB, SCHEDULED_MB, Need, Needs, Used, parameters, used

CONFIG = ("config/rehearsal.yaml", "config/dress-rehearsal.yaml")
SAME_SHAPE = 0.01  # by which the number of parameters may differ
# Rules that compute there as at the paper's scale; benchmarks have another precision.
ALIKE = ("sft", "hh_sft", "dpo_reference", "dpo", "merge")


def took(layout: Layout) -> dict[str, Used]:
    """Return rule -> what its largest job took in the dress rehearsal here; nothing without one, or
    where this configuration has another scale, or a base of another size.
    """
    if layout.config["scale"] != "paper":
        return {}
    dressed = Layout(resolved(CONFIG))
    if abs(parameters(dressed) / parameters(layout) - 1) > SAME_SHAPE:
        return {}
    return used(read_receipts(Path(dressed.results))[0].values())


def raised(needs: Mapping[str, Need], measured: Mapping[str, Used]) -> dict[str, Need]:
    """Return the needs with no less memory than the dress rehearsal took, by rule, where both
    compute on the same kind of device. Its rows are short, so that it never lowers one.
    """
    found = dict(needs)
    for rule in ALIKE:
        need, seen = found.get(rule), measured.get(rule)
        if need and seen and bool(need.gpus) == bool(seen.gpu_mb):
            gpu_mb = round(seen.gpu_mb) + CONTEXT_MB if seen.gpu_mb else 0
            found[rule] = replace(
                need,
                mem_mb=max(need.mem_mb, round(seen.mem_mb) + SCHEDULED_MB),
                gpu_mb=max(need.gpu_mb, gpu_mb),
            )
    return found


def needs(layout: Layout, devices: int | None = None) -> Needs:
    """Return the needs of a configuration with what the dress rehearsal here took; `devices` are
    the GPUs that a job asks for where that is known of another machine than this.
    """
    found = Needs(layout, devices)
    found.by_rule = raised(found.by_rule, took(layout))
    return found
