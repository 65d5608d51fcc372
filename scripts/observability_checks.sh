#!/usr/bin/env bash
# Looks at every figure that a running stack tells: is it there, true, consistent and quick, and do alerts come: scripts/observability_checks.sh [ENV] [--junit FILE] [--json FILE]
# ENV is a name of deploy/environments.toml (default local). AUTH_TOKEN is an API key or a JWT; for local it is found where
# scripts/up or docker compose left it. VERBOSE=1 tells details, NO_COLOR=1 leaves colours out. Exit code 1: a check failed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
run_checks observability "$@"
