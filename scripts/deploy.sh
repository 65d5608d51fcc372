#!/usr/bin/env bash
# Brings a new version of the five services into a running stack of containers: one service after the other, each only when
# the one before is healthy, and all of them back if one does not get there.
#
#   scripts/deploy.sh --version V [--build] [--within SECONDS] [--backup-to DIR | --without-backup]
#                     [--without-smoke] [--force] [--yes]
#
#   --version V        the tag of the new images, mainstay/<service>:V, or in your registry with docker-compose.production.yml
#   --build            build the images here and now instead of pulling them
#   --within SECONDS   time for one service to get healthy (default 60)
#   --without-smoke    do not run scripts/smoke_tests.sh at the end; it needs Rust once, to be built
#   --backup-to DIR    where scripts/backup.sh puts its backup (default: backups)
#   --force            also when the stack is not healthy to begin with
#
# What Compose is asked is what .env and COMPOSE_FILE say, so other files and environments are named there. On success
# MAINSTAY_VERSION is written to .env, so that the next `docker compose up` means the same images.
# With MAINSTAY_PURGE_URL in the environment that address is called by POST at the end, so that a CDN in front of the edge forgets
# the pages of the old version; MAINSTAY_PURGE_HEADER is one more header for it. A call that fails is told and changes nothing.
# Exit code 0: the new version runs; 1: nothing was changed; 3: rolled back; 4: the way back failed too, look at once.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/lib-stores.sh
. "$(dirname "$0")/lib-stores.sh"
cd "$ROOT"

version='' build='' within=60 backup=$ROOT/backups smoke=1 force=''
while [ $# -gt 0 ]; do
  case "$1" in
    --version) version=${2:?--version takes a tag}; shift ;;
    --build) build=1 ;;
    --within) within=${2:?--within takes seconds}; shift ;;
    --backup-to) backup=${2:?--backup-to takes a folder}; shift ;;
    --without-backup) backup='' ;;
    --without-smoke) smoke='' ;;
    --force) force=1 ;;
    --yes | -y) ASSUME_YES=1 ;;
    --help | -h) sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) fail "unknown: $1; --help tells what there is" ;;
  esac
  shift
done
[[ $version =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$ ]] || fail "--version takes the tag of the images"
[ "$version" != previous ] || fail "--version: the tag 'previous' is where the way back is kept"
[[ $within =~ ^[1-9][0-9]*$ ]] || fail "--within takes seconds from 1"
# The order of the arrows: who is called goes before who calls.
order="cache-service replica-service ws-gateway monitor-service edge-gateway"

container() { compose ps --quiet "$1"; }
inspect() { docker inspect --format "$1" "$2"; }
# Waits for the health check of the container, and tells its last words when it fails.
gets_healthy() {
  local service=$1 from=$SECONDS id state=''
  while [ $((SECONDS - from)) -lt "$within" ]; do
    id=$(container "$service")
    state=$([ -z "$id" ] || inspect '{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}' "$id")
    if [ "$state" = "running healthy" ]; then return 0; fi
    sleep 0.5
  done
  say "  $service is '$state' after $within s; its last lines:"
  compose logs --tail 10 "$service" | sed 's/^/    /'
  return 1
}
# Replaces the container of one service by one of the given version.
replace() { MAINSTAY_VERSION=$2 compose up --detach --no-deps --no-build "$1" >/dev/null 2>&1; }

replaced=''
roll_back() {
  say ""
  say "error: $1"
  step "rolling back:${replaced:- nothing was replaced}"
  local service status=3
  for service in $replaced; do
    if replace "$service" previous && gets_healthy "$service"; then say "  $service is back"; else status=4; fi
  done
  [ $status -eq 3 ] || say "error: not every service came back; docker compose ps tells which"
  exit $status
}

step "looking around"
ensure_programs docker:docker.io: curl:curl:curl python3:python3:python3
docker info >/dev/null 2>&1 || fail "no Docker engine answers"
leave_out redis; leave_out postgres; leave_out monitor
use_stack compose
compose config --quiet || fail "the compose files do not hold"
for service in $order; do
  [ -n "$(container "$service")" ] || fail "$service does not run: start the stack first (docker compose up --detach)"
done
"$ROOT/scripts/health_check.sh" local || [ -n "$force" ] || fail "the stack is not healthy to begin with (--force goes on all the same)"
if [ -n "$smoke" ]; then
  # Before anything is changed: a check that cannot be run, or fails already, must not lead to a way back.
  "$ROOT/scripts/smoke_tests.sh" local || [ -n "$force" ] || fail "the smoke checks fail already (--without-smoke, --force)"
fi

step "images of version $version"
if [ -n "$build" ]; then
  revision=$(git rev-parse HEAD 2>/dev/null) || revision=unknown
  # shellcheck disable=SC2086
  MAINSTAY_VERSION=$version MAINSTAY_REVISION=$revision compose build $order
fi
declare -A image
for service in $order; do
  id=$(container "$service")
  image[$service]=$(inspect '{{.Config.Image}}' "$id")
  new=${image[$service]%:*}:$version
  docker image inspect "$new" >/dev/null 2>&1 || docker pull --quiet "$new" >/dev/null ||
    fail "$new is not here and cannot be pulled"
  say "  ${image[$service]} -> $new"
done

step "configuration, as the new version reads it"
for service in $order; do
  told=$(MAINSTAY_VERSION=$version compose run --rm --no-deps -T "$service" --check-config </dev/null 2>&1) ||
    fail "$service of version $version does not take its configuration: $told"
  say "  $service: ok"
done

if [ -n "$backup" ]; then
  step "backup"
  "$ROOT/scripts/backup.sh" compose --to "$backup" ${ASSUME_YES:+--yes}
fi
ask "replace the services of this stack by version $version?" || fail "nothing was changed"

for service in $order; do
  # The image that runs now, whatever its tag means by the time that we look for it.
  docker tag "$(inspect '{{.Image}}' "$(container "$service")")" "${image[$service]%:*}:previous"
done
for service in $order; do
  step "$service"
  replaced="$service $replaced"
  begun=$SECONDS
  replace "$service" "$version" || roll_back "$service of version $version cannot be started"
  gets_healthy "$service" || roll_back "$service of version $version did not get healthy"
  "$ROOT/scripts/health_check.sh" local --wait "$within" >/dev/null || roll_back "the stack is not healthy with $service of version $version"
  say "  healthy after $((SECONDS - begun)) s"
done

if [ -n "$smoke" ]; then
  step "smoke checks"
  "$ROOT/scripts/smoke_tests.sh" local || roll_back "the smoke checks fail with version $version"
fi
if grep -q '^MAINSTAY_VERSION=' .env; then
  sed -i "s/^MAINSTAY_VERSION=.*/MAINSTAY_VERSION=$version/" .env
else
  printf '\n# Written by scripts/deploy.sh.\nMAINSTAY_VERSION=%s\n' "$version" >>.env
fi
if [ -n "${MAINSTAY_PURGE_URL:-}" ]; then
  step "purge hook"
  if purge_pages "$version"; then say "  called"; else say "  failed: purge /dashboard, /docs and /openapi.json by hand"; fi
fi
say ""
say "version $version runs; the images before it are tagged 'previous'"
