#!/usr/bin/env bash
# buf as a judge of the proto files, and `buf curl` as a gRPC client that knows the server by its reflection alone.
# Alone: `bash tests/peers/buf.sh` after .ci/run installed things.
set -euo pipefail
. "$(dirname "$0")/server.sh"

echo "buf: lint and build"
buf lint "$repo/proto"
buf build "$repo/proto" -o "$temp/descriptors.binpb"

# rpc NAME REQUEST: through reflection, over HTTP/2 with prior knowledge.
rpc() {
  buf curl --protocol grpc --http2-prior-knowledge -d "$2" "$url/opencode.v1.OpenCodeService/$1"
}

# has FILE TEXT...: each is in the file.
has() {
  local file=$1
  shift
  for text in "$@"; do
    grep -qF -- "$text" "$file" || {
      echo "\"$text\" is not in the answer:" >&2
      tail -n 40 "$file" >&2
      return 1
    }
  done
}

serve
echo "buf curl: services, Health, GetSession"
buf curl --protocol grpc --http2-prior-knowledge --list-services "$url" >"$temp/services"
has "$temp/services" opencode.v1.OpenCodeService grpc.health.v1.Health
rpc Health '{}' >"$temp/health"
has "$temp/health" '"status": "HEALTH_STATUS_SERVING"' '"store": "ok"'
rpc GetSession '{}' >"$temp/session"
has "$temp/session" '"id": "ses_'

echo "buf curl: a whole turn of mock/demo by SendMessage"
rpc SendMessage '{"parts": [{"text": {"text": "hello"}}], "model": "mock/demo"}' >"$temp/turn"
has "$temp/turn" '"messageStarted"' '"contentDelta"' '"toolCallStarted"' '"toolCallCompleted"' '"messageCompleted"' \
  '"turnCompleted"' '"finishReason": "FINISH_REASON_END_TURN"'

echo "buf curl: errors are statuses with details"
# It exits with the status times 8: INVALID_ARGUMENT is 3, UNIMPLEMENTED is 12.
refused() {
  local wanted=$1 status=0
  shift
  rpc "$@" >/dev/null 2>"$temp/error" || status=$?
  [ "$status" = $((wanted * 8)) ] || {
    echo "$1 ended with $status and not with $((wanted * 8))" >&2
    cat "$temp/error" >&2
    return 1
  }
}
refused 3 SendMessage '{"parts": [], "model": "mock/demo"}'
has "$temp/error" google.rpc.ErrorInfo google.rpc.BadRequest
echo "buf: done"
