"""Which of a user's environment variables we read, and which ones stages never see.

Ours are the variables that begin with `BEZOAR_`; `make` sets them from its command line (`make
reproduce MODE=batch`). Variables that belong to other programs neither break a run nor change its
results: `clean` removes them from the environment of the stages. docs/environment.md lists both.
"""

import os
import pwd
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from bezoar.errors import UserError

PREFIX = "BEZOAR_"
# Names that were once read without the prefix, with the values that only we give a meaning.
FORMER: dict[str, tuple[str, ...] | None] = {
    "ACKNOWLEDGE_LICENCES": None,
    "BUDGET_USD": None,
    "MODE": ("batch", "replay"),
}
# Python's own variables that change no result.
HARMLESS = "HASHSEED DONTWRITEBYTECODE PYCACHEPREFIX UNBUFFERED FAULTHANDLER MALLOC".split()
FOREIGN = frozenset(  # of another job, or of the shell
    "WORLD_SIZE RANK LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK ROLE_RANK NODE_RANK MASTER_ADDR"
    " MASTER_PORT PMI_SIZE PMI_RANK PMI_LOCAL_RANK CCL_WORKER_COUNT BASH_ENV CDPATH"
    " SNAKEMAKE_PROFILE MKL_DYNAMIC".split()
)
# Headers that the clients of language models would send to whatever server they ask.
CUSTOM_HEADERS = ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS")
FOREIGN_PREFIXES = (
    "ACCELERATE_",
    "FSDP_",
    "DEEPSPEED_",
    "TORCHELASTIC_",
    "OMPI_COMM_WORLD_",
    "MV2_COMM_WORLD_",
    "OMP_",
    "KMP_",
    "GOMP_",
    "WANDB_",
)
OURS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONNOUSERSITE": "1",
    "PYTHONUTF8": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def own(name: str) -> str:
    """Return the value of `BEZOAR_<name>`, or an empty text.

    Raise `UserError` if it is not set and the former name holds a value that only we give a
    meaning: ignoring it would cause requests that somebody pays for and nobody wanted.
    """
    value = os.environ.get(PREFIX + name, "").strip()
    former = os.environ.get(name, "").strip()
    known = FORMER.get(name, ())
    if not value and former and (known is None or former in known):
        raise UserError(
            f"{name}={former} in the environment is not read; write {PREFIX}{name}={former}, or"
            f" `make … {name}={former}`"
        )
    return value


def foreign(name: str) -> bool:
    """Whether a variable belongs to another program and could break or alter a stage."""
    if name.startswith("PYTHON") and name != "PYTHON":
        return name.removeprefix("PYTHON") not in HARMLESS
    return name in FOREIGN or name in CUSTOM_HEADERS or name.startswith(FOREIGN_PREFIXES)


def clean(environ: MutableMapping[str, str], scripts: Path) -> None:
    """Reduce `environ` to what a stage may see; `scripts` is our directory of that name."""
    for name in [name for name in environ if foreign(name)]:
        del environ[name]
    environ.update(OURS, PYTHONPATH=str(scripts))
    exempt_this_machine(environ)
    provide_home(environ)


def exempt_this_machine(environ: MutableMapping[str, str]) -> None:
    """Have no proxy asked for this machine itself. Both spellings of NO_PROXY get the hosts of the
    one that counts, which is the small one if both are set; `*`, every host, counts only alone.
    """
    held = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    hosts = [host for name in held.split(",") if (host := name.strip())]
    exempt = "*" if "*" in hosts else ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
    environ.update(NO_PROXY=exempt, no_proxy=exempt)


def provide_home(environ: MutableMapping[str, str]) -> None:
    """Give a user whom the system does not know a name, and one whose home cannot be written (as
    in `docker run -u`) a home: below .snakemake, or in the directory for temporary files where
    this directory cannot be written either.
    """
    if nameless():
        environ["USER"] = environ["LOGNAME"] = environ.get("USER") or f"uid{os.getuid()}"
    if os.access(environ.get("HOME") or os.path.expanduser("~"), os.W_OK):
        return
    temporary = Path(tempfile.gettempdir()) / f"bezoar-{os.getuid()}"
    home = Path(".snakemake/home").absolute() if os.access(".", os.W_OK) else temporary
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    environ["HOME"] = str(home)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        environ.pop(name, None)


def nameless() -> bool:
    """Whether this process's user has no name on the system."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return True
    return False


def snakemake(*arguments: str, profile: str = "none") -> list[str]:
    """Return the command that starts Snakemake from one of ours: with this Python, without the
    user's own profile, with `profile` as the only one.
    """
    profiles = ["--profile", "none", "--workflow-profile", profile]
    return [sys.executable, "-m", "snakemake", *profiles, *arguments]
