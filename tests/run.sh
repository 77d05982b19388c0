#!/usr/bin/env bash
# Sets up everything the tests need and runs them all: bash tests/run.sh
# With arguments they go to pytest instead of the full run's: bash tests/run.sh tests/codec -k mllp
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
began=$SECONDS

python=${PYTHON:-python3}
has() { command -v "$1" >/dev/null 2>&1; }

# Debian packages, only those that are missing, only as root: elsewhere the tests that need them say so by name.
missing=()
has git || missing+=(git)
has gcc || missing+=(gcc libc6-dev)
has mkfs.ext4 || missing+=(e2fsprogs)
{ has losetup && has mount && has unshare; } || missing+=(util-linux mount)
has "$python" || missing+=(python3)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && has apt-get; then
  echo "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; set PYTHON=" >&2; exit 1; }

# The environment: the active one, else .venv; made again only where the lock or the project changed.
venv=${VIRTUAL_ENV:-$PWD/.venv}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
made_from=$(cat tests/requirements.txt pyproject.toml | sha256sum)
if [ "$(cat "$venv/.made-from" 2>/dev/null)" != "$made_from" ]; then
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements.txt
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  echo "$made_from" >"$venv/.made-from"
fi
bash tests/peers/setup.sh "$venv/bin/python"
echo "set up in $((SECONDS - began)) s"

# A mount namespace of our own: what the disk layers mount nobody else can pin, and it is gone when the run is.
run=()
if [ "$(id -u)" = 0 ] && unshare -m --propagation private true 2>/dev/null; then
  run=(unshare -m --propagation private)
fi
[ $# -gt 0 ] || set -- -n 2 --dist loadgroup --slow --floors
exec "${run[@]}" "$venv/bin/python" -m pytest "$@"
