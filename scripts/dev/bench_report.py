"""Measure the page of rows in a real browser: its size, when it first paints, and when its rows can
be read, from a local file.

Usage: bench_report.py [--rows 1000 10000 100000] [--repeats 5] [--page results/…/rows.html …] \\
           [--output docs/benchmarks.md]

Synthetic rows have an instruction of 8 to 60 words and a response of 20 to 200, by Zipf's law, a
verdict and a reason. Chromium opens a copy of the page that writes its own clock into the document
(`performance.now()`, in milliseconds since the navigation began): at the first contentful paint as
the browser reports it, and once the first fifty rows stand in the document. A script that comes
late from this machine keeps Chromium from printing the document before. Replaces the section `##
Page of rows` of --output.
"""

import argparse
import http.server
import itertools
import os
import random
import re
import statistics
import subprocess
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_page import flags, processor, replace_section
from bezoar import program
from bezoar.errors import UserError
from bezoar.files import write_jsonl
from bezoar.report import rows
from browser import CHROMIUM, chromium
from measure_search import sampler

TEMPLATE = Path(rows.__file__).parent / "explorer/page.html.j2"
CLOCK = """
<script>
new PerformanceObserver((list) => {
  for (const entry of list.getEntries())
    if (entry.name === "first-contentful-paint") document.body.dataset.paint = entry.startTime;
}).observe({ type: "paint", buffered: true });
new MutationObserver(() => {
  if (document.querySelector("article")) document.body.dataset.rows ??= performance.now();
}).observe(document.querySelector("main"), { childList: true, subtree: true });
</script>
<script async src="ADDRESS"></script>
</body>"""
WAIT_S = 3.0  # for so long the page counts as loading; then Chromium prints it


class Slow(http.server.BaseHTTPRequestHandler):
    """Answers with an empty script after `WAIT_S`."""

    def do_GET(self) -> None:
        time.sleep(WAIT_S)
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def synthetic(count: int, folder: Path) -> str:
    """Return the page of `count` rows of a scheme."""
    rng = random.Random(0)
    words = sampler(rng)

    def text(low: int, high: int) -> str:
        return " ".join(itertools.islice(words, rng.randint(low, high)))

    path = folder / "evol.jsonl"
    write_jsonl(
        path,
        (
            {
                "instruction": text(8, 60),
                "response": text(20, 200),
                "gpt4_status": rng.choice(("Accept", "Accept", "Reject")),
                "gpt4_rating": rng.randint(1, 10),
                "gpt4_reason": text(5, 20),
            }
            for _ in range(count)
        ),
    )
    return rows.page(TEMPLATE, "benchmark", [rows.generated(path, {})])


def opened(page: Path, folder: Path) -> dict[str, float]:
    """Return {paint, rows} of one opening by a browser without a cache, in milliseconds."""
    if not CHROMIUM:
        raise UserError("chromium: no such program; install it (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        try:
            shown = chromium(Path(fresh), page.as_uri(), "--dump-dom")
        except subprocess.SubprocessError as error:
            raise UserError(f"{page.name}: Chromium could not open it ({error})") from None
    body = re.search(r"<body[^>]*>", shown)
    found = dict(re.findall(r'data-(paint|rows)="([\d.]+)"', body.group() if body else ""))
    if len(found) != 2:
        raise UserError(f"{page.name}: Chromium did not say when it showed its rows; run it again")
    return {name: float(value) for name, value in found.items()}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--page", type=Path, nargs="*", default=[], help="finished runs' pages")
    parser.add_argument("--output", type=Path, help="page whose section is replaced")
    args = parser.parse_args(argv)
    table: list[dict[str, Any]] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    clock = CLOCK.replace("ADDRESS", f"http://127.0.0.1:{server.server_port}/")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pages = {f"{count:,} rows": synthetic(count, folder) for count in args.rows}
        pages |= {str(path): path.read_text(encoding="utf-8") for path in args.page}
        for what, text in pages.items():
            copy = folder / "rows.html"
            copy.write_text(text.replace("</body>", clock), encoding="utf-8")
            runs = [opened(copy, folder) for _ in range(args.repeats)]
            table.append({"what": what, "bytes": len(text.encode()), "runs": runs})
    lines = [
        f"`bench_report.py`, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores of"
        f" {processor()} ({flags()}), Chromium without a window; {args.repeats} openings each,"
        f" median and range, load average at the end {os.getloadavg()[0]:.1f}.\n",
        "| page | MB | first paint, ms | first rows, ms |",
        "|---|---|---|---|",
    ]
    for entry in table:
        cells = []
        for key in ("paint", "rows"):
            times = [run[key] for run in entry["runs"]]
            cells.append(f"{statistics.median(times):.0f} ({min(times):.0f} – {max(times):.0f})")
        lines.append(f"| {entry['what']} | {entry['bytes'] / 1e6:.1f} | {' | '.join(cells)} |")
    print(text := "\n".join(lines) + "\n")
    if args.output:
        replace_section(args.output, "Page of rows", text)


if __name__ == "__main__":
    program.run(main)
