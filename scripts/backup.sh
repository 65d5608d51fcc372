#!/usr/bin/env bash
# Backs up what a stack cannot make again: Redis (sessions, counters, locks, queues, histories), PostgreSQL, the monitor's store.
# Each part is read back before the backup counts. What is not in it: secrets, configuration, and the disk layer of the cache.
#
#   scripts/backup.sh compose   --to DIR [--keep N] [--without PART]...     of the stack of docker-compose.yml here
#   scripts/backup.sh addresses --to DIR [--keep N] [--without PART]...     of servers that are named by variables:
#     REDIS_ADDRESS (host:port; the primary's, or a replica's), REDIS_USERNAME, REDIS_PASSWORD
#     PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, as all programs of PostgreSQL read them
#     MONITOR_DB: the store of monitor-service, on this machine
#
# DIR gets a folder named by the time (UTC); the newest N (default 7) folders stay. PART is redis, postgres or monitor.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/lib-stores.sh
. "$(dirname "$0")/lib-stores.sh"

usage() { sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0"; }

stack='' to='' keep=7
while [ $# -gt 0 ]; do
  case "$1" in
    compose | addresses) stack=$1 ;;
    --to) to=${2:?--to takes a folder}; shift ;;
    --keep) keep=${2:?--keep takes a number}; shift ;;
    --without) leave_out "${2:-}"; shift ;;
    --yes | -y) ASSUME_YES=1 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
  esac
  shift
done
if [ -z "$stack" ] || [ -z "$to" ]; then usage >&2; exit 64; fi
[[ $keep =~ ^[1-9][0-9]*$ ]] || fail "--keep takes a number from 1"
use_stack "$stack"

umask 077
mkdir -p "$to"
name=$(date -u +%Y%m%dT%H%M%SZ)
partial=$to/.partial-$name
trap 'rm -rf "$partial"' EXIT
mkdir "$partial"

if wanted redis; then
  step "Redis"
  redis_dump "$partial/redis.rdb"
  check_redis_dump "$partial/redis.rdb"
fi
if wanted postgres; then
  step "PostgreSQL"
  postgres_dump "$partial/postgres.dump"
  check_postgres_dump "$partial/postgres.dump"
fi
if wanted monitor; then
  step "monitor"
  monitor_dump "$partial/monitor.db"
  check_monitor_dump "$partial/monitor.db"
fi

(cd "$partial" && sha256sum -- * >SHA256SUMS)
mv "$partial" "$to/$name"
# Old ones go only once a new one is whole.
find "$to" -mindepth 1 -maxdepth 1 -type d -name '20*Z' | sort -r | tail -n "+$((keep + 1))" | while read -r old; do rm -rf "$old"; done
step "backed up"
(cd "$to/$name" && du -h -- * | grep -v SHA256SUMS)
say "$to/$name"
