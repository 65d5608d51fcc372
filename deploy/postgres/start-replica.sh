#!/bin/sh
# Starts a streaming replica: the first time it copies the primary. PRIMARY is the host to copy and to follow, SLOT the
# replication slot made for this replica.
set -eu

: "${PRIMARY:?the host to follow}" "${SLOT:?the replication slot}" "${PGDATA:?}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # A copy that was cut off must not be taken for a database.
  mkdir -p "$PGDATA"
  find "$PGDATA" -mindepth 1 -delete
  PGPASSWORD=$(cat /run/secrets/postgres-replicator-password)
  export PGPASSWORD
  pg_basebackup --pgdata "$PGDATA" --wal-method=stream --checkpoint=fast --slot="$SLOT" --write-recovery-conf \
    --dbname "host=$PRIMARY port=5432 user=replicator application_name=$SLOT"
  chmod 0700 "$PGDATA"
  unset PGPASSWORD
fi
exec postgres -c config_file=/etc/mainstay/postgresql.conf -c "cluster_name=$SLOT"
