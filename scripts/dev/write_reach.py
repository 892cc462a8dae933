"""Write docs/reach.md: which stages an edit of each module makes stale, from what the programs of
the rules execute.

Usage: write_reach.py [--output docs/reach.md]

A test compares the page with what this writes, and that with an independent reader of imports and
with the digests before and after an edit of every module.
"""

import re
from collections import Counter
from pathlib import Path

import written_page
from bezoar import program
from bezoar.provenance.code_digest import executed

SCRIPTS, RULES = Path("scripts"), Path("rules")
HEAD = """# Reach of a change

Written by `scripts/dev/write_reach.py` from what each stage's program executes; do not edit.

A stage is stale when the syntax tree of anything that its program executes has changed. So a
comment, a docstring or the layout of a line makes no stage stale, in any file. The simulator is the
rehearsal's language-model server and runs in a process of its own: like any server's, its code is
not part of the stages that use it. What it knows, `world/facts.json`, is.

| edit | stale stages |
|---|---|
| a comment or a docstring, in any file | none |
| a new pet in the invented world, `rehearsal/world.py` | {pet}; no stage at paper scale |

The table lists the stages that an edit of each module makes stale. Stages that read their outputs
follow only if these change. No program imports another, so an edit of a program makes only the
stages stale that it runs. Where two programs can make the same files, the stage names its program.

| module | stale stages |
|---|---|
"""


def programs(rules: Path = RULES) -> dict[str, set[str]]:
    """Return program -> the stages that it runs: the rules that write a receipt. Of two rules of
    one name, each is named with its program.
    """
    run: list[tuple[str, str]] = []
    for path in sorted(rules.glob("*.smk")):
        blocks = re.split(r"^ *rule (\w+):$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for rule, block in zip(blocks[1::2], blocks[2::2], strict=True):
            match = re.search(r"scripts/(\w+)\.py", block)
            if match and "receipt=" in block:
                run.append((rule, match[1]))
    names = Counter(rule for rule, _ in run)
    found: dict[str, set[str]] = {}
    for rule, name in run:
        found.setdefault(name, set()).add(rule if names[rule] == 1 else f"{rule} ({name})")
    return found


def reach(scripts: Path = SCRIPTS, rules: Path = RULES) -> dict[str, set[str]]:
    """Return module -> the rules that execute it, for every module of the project."""
    found: dict[str, set[str]] = {
        path.relative_to(scripts / "bezoar").as_posix(): set()
        for path in (scripts / "bezoar").rglob("*.py")
        if path.stat().st_size and path.name != "__init__.py"
    }
    for name, users in programs(rules).items():
        for path in executed(scripts / f"{name}.py"):
            module = path.relative_to(scripts).as_posix().removeprefix("bezoar/")
            if module in found:
                found[module] |= users
    return found


def listed(stages: set[str], every: set[str]) -> str:
    """Return stages as a cell of the table; nearly all of them by those that are missing."""
    missing = sorted(every - stages)
    if not missing:
        return "every stage"
    if len(missing) < len(stages) / 3:
        return f"every stage but {', '.join(missing)}"
    return ", ".join(sorted(stages)) or "none"


def page(scripts: Path = SCRIPTS, rules: Path = RULES) -> str:
    """Return the document; modules of the same reach share a row."""
    every = set().union(*programs(rules).values())
    rows: dict[str, list[str]] = {}
    found = reach(scripts, rules)
    for module, stages in sorted(found.items()):
        rows.setdefault(listed(stages, every), []).append(f"`{module}`")
    lines = [f"| {', '.join(modules)} | {stages} |" for stages, modules in rows.items()]
    pet = listed(found["rehearsal/world.py"], every)
    return HEAD.format(pet=pet) + "\n".join(sorted(lines)) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write."""
    written_page.write(description=__doc__, default=Path("docs/reach.md"), page=page, argv=argv)


if __name__ == "__main__":
    program.run(main)
