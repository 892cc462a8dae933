"""The pages' templates."""

from pathlib import Path

import jinja2


def environment(folder: Path) -> jinja2.Environment:
    """Return what renders the templates of a folder: text is escaped, an unknown name an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
