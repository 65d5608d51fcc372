#!/bin/sh
# Starts the PgBouncer of one server. SERVER is its host.
set -eu

: "${SERVER:?the host of the PostgreSQL server}"
umask 077
cat >/run/pgbouncer/databases.ini <<INI
[databases]
mainstay = host=$SERVER port=5432 dbname=mainstay
INI
# Plain passwords: PgBouncer needs them to log in by SCRAM itself. The monitor role asks SHOW, where no lookup is made.
printf '"pgbouncer" "%s"\n"mainstay_monitor" "%s"\n' \
  "$(cat /run/secrets/pgbouncer-lookup-password)" "$(cat /run/secrets/postgres-monitor-password)" >/run/pgbouncer/users.txt
exec pgbouncer /etc/mainstay/pgbouncer.ini
