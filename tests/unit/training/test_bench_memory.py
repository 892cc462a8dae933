"""The memory benchmark: every way computes the same loss, which the table insists on."""

import pytest

import bench_memory
from bezoar.errors import UserError


@pytest.mark.parametrize("method", bench_memory.METHODS)
def test_every_way_gives_the_same_loss(method: str) -> None:
    found = [bench_memory.measure(method, 512, way, 1024) for way in bench_memory.WAYS]
    losses = [one["loss"] for one in found]
    assert max(losses) - min(losses) < bench_memory.SAME < min(losses)


def test_a_row_has_each_way_and_what_the_logits_take() -> None:
    sizes = dict(zip(bench_memory.WAYS, (900.0, 300.0, 100.0), strict=True))
    found = bench_memory.row(
        "DPO", 49152, 2048, lambda way: [{"mib": sizes[way] + more, "loss": 0.7} for more in (0, 2)]
    )
    assert found == "| DPO | 49,152 | 901 (900 – 902) | 301 (300 – 302) | 101 (100 – 102) | 384 |"
    with pytest.raises(UserError, match="DPO, 49152: losses from"):
        bench_memory.row("DPO", 49152, 2048, lambda way: [{"mib": 1.0, "loss": len(way) * 0.1}])
