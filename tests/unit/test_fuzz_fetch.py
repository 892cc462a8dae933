"""Whatever a server sends in place of a file, a fetch ends with the right file or in one line, and
leaves nothing else.
"""

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import EXAMPLES, PIECES, damaged, ended, examples
from raw_peer import RawPeer, http

import fetch_source
from bezoar.errors import UserError
from bezoar.files import sha256_text

GOOD = "".join(json.dumps({"row": number}) + "\n" for number in range(200))
STATUSES = [200, 200, 200, 206, 206, 204, 301, 302, 401, 403, 404, 408, 416, 429, 500, 503, 999]
HEADERS = {
    "content-length": ["0", "5", "99999", "-1", "x", "9" * 5000, "\u00b2"],
    "content-range": [
        "bytes 0-9/2290",
        "bytes 5-/x",
        "bytes */2290",
        "bytes */9",
        "x",
        "bytes 9" * 9,
    ],
    "content-encoding": ["gzip", "br", "identity", "x"],
    "transfer-encoding": ["chunked", "identity", "x"],
    "etag": ['"a"', 'W/"a"', "", "x" * 9999],
    "last-modified": ["Wed, 21 Oct 2015 07:28:00 GMT", "soon"],
    "location": ["/x", "http://[::1", "ftp://x/", "//", "", "mailto:x", "file:///etc/passwd"],
}


@pytest.fixture(scope="module")
def peer() -> Iterator[RawPeer]:
    running = RawPeer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch_source.time, "sleep", lambda _: None)
        patch.delenv("BEZOAR_MIRROR", raising=False)
        yield running
    running.stop()


def odd(rng: random.Random) -> bytes:
    """Return a response that is not as it should be."""
    body = damaged(GOOD.encode(), rng) if rng.random() < 0.7 else GOOD.encode()
    names = rng.sample(list(HEADERS), rng.choice((0, 1, 2, 3)))
    headers = {name: rng.choice(HEADERS[name]) for name in names}
    whole = http(rng.choice(STATUSES), body, headers)
    place = rng.randrange(len(whole))
    ways = (whole, whole, whole[:place], whole[:place] + rng.choice(PIECES) + whole[place:])
    return rng.choice(ways)


@examples(2 * EXAMPLES)
@given(seed=st.integers(0, 2**32))
def test_a_fetch_ends_with_the_right_file_or_in_one_line(seed: int, peer: RawPeer) -> None:
    rng = random.Random(seed)
    answers = [odd(rng) for _ in range(rng.choice((1, 2, 9)))]
    peer.script = lambda method, path, body: answers.pop(0) if answers else http(200, GOOD.encode())
    entry = {"id": "x", "url": f"{peer.url}/x", "path": "x.jsonl", "sha256": sha256_text(GOOD)}
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "data" / "x.jsonl"
        words = ["--entry", json.dumps(entry), "--output", str(output)]
        try:
            fetch_source.main([*words, "--lock", str(Path(place) / "lock")])
        except UserError as error:
            line = str(error)
            assert "\n" not in line and ("x.jsonl" in line or "/x: " in line or "x: " in line)
            assert not output.exists()
            ended("fetch_source", "one line")
        else:
            assert output.read_text(encoding="utf-8") == GOOD
            assert [path.name for path in output.parent.iterdir()] == ["x.jsonl"]
            ended("fetch_source", "a result")
