"""The training benchmark's pure parts: row lengths, the equal-loss gate, the table, the arithmetic
of a token.
"""

import statistics

import bench
import bench_training
import bench_training_gpu
from bench_training_gpu import SHAPES, arithmetic, line, peak_of

RUN = {
    "seconds": 8.0,
    "cpu_s": 10.0,
    "reference_s": 2.0,
    "reference_cpu_s": 0.0,
    "evaluation_s": 0.0,
    "tokens": 1000,
    "supervised": 500,
    "pairs": 0,
    "places": 1250,
    "startup_s": 3.0,
    "peak_mib": 100.0,
    "first_s": 2.0,
    "first_tokens": 200,
}


def test_lengths_are_as_long_as_asked_and_seeded() -> None:
    found = bench_training.lengths(2000, 60, 0.5, 40, 256, seed=1)
    assert (
        found
        == bench_training.lengths(2000, 60, 0.5, 40, 256, seed=1)
        != bench_training.lengths(2000, 60, 0.5, 40, 256, seed=2)
    )
    assert 55 < statistics.median(found) < 65 and min(found) == 40 and max(found) <= 256


def test_words_fill_a_number_of_tokens_and_begin_again() -> None:
    class Letters:
        def tokenize(self, text: str) -> list[str]:
            return list(text)

    words = bench_training.Words(["ab c", "de"], Letters())
    assert [words.take(3), words.take(2), words.take(0)] == ["ab c", "de", "ab"]


def test_a_line_whose_loss_is_not_ours_is_void_in_both_directions() -> None:
    losses = {
        "ours": [2.0, 2.1, 1.9],
        "same": [2.05, 2.05, 2.05],
        "worse": [2.2, 2.2, 2.2],
        "better": [1.8, 1.8, 1.8],
    }
    found = bench_training.gate(losses, base=3.0, ours="ours")
    assert (
        found["ours"] == found["same"] == ""
        and found["worse"].startswith("void")
        and found["better"].startswith("void")
    )


def test_the_table_counts_the_reference_as_time_and_gives_ratios_to_the_peer() -> None:
    runs = {
        "ours": [RUN, RUN | {"seconds": 3.0}, RUN],
        "peer": [RUN | {"seconds": 18.0}] * 3,
        "odd": [RUN] * 3,
    }
    lines = bench_training.table(
        runs, {"ours": [1.0] * 3, "peer": [1.0] * 3, "odd": [1.5] * 3}, 2.0, "ours", "peer"
    )
    assert lines[2].startswith("| ours | 100 (100–200) | 50 | 100 | 2.00 , 1.00 | 1.25 | 3.0 |")
    assert "| 1.00 , 1.00 |" in lines[3] and "| void: 0.5000 apart, 0.1000 allowed |" in lines[4]
    losses = {"ours": [1.0] * 3, "peer": [1.5] * 3, "odd": [1.0] * 3}
    lines = bench_training.table(runs, losses, 2.0, "ours", "peer")
    assert all("| void: 0.5000 apart" in line for line in lines[2:-1]), "a void peer is no measure"


def test_pairs_are_counted_where_there_are_any_and_peers_are_compared_by_repeat() -> None:
    run = RUN | {"pairs": 16, "places": 700}
    runs = {"ours": [run, run], "peer": [run | {"seconds": 18.0}, run | {"seconds": 8.0}]}
    lines = bench_training.table(runs, {name: [1.0] for name in runs}, 2.0, "ours", "peer")
    assert "| pairs/s |" in lines[0]
    assert lines[2].startswith("| ours | 100 (100–100) | 1.60 | 100 | 1.33 , 1.00 | 0.70 |")
    sound = {"peer": ""}
    found = bench_training.ratios(runs, "ours", ["peer", "one that did not run"], sound)
    assert found[2:] == ["| ours / peer | 1.50 (1.00 – 2.00) | 1.00 (1.00 – 1.00) |", ""]
    assert bench_training.ratios(runs, "ours", [], sound) == []
    (line,) = bench_training.ratios(runs, "ours", ["peer"], {"peer": "void: apart"})[2:-1]
    assert line == "| ours / peer | void: apart | – |"


def test_every_table_has_its_peers_and_rows_that_differ_in_their_way() -> None:
    for part in bench.PARTS.values():
        for table in part.arguments[1:] if part.program == bench.TRAINING else ():
            kind, shape = table.split()
            ways = bench_training.WAYS[kind]
            assert shape in bench_training.SHAPES and {*bench_training.PEERS[kind]} <= {*ways}
            assert len({str(way) for way in ways.values()}) == len(ways)


def test_a_token_of_the_paper_s_model_costs_what_arithmetic_says() -> None:
    assert round(arithmetic(SHAPES["openllama-3b"], 1024) / 1e9, 1) == 13.8
    assert peak_of("NVIDIA H200") == 989.0 and peak_of("no GPU") == 0.0
    found = {"method": "sft", "sequence": 1024, "name": "ours"}
    assert line(found | RUN, 13.8e9, 989.0) == "| sft | 1024 | ours | 100 | 0.1 % | 100 |"
    assert (
        line(found | {"error": "x\nout of memory"}, 13.8e9, 989.0)
        == "| sft | 1024 | ours | failed: out of memory | | |"
    )


def test_peers_on_a_gpu_compute_in_bfloat16_but_for_their_defaults() -> None:
    for ways in bench_training_gpu.WAYS.values():
        for name, way in ways.items():
            if way["way"] == "trl" and not name.endswith("defaults"):
                assert "model_init_kwargs" in way["settings"], name


def test_rows_for_the_gpu_fill_the_sequence() -> None:
    class Words:
        def take(self, tokens: int) -> str:
            return "x" * tokens

    pair = bench_training_gpu.rows("dpo", 1, 512, Words(), 12)[0]  # type: ignore[arg-type]
    assert 400 <= len(pair["prompt"]) + len(pair["chosen"]) + 12 <= 512
    assert len(bench_training_gpu.rows("sft", 1, 512, Words(), 12)[0]["response"]) == 512  # type: ignore[arg-type]
