#!/bin/sh
# Starts a streaming replica: the first time it copies the primary. PRIMARY is the host to copy and to follow, SLOT the
# replication slot made for this replica.
set -eu

: "${PRIMARY:?the host to follow}" "${SLOT:?the replication slot}" "${PGDATA:?}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  PGPASSWORD=$(cat /run/secrets/postgres-replicator-password)
  export PGPASSWORD
  tries=5
  while :; do
    # A copy that was cut off must not be taken for a database.
    find "$PGDATA" -mindepth 1 -delete
    pg_basebackup --pgdata "$PGDATA" --wal-method=stream --checkpoint=fast --slot="$SLOT" --write-recovery-conf \
      --dbname "host=$PRIMARY port=5432 user=replicator application_name=$SLOT" && break
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { find "$PGDATA" -mindepth 1 -delete; exit 1; }
    sleep 2
  done
  chmod 0700 "$PGDATA"
  unset PGPASSWORD
fi
exec postgres -c config_file=/etc/mainstay/postgresql.conf -c "cluster_name=$SLOT"
