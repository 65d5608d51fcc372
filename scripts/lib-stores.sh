# shellcheck shell=bash
# What backup.sh and restore.sh do with each store, for a stack in containers and for servers by address. Sourced, never run.

PARTS=" redis postgres monitor "
SERVICES="cache-service ws-gateway replica-service monitor-service edge-gateway"

# Compose, whichever is here.
compose() { (cd "$ROOT" && "${COMPOSE[@]}" "$@"); }

leave_out() {
  case "$1" in
    redis | postgres | monitor) PARTS=${PARTS/ $1 / } ;;
    *) fail "--without takes redis, postgres or monitor" ;;
  esac
}
wanted() { [[ $PARTS == *" $1 "* ]]; }

# Chooses how the stores are reached, and makes sure that the programs for it are there.
use_stack() {
  STACK=$1
  local needed=()
  if [ "$STACK" = compose ]; then
    if docker compose version >/dev/null 2>&1; then
      COMPOSE=(docker compose)
    elif command -v docker-compose >/dev/null 2>&1; then
      COMPOSE=(docker-compose)
    else
      fail "neither docker compose nor docker-compose is here"
    fi
  fi
  # In containers their own programs are used, so that versions agree.
  if [ "$STACK" = addresses ]; then
    if wanted redis; then needed+=(redis-check-rdb:redis-tools:redis redis-server:redis-server:redis); fi
    if wanted postgres; then needed+=(pg_restore:postgresql-client:libpq); fi
  fi
  if wanted monitor; then needed+=(sqlite3:sqlite3:sqlite); fi
  [ ${#needed[@]} -eq 0 ] || ensure_programs "${needed[@]}"
  [ "$STACK" = compose ] || needs_variables
}

needs_variables() {
  local name variables=()
  if wanted redis; then
    if [ "$(basename "$0")" = restore.sh ]; then variables+=(REDIS_DATA); else variables+=(REDIS_ADDRESS); fi
  fi
  if wanted postgres; then variables+=(PGHOST PGPORT PGUSER PGDATABASE); fi
  if wanted monitor; then variables+=(MONITOR_DB); fi
  for name in "${variables[@]}"; do [ -n "${!name:-}" ] || fail "$name is not set; --help tells what it is"; done
}

# Runs redis-cli in the container of $1, as the user of operators.
redis_in() {
  local node=$1
  shift
  # shellcheck disable=SC2016
  compose exec -T "$node" sh -c 'REDISCLI_AUTH=$(cat /run/secrets/redis-sentinel-password) exec redis-cli --user operator "$@"' - "$@"
}

# --- backup

redis_dump() {
  if [ "$STACK" = compose ]; then
    # From the primary, wherever it is now: a replica that lost it would give yesterday's state and not say so.
    local node
    for node in redis-1 redis-2; do
      if [ "$(redis_in "$node" ROLE 2>/dev/null | head -n 1)" = master ]; then break; fi
      node=''
    done
    redis_in "${node:?no Redis container says that it is the primary}" --rdb - >"$1"
  else
    local user=()
    [ -z "${REDIS_USERNAME:-}" ] || user=(--user "$REDIS_USERNAME")
    REDISCLI_AUTH=${REDIS_PASSWORD:-} redis-cli -h "${REDIS_ADDRESS%:*}" -p "${REDIS_ADDRESS##*:}" "${user[@]}" --rdb "$1" >/dev/null
  fi
}

postgres_dump() {
  if [ "$STACK" = compose ]; then
    compose exec -T postgres-primary pg_dump --username postgres --format custom mainstay >"$1"
  else
    pg_dump --format custom --file "$1"
  fi
}

monitor_dump() {
  if [ "$STACK" = compose ]; then
    local id
    id=$(compose ps --quiet monitor-service)
    # The service keeps this copy whole; the file that it works on changes while it is read.
    docker cp "${id:?monitor-service is not running}:/var/lib/mainstay/backup/monitor.db" "$1" >/dev/null
  else
    [ -e "$MONITOR_DB" ] || fail "MONITOR_DB: $MONITOR_DB is not there"
    sqlite3 "$MONITOR_DB" ".timeout 10000" ".backup '$1'"
  fi
}

# --- reading back

# Runs a script of sh by Redis' image as USER with the volumes of a container: beside NODE USER SCRIPT. Without a network, for the
# address of the container is its own.
beside() {
  local id image
  id=$(compose ps --quiet --all "$1")
  image=$(docker inspect --format '{{.Image}}' "$(compose ps --quiet --all redis-1)")
  docker run --rm --interactive --network none --user "$2" --volumes-from "${id:?"$1 has no container"}" --entrypoint sh "$image" -c "$3"
}

check_redis_dump() {
  if [ "$STACK" = compose ]; then
    # shellcheck disable=SC2016
    beside redis-1 999:999 'cat >/data/.check.rdb; redis-check-rdb /data/.check.rdb >/dev/null; found=$?; rm /data/.check.rdb; exit $found' <"$1"
  else
    redis-check-rdb "$1" >/dev/null
  fi || fail "the dump of Redis cannot be read: ask redis-check-rdb $1"
}
check_postgres_dump() {
  if [ "$STACK" = compose ]; then
    compose run --rm --no-deps -T --entrypoint pg_restore postgres-primary --list <"$1" >/dev/null
  else
    pg_restore --list "$1" >/dev/null
  fi || fail "the dump of PostgreSQL cannot be read: ask pg_restore --list $1"
}
check_monitor_dump() {
  [ "$(sqlite3 "$1" 'PRAGMA integrity_check')" = ok ] || fail "the copy of the monitor's store is damaged: $1"
}

# --- restore

stop_writers() {
  [ "$STACK" = compose ] || return 0
  # shellcheck disable=SC2086
  compose stop $SERVICES
}

start_writers() {
  [ "$STACK" = compose ] || return 0
  # shellcheck disable=SC2086
  compose up --detach $SERVICES
}

# Makes $DATA/dump.rdb into a data folder with an append-only file: a Redis that has one does not read a dump. For sh.
# shellcheck disable=SC2016
REDIS_DATA_FROM_DUMP='set -eu
socket=$DATA/restore.sock
ask() { redis-cli -s "$socket" "$@" 2>/dev/null | tr -d "\r"; }
# until_true SECONDS COMMAND...
until_true() {
  left=$(($1 * 10)); shift
  until "$@"; do left=$((left - 1)); [ $left -gt 0 ] || { echo "error: Redis: $* took too long" >&2; exit 1; }; sleep 0.1; done
}
is_up() { [ "$(ask PING)" = PONG ]; }
has_written() { [ "$(ask INFO persistence | grep -cx "aof_rewrite_in_progress:0\|aof_rewrite_scheduled:0")" = 2 ]; }
redis-server --dir "$DATA" --port 0 --unixsocket "$socket" --save "" --appendonly no --logfile "$DATA/restore.log" &
until_true 300 is_up
[ "$(ask CONFIG SET appendonly yes)" = OK ]
until_true 600 has_written
ask SHUTDOWN SAVE || true
wait
rm -f "$socket" "$DATA/restore.log"'

redis_restore() {
  if [ "$STACK" = addresses ]; then
    mkdir -p "$REDIS_DATA"
    [ -z "$(ls -A "$REDIS_DATA")" ] || fail "REDIS_DATA: $REDIS_DATA is not empty"
    cp "$1" "$REDIS_DATA/dump.rdb"
    DATA=$(cd "$REDIS_DATA" && pwd) sh -c "$REDIS_DATA_FROM_DUMP"
    return
  fi
  local node
  compose stop sentinel-1 sentinel-2 sentinel-3 redis-1 redis-2
  # Roles begin anew: the first node is the primary, the others forget who was.
  for node in sentinel-1 sentinel-2 sentinel-3 redis-1 redis-2; do
    beside "$node" 999:999 'find /data -mindepth 1 -delete' </dev/null
  done
  beside redis-1 999:999 "cat >/data/dump.rdb; DATA=/data; $REDIS_DATA_FROM_DUMP" <"$1"
  compose up --detach redis-1 redis-2 sentinel-1 sentinel-2 sentinel-3
}

# Into a new database under another name, which takes the place of the old one when it is whole.
postgres_restore() {
  local maintenance='psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --dbname postgres'
  if [ "$STACK" = compose ]; then
    in_postgres() { compose exec -T postgres-primary "$@"; }
    local database=mainstay user=(--username postgres)
  else
    in_postgres() { "$@"; }
    local database=$PGDATABASE user=()
  fi
  # shellcheck disable=SC2086
  in_postgres $maintenance "${user[@]}" <<SQL
DROP DATABASE IF EXISTS "${database}_restored" WITH (FORCE);
CREATE DATABASE "${database}_restored" TEMPLATE template0;
SQL
  in_postgres pg_restore "${user[@]}" --exit-on-error --dbname "${database}_restored" <"$1"
  # shellcheck disable=SC2086
  in_postgres $maintenance "${user[@]}" <<SQL
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '$database' AND pid <> pg_backend_pid() \g /dev/null
-- What belongs to a database and is in no dump of it: owner, rights, settings.
DO \$\$
DECLARE
  old pg_database;
  right_of record;
  setting record;
BEGIN
  SELECT * INTO old FROM pg_database WHERE datname = '$database';
  IF NOT FOUND THEN RETURN; END IF;
  EXECUTE format('ALTER DATABASE %I OWNER TO %I', '${database}_restored', pg_get_userbyid(old.datdba));
  IF old.datacl IS NOT NULL THEN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', '${database}_restored');
    FOR right_of IN SELECT * FROM aclexplode(old.datacl) LOOP
      EXECUTE format('GRANT %s ON DATABASE %I TO %s', right_of.privilege_type, '${database}_restored',
        CASE right_of.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(right_of.grantee)) END);
    END LOOP;
  END IF;
  FOR setting IN SELECT unnest(setconfig) AS pair FROM pg_db_role_setting WHERE setdatabase = old.oid AND setrole = 0 LOOP
    EXECUTE format('ALTER DATABASE %I SET %I TO %L', '${database}_restored',
      split_part(setting.pair, '=', 1), substr(setting.pair, strpos(setting.pair, '=') + 1));
  END LOOP;
END \$\$;
DROP DATABASE IF EXISTS "$database" WITH (FORCE);
ALTER DATABASE "${database}_restored" RENAME TO "$database";
SQL
}

monitor_restore() {
  if [ "$STACK" = addresses ]; then
    # A journal beside it belongs to the store that goes.
    rm -f "$MONITOR_DB-wal" "$MONITOR_DB-shm"
    cp "$1" "$MONITOR_DB.new"
    mv "$MONITOR_DB.new" "$MONITOR_DB"
    return
  fi
  # The service's own image has no shell.
  beside monitor-service 65532:65532 'cd /var/lib/mainstay && cat >monitor.db.new && rm -f monitor.db-wal monitor.db-shm &&
    mv monitor.db.new monitor.db' <"$1"
}
