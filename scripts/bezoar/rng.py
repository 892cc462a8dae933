"""Random numbers that belong to a row: drawn from a key, never from a stream shared by rows."""

import hashlib
import random


def draw(*key: object) -> random.Random:
    """Return a generator that depends only on `key`."""
    return random.Random(hashlib.sha256(repr(key).encode()).digest())
