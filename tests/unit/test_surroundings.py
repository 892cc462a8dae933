"""Promises: variables of other programs neither break nor bend a run; ours have a name of their
own; any user id works.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bezoar import surroundings
from bezoar.errors import UserError
from bezoar.llm.connection import Connection
from bezoar.llm.settings import ModelSpec

ROOT = Path(__file__).parents[2]
BENDING = {
    "PYTHONPATH": "/somewhere/else",
    "PYTHONHOME": "/nowhere",
    "PYTHONSTARTUP": "/x.py",
    "PYTHONUSERBASE": "/x",
    "PYTHONOPTIMIZE": "2",
    "PYTHONIOENCODING": "ascii",
    "PYTHONWARNINGS": "error",
    "PYTHONSAFEPATH": "1",
    "WORLD_SIZE": "8",
    "RANK": "3",
    "LOCAL_RANK": "3",
    "MASTER_ADDR": "other",
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMP_NUM_THREADS": "64",
    "MKL_DYNAMIC": "FALSE",
    "WANDB_PROJECT": "mine",
    "SNAKEMAKE_PROFILE": "/mine",
    "BASH_ENV": "/x.sh",
    "OPENAI_CUSTOM_HEADERS": "X-Gateway: secret",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Gateway: secret",
    "TOKENIZERS_PARALLELISM": "true",
}
KEPT = {
    "PATH": "/bin",
    "CUDA_VISIBLE_DEVICES": "1",
    "HF_TOKEN": "t",
    "HF_HOME": "/data/hf",
    "HTTPS_PROXY": "http://proxy:1",
    "TEACHER_BASE_URL": "http://here/v1",
    "OPENAI_API_KEY": "k",
    "BEZOAR_MODE": "batch",
    "PYTHONHASHSEED": "7",
    "PYTHON": "python3.12",
    "ATEN_CPU_CAPABILITY": "avx2",
}


def cleaned(environ: dict[str, str]) -> dict[str, str]:
    surroundings.clean(environ, Path("/clone/scripts"))
    return environ


def test_what_belongs_to_other_programs_does_not_reach_a_stage(tmp_path: Path) -> None:
    seen = cleaned({**BENDING, "HOME": str(tmp_path)})
    assert {name for name in BENDING if seen.get(name) == BENDING[name]} == set()
    assert seen["PYTHONPATH"] == "/clone/scripts" and seen["PYTHONUTF8"] == "1"


def test_what_a_user_means_for_us_or_the_machine_does(tmp_path: Path) -> None:
    seen = cleaned({**KEPT, "HOME": str(tmp_path)})
    assert {name: seen.get(name) for name in KEPT} == KEPT


def test_a_proxy_is_not_asked_for_this_machine(tmp_path: Path) -> None:
    for variables, exempt in (
        ({}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "intra.net, localhost"}, "intra.net,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "lost", "no_proxy": "intra.net"}, "intra.net,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "*"}, "*"),
    ):
        seen = cleaned({**variables, "HOME": str(tmp_path)})
        assert seen["NO_PROXY"] == seen["no_proxy"] == exempt


@pytest.mark.parametrize("home", ["/", "/nonexistent", ""])
def test_a_user_without_name_and_home_gets_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setattr(surroundings, "nameless", lambda: True)
    monkeypatch.setattr(surroundings.os, "access", lambda path, mode: str(path) == ".")
    monkeypatch.chdir(tmp_path)
    seen = cleaned({"HOME": home, "XDG_CACHE_HOME": "/.cache"})
    assert seen["HOME"] == str(tmp_path / ".snakemake/home") and Path(seen["HOME"]).is_dir()
    assert seen["USER"] == seen["LOGNAME"] != ""
    assert "XDG_CACHE_HOME" not in seen


def test_in_a_directory_that_cannot_be_written_the_home_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings.os, "access", lambda path, mode: False)
    monkeypatch.setattr(surroundings.tempfile, "gettempdir", lambda: str(tmp_path))
    seen = cleaned({"HOME": "/"})
    assert seen["HOME"] == str(tmp_path / f"bezoar-{os.getuid()}")


@pytest.mark.parametrize(("name", "value"), [("MODE", "dark"), ("MIRROR", "/x"), ("PRICES", "1")])
def test_a_name_that_others_use_is_not_read(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.delenv(f"BEZOAR_{name}", raising=False)
    assert surroundings.own(name) == ""
    monkeypatch.setenv(f"BEZOAR_{name}", "ours")
    assert surroundings.own(name) == "ours"


@pytest.mark.parametrize(("name", "value"), [("BUDGET_USD", "25"), ("MODE", "replay")])
def test_a_former_name_that_saves_money_is_refused_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.delenv(f"BEZOAR_{name}", raising=False)
    with pytest.raises(UserError, match=f"write BEZOAR_{name}={value}"):
        surroundings.own(name)
    monkeypatch.setenv(f"BEZOAR_{name}", value)
    assert surroundings.own(name) == value


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_pinned_provider_is_asked_at_its_own_address(
    monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setenv(f"{provider.upper()}_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("A_KEY", "k")
    settings = ModelSpec(
        provider=provider,
        api="messages" if provider == "anthropic" else "chat",
        model="m",
        revision=None,
        base_url_env=None,
        api_key_env="A_KEY",
        prompt_form=None,
        stop=[],
        temperature=None,
        max_tokens=8,
        timeout_s=1,
    )
    client = Connection(settings, None).client()
    assert client.base_url.host == f"api.{provider}.com"


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_a_locale_without_our_letters_is_no_reason_for_a_traceback(locale: str) -> None:
    code = "from bezoar import program\nprogram.run(lambda: print('a \\u2026 b'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "scripts"),
            "LC_ALL": locale,
            "PYTHONIOENCODING": "iso-8859-1",
            "PYTHONUTF8": "0",
        },
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"a ")


def test_an_inner_snakemake_ignores_the_users_own_profile() -> None:
    command = surroundings.snakemake("-n")
    assert command[:3] == [sys.executable, "-m", "snakemake"]
    assert command[command.index("--profile") + 1] == "none"
