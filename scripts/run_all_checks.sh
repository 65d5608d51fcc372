#!/usr/bin/env bash
# Runs the smoke and the observability checks against a running stack: scripts/run_all_checks.sh [ENV] [--junit FILE] [--json FILE]
# ENV is a name of deploy/environments.toml (default local). AUTH_TOKEN is an API key or a JWT; for local it is found where
# scripts/up or docker compose left it. VERBOSE=1 tells details, NO_COLOR=1 leaves colours out. Exit code 1: a check failed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
run_checks all "$@"
