"""The report of the smallest rehearsal: one self-contained page whose numbers are those of the
artifacts, in a real browser where there is one.
"""

import html
import html.parser
import json
import re
import shutil
import struct
from pathlib import Path
from urllib.parse import parse_qs

import axe_core_python
import pytest
from smallest import MODELS, RESULTS

from browser import CHROMIUM, chromium

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Page(html.parser.HTMLParser):
    """Links, loaded resources and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "href" and tag == "a":
                self.links.append(value or "")
            elif (
                name in ("src", "href", "xlink:href")
                and tag not in ("a", "use")
                and not (value or "").startswith("#")
            ):
                self.loaded.append(f"{tag} {value}")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(finished: Path) -> Path:
    return finished / RESULTS / "report" / "index.html"


def test_the_page_loads_nothing_from_anywhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert Page(text).loaded == []
    assert not re.search(r"url\((?!['\"]?#)|@import|<script", text)


def test_every_link_leads_to_a_file_or_a_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = set(Page(text).links)
    assert len(links) > 60
    rows = (page.parent / "rows.html").read_text(encoding="utf-8")
    for link in links:
        path, _, place = link.partition("#")
        assert (page.parent / path).is_file() if path else f'id="{place}"' in text, link
        if path == "rows.html" and place:
            section, _, asked = place.partition("?")
            (data,) = re.findall(rf'id="data-{section}">(.*?)</script>', rows)
            known = json.loads(data)
            for name, (value,) in parse_qs(asked).items():
                if name == "order":
                    assert set(value.split(" over ")) <= set(known["scores"]), link
                elif name == "found":
                    assert value in ("exact duplicate", "near duplicate", "contaminated"), link
                elif name in ("reference", "policy"):
                    assert value in ("right", "wrong"), link
                elif name == "empty answer":
                    assert value in known["scores"], link
                elif name == "rule":
                    facets = [row["facets"][known["facets"].index(name)] for row in known["rows"]]
                    assert value in facets, link
                else:
                    assert name == "verdict" and value in ("Accept", "Reject", "Unrated"), link
                    assert name in known["facets"], link


def test_the_scale_comes_first_and_every_section_is_there(page: Path) -> None:
    text = re.sub(r"\s+", " ", Page(page.read_text(encoding="utf-8")).text)
    headings = (
        "Claims and verdicts",
        "All models",
        "What was learned",
        "The data",
        "Training curves",
        "Chat by category",
        "Training saw 4-bit weights",
        "Deviations and choices",
        "Artifacts and receipts",
    )
    places = [
        text.index(words)
        for words in ("No measured number on this page is one of the paper", *headings)
    ]
    assert places == sorted(places)
    for words in (
        "Funnel",
        "The filter",
        "Lengths and diversity",
        "Duplicates",
        "Shared with the evaluation",
        "Task families",
    ):
        assert (
            text.index("The data")
            < text.index(words, text.index("The data"))
            < text.index("Training curves")
        ), words
    assert "simulator" in text[: text.index("Training curves")]


def test_the_numbers_are_those_of_the_artifacts(page: Path, finished: Path) -> None:
    text = Page(page.read_text(encoding="utf-8")).text
    harness = json.loads((finished / RESULTS / "lm_eval.json").read_text())
    judge = next(
        iter(json.loads((finished / RESULTS / "mtbench.json").read_text())["judges"].values())
    )
    learning = json.loads((finished / RESULTS / "learning.json").read_text())
    claims = json.loads((finished / RESULTS / "claims.json").read_text())
    for model in ("base", *MODELS):
        assert all(f"{value['mean']:.3f}" in text for value in harness["models"][model].values())
        assert f"{judge['models'][model]['overall']['mean']:.2f}" in text
        assert f"{learning['states'][model]['preferences']['accuracy']['mean']:.3f}" in text
    for claim in claims["claims"]:
        assert claim["statement"] in text and claim["verdict"] in text


@pytest.mark.skipif(not CHROMIUM, reason="no chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_sideways_scrolling(
    page: Path, tmp_path: Path, width: int
) -> None:
    probe = tmp_path / "probe.html"
    numbers = (
        "innerWidth, document.documentElement.scrollWidth, document.querySelectorAll('figure"
        " svg').length"
    )
    measure = f"onload = () => parent.postMessage([{numbers}].join(), '*')"
    probe.write_text(
        page.read_text(encoding="utf-8").replace("</body>", f"<script>{measure}</script></body>"),
        encoding="utf-8",
    )
    # Headless windows are never narrower than 500 pixels, so a phone is a frame of its width.
    frame = tmp_path / "frame.html"
    frame.write_text(
        '<body style="margin:0"><iframe src="probe.html"'
        f' style="border:0;width:{width}px;height:3000px"></iframe><script>onmessage = (event) =>'
        " document.body.dataset.seen = event.data</script>"
    )
    window = f"--window-size={max(width, 500)},3000"
    waiting = ("--virtual-time-budget=5000", window, "--dump-dom")
    seen = chromium(tmp_path, frame.as_uri(), *waiting, marker='data-seen="')
    inner, scroll, figures = map(int, re.search(r'data-seen="(\d+),(\d+),(\d+)"', seen).groups())
    assert (inner, scroll) == (width, width)
    assert figures >= 8
    shot = tmp_path / "shot.png"
    chromium(tmp_path, page.as_uri(), window, f"--screenshot={shot}")
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (max(width, 500), 3000)
    assert shot.stat().st_size > 50_000, "an empty page would be smaller"


@pytest.mark.skipif(not CHROMIUM, reason="no chromium")
@pytest.mark.parametrize("name", ["index.html", "rows.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_checker_finds_nothing_serious(
    page: Path, tmp_path: Path, name: str, scheme: str
) -> None:
    """In the dark only contrast can differ."""
    axe = Path(axe_core_python.__file__).parent / "axe.min.js"
    shutil.copy(axe, tmp_path / "axe.js")
    checked = tmp_path / name
    dark_only = ", runOnly: ['color-contrast']" if scheme == "dark" else ""
    run = (
        "addEventListener('load', () => setTimeout(async () => { const found = await axe.run("
        f"{{resultTypes: ['violations']{dark_only}}});"
        " document.title = 'axe:' + JSON.stringify(found.violations.filter((v) =>"
        " ['serious', 'critical'].includes(v.impact)).map((v) => [v.id, v.nodes.length,"
        " v.nodes[0].html.slice(0, 200)]).concat(matchMedia('(prefers-color-scheme:"
        " dark)').matches ? ['dark'] : [])); }, 200))"
    )
    text = (page.parent / name).read_text(encoding="utf-8")
    checked.write_text(
        text.replace("</body>", f'<script src="axe.js"></script><script>{run}</script></body>'),
        encoding="utf-8",
    )
    preference = ["--force-dark-mode"] if scheme == "dark" else []
    waiting = ("--virtual-time-budget=60000", "--timeout=60000", "--dump-dom")
    flags = (*preference, *waiting)
    seen = chromium(tmp_path, checked.as_uri(), *flags, marker="<title>axe:", timeout=180)
    (title,) = re.findall(r"<title>(.*?)</title>", seen, re.S)[:1]
    expected = ["dark"] if scheme == "dark" else []
    assert json.loads(html.unescape(title).removeprefix("axe:")) == expected
