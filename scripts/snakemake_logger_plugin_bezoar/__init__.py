"""The display of a run as a logger plugin of Snakemake: `snakemake --logger bezoar`.

Snakemake imports its plugins before it writes to the user's cache directory, and so a user without
a home gets one here.
"""

import os

from bezoar.surroundings import provide_home
from bezoar.workflow.progress_display import LogHandler

__all__ = ["LogHandler"]

provide_home(os.environ)
