#!/usr/bin/env bash
# Mainstay with curl: cache, database, publishing. EDGE and API_KEY say where and as whom.
set -euo pipefail
: "${EDGE:?http://127.0.0.1:4000}" "${API_KEY:?an API key of role admin}"
call() { curl --silent --show-error --fail --header "x-api-key: $API_KEY" "$@"; }
json='content-type: application/json'

# --- cache: store with a ttl, read, see where the answer came from, delete
call -X PUT -H 'content-type: text/plain' -H 'x-cache-ttl: 5m' --data 'hello' "$EDGE/cache/quickstart/curl"
echo
call --dump-header - "$EDGE/cache/quickstart/curl" | grep -i '^x-cache:\|hello'
call -X DELETE "$EDGE/cache/quickstart/curl"
echo

# --- database: values are parameters, never part of the text; a read goes to a replica
# shellcheck disable=SC2016
call -X POST -H "$json" --data '{"sql":"select $1::int + 1 as next","params":[41]}' "$EDGE/database/query"
echo

# --- realtime: everybody who listens to the channel gets it
call -X POST -H "$json" --data '{"channel":"news","data":{"from":"curl"}}' "$EDGE/realtime/publish"
echo
