#!/usr/bin/env bash
# Tells what a running stack does under load, through its edge: scripts/load_test.sh [ENV] [--seconds N] [--junit FILE] [--json FILE]
# ENV is a name of deploy/environments.toml (default local) that allows changes: it writes 100 cache keys and publishes into the
# channel `checks`. Each of its checks lasts N seconds (default 10). AUTH_TOKEN is an API key or a JWT; for local it is found where
# scripts/up or docker compose left it. Exit code 1: an answer failed, or half of them took too long.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
run_checks load "$@"
