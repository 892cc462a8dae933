"""LM Eval Harness, MT-Bench, and the statistics of both."""
