# shellcheck shell=bash disable=SC2034
# Shared by the scripts of this folder: finding and installing what a machine needs. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ASSUME_YES=${ASSUME_YES:-}
# Where scripts/up keeps data and logs unless told otherwise: PostgreSQL must be able to walk there, so not in a home.
UP_DIR=${TMPDIR:-/tmp}/mainstay-up-$(id -u)

# Programs that must be on the machine, each with the Debian and the Homebrew package that brings it.
NEEDED_ALWAYS="cc:gcc:"
NEEDED_REDIS="redis-server:redis-server:redis redis-sentinel:redis-sentinel:redis"
# Python with the module that makes virtual environments.
NEEDED_PYTHON="python3:python3-venv:python@3"
SCHEMATHESIS=4.32.5
NEEDED_BROWSER="chromium:chromium:chromium"
# What scripts/backup.sh works with, and its test.
NEEDED_BACKUP="redis-cli:redis-tools:redis redis-check-rdb:redis-tools:redis pg_restore:postgresql-client:libpq sqlite3:sqlite3:sqlite"
# What monitor-service reads in its tests, and what checks our rules.
NEEDED_PROMETHEUS="prometheus:prometheus:prometheus promtool:prometheus:prometheus"
# What gives a server a wrong clock in tests.
NEEDED_CLOCKS="faketime:faketime:libfaketime"
NEEDED_POSTGRES="initdb:postgresql:postgresql@17 pgbouncer:pgbouncer:pgbouncer"

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
step() { printf '\n== %s\n' "$*"; }

# Tells whether a program is there, also where Debian keeps PostgreSQL's.
has_program() {
  command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null ||
    compgen -G "/opt/homebrew/opt/postgresql@*/bin/$1" >/dev/null || compgen -G "/usr/local/opt/postgresql@*/bin/$1" >/dev/null
}

ask() {
  [ -n "$ASSUME_YES" ] && return 0
  [ -t 0 ] || fail "$1 needs an answer, and there is no terminal: run again with --yes"
  printf '%s [Y/n] ' "$1"
  local answer
  read -r answer
  case "$answer" in "" | y | Y | yes) return 0 ;; *) return 1 ;; esac
}

# Installs the packages behind the given program:debian:homebrew triples that are missing.
ensure_programs() {
  local triple program debian brew missing=() apt=() brews=()
  for triple in "$@"; do
    IFS=: read -r program debian brew <<<"$triple"
    has_program "$program" && continue
    missing+=("$program")
    apt+=("$debian")
    [ -n "$brew" ] && brews+=("$brew")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if command -v apt-get >/dev/null 2>&1; then
    install_with_apt "${missing[*]}" "${apt[@]}"
  elif command -v brew >/dev/null 2>&1; then
    ask "missing: ${missing[*]}; run 'brew install ${brews[*]}'?" || fail "install them, then run this again"
    brew install "${brews[@]}"
  else
    fail "missing: ${missing[*]}; install the packages that bring them, then run this again"
  fi
}

# Debian starts a server as soon as its package is in. These are tools for us, so the start is refused while they
# install, and they are not enabled at boot.
install_with_apt() {
  local wanted=$1 policy=/usr/sbin/policy-rc.d sudo=() made_policy=
  shift
  ask "missing: $wanted; run 'apt-get install -y $*'?" || fail "run: apt-get install -y $*"
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  step "installing $*"
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
    "${sudo[@]}" chmod +x "$policy"
    made_policy=1
  fi
  local status=0
  "${sudo[@]}" apt-get update -q && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@" || status=$?
  [ -n "$made_policy" ] && "${sudo[@]}" rm -f "$policy"
  [ $status -eq 0 ] || fail "apt-get could not install: $*"
  if [ -d /run/systemd/system ]; then
    for unit in redis-server redis-sentinel postgresql pgbouncer; do
      case " $* " in *"$unit"*) "${sudo[@]}" systemctl disable --quiet "$unit" 2>/dev/null || true ;; esac
    done
  fi
}

ensure_rust() {
  command -v cargo >/dev/null 2>&1 && return 0
  [ -x "$HOME/.cargo/bin/cargo" ] && export PATH="$HOME/.cargo/bin:$PATH" && return 0
  fail "Rust is missing: install it from https://rustup.rs (rust-toolchain.toml names the version), then run this again"
}

# Prints where the program of this name was built last, if it was.
built() {
  local release=$ROOT/target/release/$1 debug=$ROOT/target/debug/$1
  if [ -x "$debug" ] && [ ! "$release" -nt "$debug" ]; then printf '%s' "$debug"; elif [ -x "$release" ]; then printf '%s' "$release"; fi
}

# Runs mainstay-checks: run_checks SUITE [ENV] [OPTION...]. Finds the API key of a local stack unless AUTH_TOKEN is set.
run_checks() {
  local suite=$1 environment=local
  shift
  if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    environment=$1
    shift
  fi
  if [ -z "${AUTH_TOKEN:-}" ] && [ "$environment" = local ]; then
    AUTH_TOKEN=$(local_api_key)
    export AUTH_TOKEN
  fi
  local program
  program=$(built mainstay-checks)
  if [ -z "$program" ] || [ -n "$(find "$ROOT/tests/checks" "$ROOT/tests/load/pace.rs" -newer "$program" -print -quit)" ]; then
    ensure_rust
    say "building the checks"
    (cd "$ROOT" && cargo build --locked --release --quiet -p mainstay-tests --bin mainstay-checks)
    program=$ROOT/target/release/mainstay-checks
  fi
  cd "$ROOT" || fail "cannot enter $ROOT"
  exec "$program" "$suite" --env "$environment" "$@"
}

# Prints the address of the edge of an environment of deploy/environments.toml.
environment_edge() {
  local edge
  edge=$(sed -n "/^\[$1\]/,/^\[/s/^edge = \"\(.*\)\"/\1/p" "$ROOT/deploy/environments.toml")
  [ -n "$edge" ] || fail "no environment $1 in deploy/environments.toml"
  printf '%s' "$edge"
}

# Prints the admin key of the stack that scripts/up or docker compose started here, if there is one.
local_api_key() {
  if [ -r "$UP_DIR/endpoints.json" ]; then
    sed -n 's/^ *"admin": "\([^"]*\)",*$/\1/p' "$UP_DIR/endpoints.json" | head -1
  elif command -v docker-compose >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
    (cd "$ROOT" && docker-compose run --rm secrets show 2>/dev/null | sed -n 's/^admin *//p')
  fi
}

# Tells a CDN in front of the edge that a new version runs: POST to MAINSTAY_PURGE_URL, if it is set, with the pages that are
# asked for anew; hashed assets stay good for ever. MAINSTAY_PURGE_HEADER is one more header, like `Authorization: Bearer ...`.
purge_pages() {
  [ -n "${MAINSTAY_PURGE_URL:-}" ] || return 0
  # By standard input: arguments of a program are seen by everybody on this machine.
  {
    printf 'url = "%s"\n' "$MAINSTAY_PURGE_URL"
    printf 'header = "content-type: application/json"\n'
    if [ -n "${MAINSTAY_PURGE_HEADER:-}" ]; then printf 'header = "%s"\n' "$MAINSTAY_PURGE_HEADER"; fi
  } | curl --config - --silent --show-error --fail --output /dev/null --max-time 10 --retry 2 --request POST \
    --data "{\"version\":\"$1\",\"paths\":[\"/dashboard\",\"/docs\",\"/openapi.json\"]}"
}
