#!/bin/sh
# Make an environment beside the main one, of the same Python: make_side_environment.sh MAIN DIR LOCK…
# DIR/.made, written last, says that it is whole.
set -eu
main=$1 dir=$2
shift 2
. "$(dirname "$0")/pip_settings.sh"
fail() { rm -rf "$dir"; exit 1; }
for lock; do set -- "$@" -r "$lock"; shift; done
# One that was made before there was a mark, or by hand, is whole if nothing has to be fetched for it.
if [ -x "$dir/bin/python" ] && "$dir/bin/python" -m pip install --quiet --no-index --disable-pip-version-check --require-hashes --no-deps "$@" 2>/dev/null; then
    touch "$dir/.made"
    exit
fi
trap fail INT TERM HUP
echo "making $dir"
rm -rf "$dir"
"$main/bin/python" -m venv "$dir" || fail
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps "$@" || fail
touch "$dir/.made"
