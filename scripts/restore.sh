#!/usr/bin/env bash
# Puts a backup of scripts/backup.sh back. What is there now is replaced, so it asks first.
#
#   scripts/restore.sh compose   --from DIR [--yes] [--without PART]...     into the stack of docker-compose.yml here
#   scripts/restore.sh addresses --from DIR [--yes] [--without PART]...     into what variables name:
#     REDIS_DATA: the data folder of a Redis that is stopped; the folder must be empty or missing
#     PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE: the primary; the user may make databases
#     MONITOR_DB: the store of a monitor-service that is stopped
#
# DIR is one folder that the backup made. Stop the services that write first; compose does so by itself and starts them again.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/lib-stores.sh
. "$(dirname "$0")/lib-stores.sh"

usage() { sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0"; }

stack='' from=''
while [ $# -gt 0 ]; do
  case "$1" in
    compose | addresses) stack=$1 ;;
    --from) from=${2:?--from takes a folder}; shift ;;
    --without) leave_out "${2:-}"; shift ;;
    --yes | -y) ASSUME_YES=1 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
  esac
  shift
done
if [ -z "$stack" ] || [ -z "$from" ]; then usage >&2; exit 64; fi
[ -r "$from/SHA256SUMS" ] || fail "$from is no backup: it has no SHA256SUMS"
from=$(cd "$from" && pwd)

step "looking at the backup"
(cd "$from" && sha256sum --check --quiet --strict SHA256SUMS) || fail "the backup is not what was written: nothing was changed"
use_stack "$stack"
for part in redis:redis.rdb postgres:postgres.dump monitor:monitor.db; do
  if wanted "${part%%:*}" && [ ! -e "$from/${part#*:}" ]; then fail "$from has no ${part#*:}: leave it out with --without ${part%%:*}"; fi
done
if wanted redis; then check_redis_dump "$from/redis.rdb"; fi
if wanted postgres; then check_postgres_dump "$from/postgres.dump"; fi
if wanted monitor; then check_monitor_dump "$from/monitor.db"; fi
ask "replace what the $stack stack holds with $(basename "$from")?" || fail "nothing was changed"

trap '[ $? -eq 0 ] || say "error: restored in part; nothing that writes was started: mend what is told above, and restore again" >&2' EXIT
stop_writers
if wanted redis; then step "Redis"; redis_restore "$from/redis.rdb"; fi
if wanted postgres; then step "PostgreSQL"; postgres_restore "$from/postgres.dump"; fi
if wanted monitor; then step "monitor"; monitor_restore "$from/monitor.db"; fi
start_writers
step "restored from $from"
