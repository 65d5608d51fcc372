#!/usr/bin/env bash
# Tells in one look how a stack is: scripts/health_check.sh [ENV] [--wait SECONDS]
# ENV is a name of deploy/environments.toml (default local). Exit code 0: healthy; 1: degraded or worse, or parts are
# missing; 2: no answer. --wait asks again until it is healthy, or the time is over. No credentials are needed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

environment=local within=0
while [ $# -gt 0 ]; do
  case "$1" in
    --wait) within=${2:?--wait takes seconds}; shift ;;
    --help | -h) sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    -*) fail "usage: scripts/health_check.sh [ENV] [--wait SECONDS]" ;;
    *) environment=$1 ;;
  esac
  shift
done
[[ $within =~ ^[0-9]+$ ]] || fail "--wait takes whole seconds"
ensure_programs curl:curl:curl python3:python3:python3
edge=${EDGE:-$(environment_edge "$environment")}

# Prints what /health/status says; returns as the script does.
look() {
  local answer
  answer=$(curl --silent --show-error --max-time 5 "$edge/health/status" 2>&1) || { say "$edge: no answer: $answer"; return 2; }
  python3 - "$edge" "$answer" <<'PYTHON'
import json, sys
edge, answer = sys.argv[1:]
try:
    status = json.loads(answer)
    state = status["status"]
except (ValueError, KeyError, TypeError):
    print(f"{edge}: not an answer of Mainstay: {answer[:200]}")
    sys.exit(2)
print(f"{edge}: {state}, version {status.get('version', '?')}")
for part in status.get("services", []):
    ready = "ready" if part["ready"] else "not ready"
    print(f"  {part['service']:16} {part['status']:10} {ready:10} {part.get('version') or '':8} {part['endpoint']}")
for reason in status.get("reasons", []):
    print(f"  {reason}")
sys.exit(0 if state == "healthy" else 1)
PYTHON
}

until=$((SECONDS + within))
while :; do
  code=0
  told=$(look) || code=$?
  if [ $code -eq 0 ] || [ $SECONDS -ge $until ]; then say "$told"; exit $code; fi
  sleep 1
done
