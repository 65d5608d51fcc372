#!/bin/sh
# A planned failover that loses no acknowledged write: failover.sh SENTINEL-HOST SENTINEL-PORT [NAME]
#
# SENTINEL FAILOVER alone promotes the replica while the primary goes on answering writes; those that the replica has not
# read by then are lost. So here writes are held first, then the replica is waited for, and only then it is promoted. When
# something goes wrong, writes go on where they were.
#
# REDIS_USER and REDIS_PASSWORD sign in to the servers (user `operator` of start-redis.sh), SENTINEL_PASSWORD to the
# Sentinel; REDIS_CLI_FLAGS is for TLS (`--tls --cacert FILE`).
set -eu

sentinel_host=${1:?the host of a Sentinel} sentinel_port=${2:?its port} name=${3:-mainstay}
# Longer than all of it may take. Writes also go on when it is over, so the old primary must be a replica by then.
hold_ms=15000
catch_up_within_s=3 accept_within_s=3 switch_within_s=8

cli() { # PASSWORD HOST PORT WORDS...
  auth=$1 to=$2 at=$3
  shift 3
  # shellcheck disable=SC2086 # flags are words
  if [ -n "$auth" ]; then
    REDISCLI_AUTH=$auth redis-cli ${REDIS_CLI_FLAGS-} -e -h "$to" -p "$at" "$@"
  else
    redis-cli ${REDIS_CLI_FLAGS-} -e -h "$to" -p "$at" "$@"
  fi
}
sentinel() { cli "${SENTINEL_PASSWORD-}" "$sentinel_host" "$sentinel_port" SENTINEL "$@"; }
server() { # HOST PORT WORDS...
  to_host=$1 to_port=$2
  shift 2
  if [ -n "${REDIS_USER-}" ]; then
    cli "${REDIS_PASSWORD-}" "$to_host" "$to_port" --user "$REDIS_USER" "$@"
  else
    cli "${REDIS_PASSWORD-}" "$to_host" "$to_port" "$@"
  fi
}
field() { tr -d '\r' | sed -n "s/^$1://p"; }
primary() { sentinel GET-MASTER-ADDR-BY-NAME "$name" | tr '\n' ' '; }
fail() {
  echo "$1" >&2
  exit 1
}

before=$(primary)
host=${before%% *} port=${before#* } port=${port% }
[ -n "$host" ] || fail "the Sentinel knows no $name"

release() { server "$host" "$port" CLIENT UNPAUSE >/dev/null || true; }
trap release EXIT
server "$host" "$port" CLIENT PAUSE "$hold_ms" WRITE >/dev/null

# 1. Every replica has what the primary has.
replication=$(server "$host" "$port" INFO replication)
target=$(echo "$replication" | field master_repl_offset)
replicas=$(echo "$replication" | tr -d '\r' | sed -n 's/^slave[0-9]*:ip=\([^,]*\),port=\([^,]*\),state=online.*/\1 \2/p')
[ -n "$replicas" ] || fail "$host:$port has no replica that is online"
give_up_at=$(($(date +%s) + catch_up_within_s))
echo "$replicas" | while read -r replica_host replica_port; do
  while :; do
    offset=$(server "$replica_host" "$replica_port" INFO replication </dev/null | field slave_repl_offset)
    [ "${offset:-0}" -lt "$target" ] || break
    [ "$(date +%s)" -lt "$give_up_at" ] || fail "$replica_host:$replica_port is at $offset, behind $target"
    sleep 0.02
  done
done

# 2. One of them is promoted.
give_up_at=$(($(date +%s) + accept_within_s))
# A Sentinel promotes only what it has heard of lately (NOGOODSLAVE): it asks every second.
until answer=$(sentinel FAILOVER "$name" 2>&1); do
  [ "$(date +%s)" -lt "$give_up_at" ] || fail "the Sentinel does not promote: $answer"
  sleep 0.1
done
give_up_at=$(($(date +%s) + switch_within_s))
while after=$(primary) && [ "$after" = "$before" ]; do
  [ "$(date +%s)" -lt "$give_up_at" ] || fail "the Sentinel still names $host:$port"
  sleep 0.05
done

# 3. The old primary follows it at once; a Sentinel would see to that seconds later, and until then it could take writes again.
new_host=${after%% *} new_port=${after#* } new_port=${new_port% }
server "$host" "$port" REPLICAOF "$new_host" "$new_port" >/dev/null
echo "$name is at $new_host:$new_port now, it was at $host:$port"
