#!/usr/bin/env bash
# test_api.sh against the built server, twice, since it promises that it can be repeated, and once with a token.
# Alone: `bash tests/peers/smoke.sh`, which needs curl and nothing else.
set -euo pipefail
. "$(dirname "$0")/server.sh"

serve
# The session need not be its own.
curl -sS -o "$temp/before" -H 'Content-Type: application/json' -d '{"text": "Of somebody else.", "model": "mock/demo"}' "$url/messages"
bash "$repo/test_api.sh" "$url"
bash "$repo/test_api.sh" "$url" | tail -n 1
serve OPENCODE_API_TOKEN=a-token-of-the-smoke-test
BASE_URL=$url TOKEN=a-token-of-the-smoke-test bash "$repo/test_api.sh" | grep -v "^ok"
