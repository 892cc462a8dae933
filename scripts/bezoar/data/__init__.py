"""Instruction data: schemes, texts, task families."""
