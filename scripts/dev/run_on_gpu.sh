#!/bin/bash
# On a GPU machine without a network: install what pack_for_gpu.py packed beside this machine's own torch, then run a command in that
# environment, as `make` would: run_on_gpu.sh wheels.tar.xz ENV command …; ENV is a directory, made once. Nothing outside it is changed.
set -eu
pack=$1 dir=$2
shift 2
if [ ! -e "$dir/.made" ]; then
    rm -rf "$dir"
    python3 -m venv --without-pip "$dir"
    mkdir "$dir/wheels"
    tar -xJf "$pack" -C "$dir/wheels"
    python3 -m pip --python "$dir/bin/python" install -q --disable-pip-version-check --no-index --no-deps --no-compile "$dir"/wheels/*.whl
    rm -rf "$dir/wheels"
    "$dir/bin/python" -m compileall -q -j 0 "$dir/lib" >/dev/null 2>&1 || true # some packages ship files that are no valid Python
    site=$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/machine.pth" # after our own: torch, numpy and the like
    touch "$dir/.made"
fi
exec env -u PYTHONHOME -u SNAKEMAKE_PROFILE PATH="$(cd "$dir" && pwd)/bin:$PATH" PYTHONPATH="$PWD/scripts" PYTHONNOUSERSITE=1 PYTHONUTF8=1 \
    PYTHONWARNINGS=ignore::FutureWarning HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false "$@"
