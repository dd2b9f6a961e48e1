#!/usr/bin/env bash
# All checks that need a GPU, in at most eight minutes; see run.py.
#
#     bash tests/gpu/run.sh OUTDIR [options of run.py]
#
# Packages that the machine lacks come from the folder .whl beside the repository's files, if it is there:
# python -m pip download --no-deps --only-binary=:all: --python-version 3.12 ... -d .whl NAME==VERSION
set -u
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
site=$scratch/site-packages # dill takes modules of a folder of this name for installed ones
if compgen -G '.whl/*.whl' >/dev/null; then
    pip=("$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check
        --find-links .whl --target "$site")
    # One wheel of another Python stops all of them, so each goes alone then.
    "${pip[@]}" .whl/*.whl 2>/dev/null || for wheel in .whl/*.whl; do
        "${pip[@]}" --upgrade "$wheel" || echo "not installed: $wheel" >&2
    done
fi
export PYTHONPATH="$site:$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
"$python" tests/gpu/run.py "$@"
