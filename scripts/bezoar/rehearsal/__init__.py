"""The invented world and its simulated provider."""
