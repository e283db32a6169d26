#!/usr/bin/env bash
# Run a command with a temporary PostgreSQL server: tests/services/postgres.sh python -m pytest -m postgres
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT...]" >&2; exit 2; }

python=${PYTHON:-python}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

binaries() { # print the folder of initdb and pg_ctl; the newest version if there are several
  local initdb
  initdb=$(command -v initdb || find /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -1)
  [ -n "$initdb" ] && dirname "$(realpath "$initdb")"
}

binaries >/dev/null || {
  echo "postgres.sh: initdb not found, installing the package postgresql" >&2
  apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    postgresql >&2 && binaries >/dev/null ||
    { echo "postgres.sh: cannot install PostgreSQL; put initdb and pg_ctl on PATH" >&2; exit 1; }
}
bin=$(binaries)
"$python" -c 'import psycopg' 2>/dev/null ||
  "$python" -m pip install -q -c "$root/constraints.txt" 'psycopg[binary]' >&2 ||
  { echo "postgres.sh: cannot install psycopg; make pip install 'psycopg[binary]' work" >&2; exit 1; }

as_user=() # initdb refuses to run as root
if [ "$(id -u)" = 0 ]; then as_user=(runuser -u "$(id -un postgres 2>/dev/null || echo nobody)" --); fi

folder=$("${as_user[@]}" mktemp -d)
stop() {
  (cd / && "${as_user[@]}" "$bin/pg_ctl" -D "$folder/data" -m immediate -w stop >/dev/null 2>&1) || true
  rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
out=$(
  cd "$folder" # the user may not have access to the current folder
  "${as_user[@]}" "$bin/initdb" -D data -U postgres -A trust -E UTF8 --no-locale --no-sync 2>&1 &&
    "${as_user[@]}" "$bin/pg_ctl" -D data -l log -w start 2>&1 \
      -o "-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$folder -c fsync=off"
) || { echo "postgres.sh: the server did not start" "$out" >&2; cat "$folder/log" >&2; exit 1; }

export HARNESS_TEST_POSTGRES="postgresql+psycopg://postgres@127.0.0.1:$port/postgres"
"$@"
