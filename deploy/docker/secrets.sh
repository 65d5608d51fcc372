#!/bin/sh
# Makes the secrets of a stack, once, each readable only by who needs it: $SECRETS/<consumer>/<name>, /secrets in the container that
# runs this for docker-compose.yml. `secrets.sh show` prints the API keys and Grafana's password. As root it gives the folders to
# the users of the containers, or of one machine without them (OWNER=mainstay); as another user it leaves them with that user.
set -eu

SECRETS=${SECRETS:-/secrets}
ALL=$SECRETS/all
SERVICE_USER=65532:65532
# Users of the official images.
REDIS_USER=999:999
POSTGRES_USER=999:999
GRAFANA_USER=472:0
# As deploy/docker/pgbouncer.Dockerfile makes it.
PGBOUNCER_USER=6432:6432

if [ "${1:-}" = show ]; then
  for role in admin operator viewer; do printf '%-9s %s\n' "$role" "$(cat "$ALL/api-key-$role")"; done
  printf '%-9s %s\n' grafana "$(cat "$ALL/grafana-password")"
  exit 0
fi

umask 077
mkdir -p "$ALL"

# Keeps what is there: a secret is made once and lives as long as the volume.
make() {
  [ -s "$ALL/$1" ] || { od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$ALL/$1.new" && mv "$ALL/$1.new" "$ALL/$1"; }
}
# give CONSUMER USER SECRET...
give() {
  consumer=$1 user=$2
  shift 2
  mkdir -p "$SECRETS/$consumer"
  chmod 0700 "$SECRETS/$consumer"
  for secret in "$@"; do
    rm -f "$SECRETS/$consumer/$secret"
    cp "$ALL/$secret" "$SECRETS/$consumer/$secret"
    chmod 0400 "$SECRETS/$consumer/$secret"
  done
  chmod 0500 "$SECRETS/$consumer"
  [ "$(id -u)" -ne 0 ] || chown -R "${OWNER:-$user}" "$SECRETS/$consumer"
}

for secret in service-token jwt-secret redis-password redis-replication-password redis-sentinel-password \
  redis-monitor-password postgres-superuser-password postgres-password postgres-monitor-password postgres-replicator-password \
  pgbouncer-lookup-password grafana-password; do
  make "$secret"
done
for role in admin operator viewer; do
  make "api-key-$role"
  # The edge is given the hash alone.
  printf %s "$(cat "$ALL/api-key-$role")" | sha256sum | cut -d' ' -f1 >"$ALL/api-key-$role-sha256"
done

give cache-service "$SERVICE_USER" service-token redis-password redis-sentinel-password
give ws-gateway "$SERVICE_USER" service-token redis-password redis-sentinel-password jwt-secret
give replica-service "$SERVICE_USER" service-token postgres-password postgres-monitor-password
give monitor-service "$SERVICE_USER" service-token redis-password redis-sentinel-password redis-monitor-password \
  postgres-monitor-password
give edge-gateway "$SERVICE_USER" service-token jwt-secret api-key-admin-sha256 api-key-operator-sha256 api-key-viewer-sha256
give redis "$REDIS_USER" redis-password redis-replication-password redis-sentinel-password redis-monitor-password
give postgres "$POSTGRES_USER" postgres-superuser-password postgres-password postgres-monitor-password \
  postgres-replicator-password pgbouncer-lookup-password
give pgbouncer "$PGBOUNCER_USER" pgbouncer-lookup-password postgres-monitor-password
give grafana "$GRAFANA_USER" grafana-password
give bench "$SERVICE_USER" api-key-operator
[ "$SECRETS" != /secrets ] || echo "secrets are there; print the API keys with: docker compose run --rm secrets show"
