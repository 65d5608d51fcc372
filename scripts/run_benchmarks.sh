#!/usr/bin/env bash
# Prints the numbers the house is built for: start to listening, idle memory, start and stop of the whole stack; what
# the edge adds to a call, and what 500 watchers and 10,000 slow connections cost it; what 10,000 WebSocket connections
# and their deliveries cost, beside other servers in the same run where they are installed, and 100,000 over six gateways;
# what a monitor of 10,000 series and 1,000 rules costs, with an hour in memory and a day on disk; what replica-service costs beside
# PostgreSQL alone; what a read of the cache costs beside an empty tonic handler, redis-server, quick_cache and fred;
# and what a failover of Redis costs the writes. --short makes the long ones short; --cache leaves all but the
# cache out.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
SHORT=() ONLY_CACHE=
for argument in "$@"; do
  case "$argument" in
    --yes) ASSUME_YES=1 ;;
    --short) SHORT=(--short) ;;
    --cache) ONLY_CACHE=1 ;;
    *) fail "takes --yes, --short and --cache, was given $argument" ;;
  esac
done
ensure_rust
# shellcheck disable=SC2086
ensure_programs $NEEDED_ALWAYS $NEEDED_REDIS $NEEDED_POSTGRES
step "building in release"
cargo build --locked --release --workspace --bins
if [ -z "$ONLY_CACHE" ]; then
  step "measuring"
  "$ROOT/target/release/bench-stack"
  "$ROOT/target/release/bench-edge"
  "$ROOT/target/release/bench-ws"
  "$ROOT/target/release/bench-ws" --channels 1000 "${SHORT[@]}"
  "$ROOT/target/release/bench-ws" --storm "${SHORT[@]}"
  "$ROOT/target/release/bench-ws" --nodes 6 "${SHORT[@]}"
  if command -v npm >/dev/null; then
    (cd tests/load/peers && npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts) || true
  fi
  "$ROOT/target/release/bench-peers" "${SHORT[@]}"
  "$ROOT/target/release/bench-monitor" "${SHORT[@]}"
  "$ROOT/target/release/bench-replica"
fi
step "measuring the cache, then its engine alone"
"$ROOT/target/release/bench-cache"
cargo bench --locked --workspace --bench engine
step "measuring what a long churn makes of the memory of the cache"
"$ROOT/target/release/bench-churn" "${SHORT[@]}"
step "measuring the failover contract"
exec "$ROOT/target/release/bench-failover"
