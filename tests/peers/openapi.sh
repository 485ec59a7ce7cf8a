#!/usr/bin/env bash
# The OpenAPI document, judged by others: redocly lints it, schemathesis asks the server all that it promises, and two
# generators make clients of it that must compile. Alone: `bash tests/peers/openapi.sh` after .ci/run installed things.
set -euo pipefail
. "$(dirname "$0")/server.sh"

printf 'delay_ms: 0\nanswers:\n  - steps:\n      - text: "Hello there."\n' >"$temp/script.yaml"
serve OPENCODE_MODEL=mock/script OPENCODE_MOCK_SCRIPT="$temp/script.yaml"
cd "$temp"
curl -sSf "$url/openapi.json" -o openapi.json

echo "redocly: 0 errors"
REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true redocly lint --config "$peers/redocly.yaml" openapi.json

echo "openapi-typescript: generates and compiles"
openapi-typescript openapi.json --output client.d.ts
echo 'import type { operations } from "./client"; export type Health = operations["health"];' >use.ts
tsc --noEmit --strict --skipLibCheck false use.ts

echo "openapi-python-client: generates and compiles"
openapi-python-client generate --path openapi.json --output-path python_client --meta none
python -m compileall -q python_client
# It exits 0 and leaves out what it cannot read: each operation must have become a function.
for operation in $(sed -n 's/^ *"operationId": "\(.*\)".*/\1/p' openapi.json); do
  ls python_client/api/*/"$operation.py" >/dev/null || {
    echo "openapi-python-client made no function for $operation: see its warnings above" >&2
    exit 1
  }
done

echo "schemathesis: 0 failures"
# A fixed seed: what CI says must be the same tomorrow. Another one: SEED=2 bash tests/peers/openapi.sh
SCHEMATHESIS_HOOKS="$peers/schemathesis_hooks.py" schemathesis --config-file "$peers/schemathesis.toml" \
  run "$url/openapi.json" --phases examples,coverage,fuzzing --max-examples 40 --seed "${SEED:-1}"
