#!/usr/bin/env bash
# test_api.sh against the built server, twice, since it promises that it can be repeated.
# Alone: `bash tests/peers/smoke.sh`, which needs curl and nothing else.
set -euo pipefail
. "$(dirname "$0")/server.sh"

serve
bash "$repo/test_api.sh" "$url"
bash "$repo/test_api.sh" "$url" | tail -n 1
