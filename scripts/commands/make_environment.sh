#!/bin/sh
# Make the environment DIR from the locks, once: make_environment.sh DIR [auto|cpu|cuda] [development|slurm]
#
# auto takes the CUDA build of torch where an NVIDIA device is, the CPU build elsewhere: from the indexes that pip is configured for if they
# offer it with a locked hash, else from PyTorch's. `slurm` adds slurm.lock, `development` that and dev.lock. PYTHON names the Python; else the first supported one on PATH
# is taken. A stamp, written last, is named after the locks and the place: what is half-made, outdated or moved is made again from scratch.
set -eu
dir=$1 choice=${2:-auto} extra=${3:-}
cpu_index=https://download.pytorch.org/whl/cpu
range='Python 3.11, 3.12 or 3.13' # requires-python in pyproject.toml; for 3.14, immutables (snakemake needs it) has no wheel

fail() { echo "error: $*" >&2; exit 2; }
version_of() { "$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
supported() {
    case $(version_of "$1") in
        3.11|3.12|3.13) "$1" -I -c 'import ensurepip, venv' 2>/dev/null ;;
        *) false ;;
    esac
}
# Print the supported Pythons on PATH.
on_path() {
    for name in python3 python3.13 python3.12 python3.11; do
        if supported "$name"; then printf '%s ' "$name"; fi
    done
}
choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" && { python=$PYTHON; return; }
        fail "$range with its venv module is needed; PYTHON=$PYTHON is $(version_of "$PYTHON" || echo 'none that runs'), PATH has: $(on_path | grep . || echo none)"
    fi
    python=$(on_path | cut -d ' ' -f 1)
    [ -n "$python" ] && return
    case $(version_of python3) in
        3.11|3.12|3.13) fail "python3 is $(version_of python3) and lacks its venv module: install it (Debian, Ubuntu: apt install python3-venv), or set PYTHON=/path/to/another" ;;
    esac
    fail "$range with its venv module is needed and PATH has none (python3 is $(version_of python3 || echo missing)): install one, or set PYTHON=/path/to/it"
}
has_gpu() {
    for device in /dev/nvidia[0-9]* /usr/lib/wsl/lib/nvidia-smi; do
        if [ -e "$device" ]; then return; fi
    done
    return 1
}
stamp() { echo "$dir/.made-$1-$({ (cd "$dir" && pwd -P); cat envs/main.lock "envs/torch-$1.lock"; } 2>/dev/null | cksum | tr ' ' -)"; }
# Whether DIR is made with this build, its Python still runs, and is of PYTHON's version if that is set.
is_made() {
    [ -e "$(stamp "$1")" ] && made=$(version_of "$dir/bin/python") || return 1
    [ -z "${PYTHON:-}" ] || [ "$made" = "$(version_of "$PYTHON")" ]
}
# Whether DIR was made by this script, as a whole or in part.
is_ours() {
    for mark in "$dir"/.made-* "$dir/.making"; do
        if [ -e "$mark" ]; then return; fi
    done
    return 1
}
pip() { "$dir/bin/python" -m pip install -qq --disable-pip-version-check --no-input --no-compile --require-hashes --no-deps "$@"; }
wheels() { pip --only-binary=:all: "$@"; }
# pip compiles on one core, this on all; some packages ship files that are not valid Python.
compile_all() { "$dir/bin/python" -m compileall -q -j 0 -x '/tests?/' "$dir/lib" >/dev/null 2>&1 || true; }
install_cpu_torch() {
    wheels -v -r envs/torch-cpu.lock >"$dir/pip.log" 2>&1 && return
    if grep -q 'Errno 28' "$dir/pip.log"; then fail "the disk is full: $dir needs about $size"; fi
    if grep -q 'after connection broken' "$dir/pip.log"; then first="pip's index cannot be reached (network, HTTPS_PROXY, PIP_INDEX_URL)"; else first="not on pip's indexes"; fi
    echo "pip's indexes do not offer the locked CPU build of torch; asking $cpu_index"
    wheels -v --index-url "$cpu_index" --timeout 15 --retries 2 -r envs/torch-cpu.lock 2>"$dir/pip.log" && return
    if grep -q 'after connection broken' "$dir/pip.log"; then why='cannot be reached'; else why=$(grep -m 1 '^ERROR' "$dir/pip.log" || echo 'does not offer it'); fi
    fail "no CPU build of torch for Python $(version_of "$dir/bin/python"): $first, and $cpu_index $why." \
        "Set TORCH=cuda (CUDA libraries too, $cuda_size), or PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL to a place that has it, or PYTHON to one it is offered for (PATH has: $(on_path))"
}
# Print the elapsed time and the size every 10 s, until this script ends.
show_progress() {
    waited=0
    while sleep 10 </dev/null >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        waited=$((waited + 10))
        echo "  $waited s, $(du -sm "$dir" 2>/dev/null | cut -f 1) MB in $dir of about $size"
    done
}
clean_up() {
    if [ -n "${progress:-}" ]; then kill "$progress" 2>/dev/null || true; fi
    if [ -n "${unfinished:-}" ]; then rm -rf "$dir"; fi
}

cpu_size='2,200 MB' cuda_size='6,000 MB'
case "$PWD $(pwd -P) $dir" in *:*) fail "$PWD/$dir: a path with ':' cannot be an entry of PATH; move or rename the directory" ;; esac
case $choice in auto|cpu|cuda) ;; *) fail "TORCH=$choice: expected auto, cpu or cuda" ;; esac
case $(uname -s)-$(uname -m) in
    Linux-x86_64|Linux-aarch64) ;;
    Darwin-arm64) if [ "$choice" = cuda ]; then fail 'TORCH=cuda: there is no CUDA build of torch for macOS'; fi; choice=cpu ;;
    *) fail "$(uname -sm): torch and bitsandbytes have wheels for Linux on x86-64 and aarch64 and for macOS on Apple silicon" ;;
esac
if [ "$choice" = auto ]; then
    if has_gpu || is_made cuda; then choice=cuda; else choice=cpu; fi
fi
. "$(dirname "$0")/pip_settings.sh"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if ! is_made "$choice"; then
    choose_python
    if [ -e "$dir" ]; then
        [ -e "$dir/pyvenv.cfg" ] || fail "$dir exists and is not a Python environment: move it away"
        is_ours || fail "$dir is a Python environment that was not made here, and would be removed: name another place in ENV, or remove it yourself"
        [ -w "$dir" ] || fail "$dir was made from other locks or for another Python and cannot be written: make it again where it came from"
    fi
    if [ "$choice" = cpu ]; then size=$cpu_size; else size=$cuda_size; fi
    echo "making $dir with $python ($("$python" -c 'import platform; print(platform.python_version())')) and the $choice build of torch, about $size (TORCH=cpu or cuda, PYTHON=… choose)"
    unfinished=yes
    rm -rf "$dir"
    mkdir -p "$dir"
    touch "$dir/.making" # what a power cut leaves of it is known as ours
    "$python" -m venv "$dir"
    show_progress & progress=$!
    if [ "$choice" = cpu ]; then install_cpu_torch; else wheels -r envs/torch-cuda.lock; fi
    sed '/^# No wheels/,$d' envs/main.lock >"$dir/wheels.lock"
    wheels -r "$dir/wheels.lock"
    pip --only-binary=:none: --no-build-isolation --use-pep517 -r envs/main.lock
    new=yes
    rm -f "$dir/wheels.lock" "$dir/pip.log"
    touch "$(stamp "$choice")"
    rm -f "$dir/.making"
    unfinished=
fi
# Add a lock, once: add_lock NAME "what it is for".
add_lock() {
    added="$dir/.$1-$(cksum <"envs/$1.lock" | tr ' ' -)"
    if [ -e "$added" ]; then return; fi
    [ -w "$dir" ] || fail "$dir lacks $2, and cannot be written"
    echo "adding to $dir $2"
    wheels --ignore-installed -r "envs/$1.lock"
    new=yes
    touch "$added"
}
case $extra in
    development) add_lock slurm 'what runs on a Slurm cluster need'; add_lock dev 'what tests and checks need' ;;
    slurm) add_lock slurm 'what runs on a Slurm cluster need' ;;
esac
if [ -n "${new:-}" ]; then compile_all; fi # once for all locks; where it was interrupted, Python does it at the first import
