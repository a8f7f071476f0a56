#!/usr/bin/env bash
# Schemathesis against real replicas: every documented path, with generated requests, must answer as the OpenAPI document says.
#   tests/schemathesis.sh EXOFED [EXAMPLES]
# Needs schemathesis in the path (pip install schemathesis).
set -euo pipefail
exofed=$(realpath "$1")
examples=${2:-100}
config=$(realpath "$(dirname "$0")/schemathesis.toml")
export no_proxy=127.0.0.1 NO_PROXY=127.0.0.1

dir=$(mktemp -d)
replicas=()
stop() {
  for pid in "${replicas[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$dir"
}
trap stop EXIT
cd "$dir"

"$exofed" init fed --base-port 0 --gateway >/dev/null
# One replica as it is by default, one where nothing is open without a token.
echo 'anonymous_reads = "never"' >> fed/replica-1/replica.toml
for k in 0 1 2 3; do
  "$exofed" serve --json --config "fed/replica-$k/replica.toml" > "ready-$k" 2> "log-$k" &
  replicas+=($!)
done
for k in 0 1 2 3; do
  for _ in $(seq 300); do [ -s "ready-$k" ] && break; sleep 0.1; done
done
url_of() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["http"])' "ready-$1"; }

for k in 0 1; do
  url=$(url_of "$k")
  for _ in $(seq 300); do curl -sf "$url/readyz" >/dev/null && break; sleep 0.1; done
  token=$("$exofed" token add generated --config "fed/replica-$k/replica.toml" 2>/dev/null)
  # Something to be found.
  curl -sf "$url/v1/updates" -H "Authorization: Bearer $token" -H 'Content-Type: application/json' -d "[{\"data\":\"a\"},{\"data\":\"b\"}]" >/dev/null
  # `all` of the checks; the server's refusals of an unknown token are among them.
  schemathesis --config-file "$config" run "$url/v1/openapi.json" --header "Authorization: Bearer $token" --checks all --max-examples "$examples" \
    --continue-on-failure --request-timeout 30 --no-color --warnings off
done
