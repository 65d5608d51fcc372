#!/bin/sh
# Starts the PgBouncer of one server. SERVER is its host. With tls.crt and tls.key beside the passwords it refuses clients that do
# not speak TLS; with ca.crt it refuses a server that does not prove by it to be SERVER.
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
{
  if [ -s /run/secrets/tls.crt ]; then
    echo "client_tls_sslmode = require"
    echo "client_tls_cert_file = /run/secrets/tls.crt"
    echo "client_tls_key_file = /run/secrets/tls.key"
  fi
  if [ -s /run/secrets/ca.crt ]; then
    echo "server_tls_sslmode = verify-full"
    echo "server_tls_ca_file = /run/secrets/ca.crt"
  fi
} >/run/pgbouncer/tls.ini
exec pgbouncer /etc/mainstay/pgbouncer.ini
