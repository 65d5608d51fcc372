#!/bin/sh
# What the official image does with its variables, as far as docker-compose.yml uses it.
set -eu

if [ "${1:-}" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  chmod 0700 "$PGDATA"
  # Word splitting is wanted: these are arguments.
  # shellcheck disable=SC2086
  initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" ${POSTGRES_INITDB_ARGS:-} -D "$PGDATA"
  # The first start takes no connections from outside.
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses='' -c config_file=/etc/mainstay/postgresql.conf" start
  PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
  export PGPASSWORD
  for script in /docker-entrypoint-initdb.d/*.sh; do sh "$script"; done
  unset PGPASSWORD
  pg_ctl -D "$PGDATA" -w -m fast stop
fi
exec "$@"
