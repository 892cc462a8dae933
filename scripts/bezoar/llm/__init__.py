"""Requests to language models: client, transport, batches, limits, budget, stored answers."""
