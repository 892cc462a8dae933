#!/bin/sh
# Make the environment DIR from the locks, once: make_environment.sh DIR [auto|cpu|cuda]
#
# auto takes CUDA where an NVIDIA device is, else the CPU build of torch if pip is offered one with the locked hash, else CUDA's.
# The stamp is written last and named after the locks: a half-made or outdated environment is made again.
set -eu
dir=$1 choice=${2:-auto} python=${PYTHON:-python3}
"$python" -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 13) else f"error: Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}; set PYTHON=python3.11")'
case $choice in auto|cpu|cuda) ;; *) echo "error: TORCH=$choice: expected auto, cpu or cuda" >&2; exit 2 ;; esac
stamp() { echo "$dir/.made-$1-$(cat envs/main.lock "envs/torch-$1.lock" | sha256sum | cut -c1-16)"; }
if [ "$choice" = auto ]; then
    if [ -e /dev/nvidia0 ] || [ -e "$(stamp cuda)" ]; then choice=cuda
    elif [ -e "$(stamp cpu)" ]; then choice=cpu
    elif "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$dir.probe" --require-hashes -r envs/torch-cpu.lock >/dev/null 2>&1 && ls "$dir.probe"/torch-* >/dev/null 2>&1; then choice=cpu
    else choice=cuda; fi
    rm -rf "$dir.probe"
fi
[ -e "$(stamp "$choice")" ] && exit 0
echo "making $dir with the $choice build of torch (TORCH=cpu or TORCH=cuda forces it)"
rm -rf "$dir"
"$python" -m venv "$dir"
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: -r "envs/torch-$choice.lock"
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r envs/main.lock
touch "$(stamp "$choice")"
