#!/usr/bin/env bash
# Install Ray if it is missing and run a command: tests/services/ray.sh python -m pytest -m ray
# This starts no server: Hydra's launcher starts Ray, which ends with the process that started it.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT...]" >&2; exit 2; }

python=${PYTHON:-python}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
have() { "$python" -c 'import ray, hydra_plugins.hydra_ray_launcher' 2>/dev/null; }
have || "$python" -m pip install -q -c "$root/constraints.txt" -e "$root[ray]" >&2 && have ||
  { echo "ray.sh: cannot install Ray; make pip install -c constraints.txt -e '.[ray]' work" >&2; exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$folder/token") # Ray would write one to the home folder
export HARNESS_TEST_RAY=1 RAY_TMPDIR="$folder" RAY_AUTH_TOKEN_PATH="$folder/token" RAY_USAGE_STATS_ENABLED=0
"$@"
