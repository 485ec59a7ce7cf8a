#!/usr/bin/env bash
# The server behind Debian's nginx, with the very block of the README: SSE is live, gRPC and gRPC-Web work, and after nginx
# was restarted Last-Event-ID gives exactly the rest. Alone: `bash tests/peers/nginx.sh` after .ci/run installed things.
set -euo pipefail
. "$(dirname "$0")/server.sh"

host=agent.example.com
token=a-token-behind-nginx
cat >"$temp/script.yaml" <<'YAML'
delay_ms: 100
answers:
  - steps: [{text: one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen}]
YAML
serve OPENCODE_API_TOKEN="$token" OPENCODE_TRUST_PROXY=true OPENCODE_MOCK_SCRIPT="$temp/script.yaml" OPENCODE_MODEL=mock/script
direct=$url

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$host" -addext "subjectAltName=DNS:$host,IP:127.0.0.1" \
  -keyout "$temp/agent.key" -out "$temp/agent.pem" 2>"$temp/openssl.log"
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# Only where it listens, where the server is and where the certificate lies are not as the README has them.
awk '/^```nginx$/ { on = 1; next } /^```$/ { on = 0 } on' "$repo/README.md" |
  sed "s#listen 443 ssl#listen 127.0.0.1:$port ssl#; s#://127.0.0.1:8080;#://${direct#http://};#; s#/etc/ssl/agent#$temp/agent#" \
    >"$temp/site.conf"
[ "$(grep -cE "listen 127.0.0.1:$port ssl http2;|_pass .*://${direct#http://};" "$temp/site.conf")" = 3 ]
{
  # The folder is root's alone where root runs this.
  [ "$(id -u)" != 0 ] || echo "user root;"
  echo "daemon off; pid $temp/nginx.pid; worker_processes 1; error_log $temp/nginx.log;"
  echo "events {}"
  echo "http {"
  echo "  access_log off;"
  for kind in client_body proxy fastcgi uwsgi scgi; do echo "  ${kind}_temp_path $temp/$kind;"; done
  echo "  include $temp/site.conf;"
  echo "}"
} >"$temp/nginx.conf"

# proxy: starts nginx and waits until it listens. Its process is the last of $pids.
proxy() {
  nginx -p "$temp" -c "$temp/nginx.conf" -e "$temp/nginx.log" &
  pids+=($!)
  for _ in $(seq 100); do
    ! ask /health -o "$temp/health" 2>"$temp/error" || return 0
    sleep 0.05
  done
  cat "$temp/error" >&2
  return 1
}
ask() {
  local path=$1
  shift
  curl -sSfN -m 60 --cacert "$temp/agent.pem" --resolve "$host:$port:127.0.0.1" -H "Authorization: Bearer $token" "$@" \
    "https://$host:$port$path"
}
has() {
  grep -qF -- "$2" "$1" || {
    echo "\"$2\" is not in the answer:" >&2
    tail -n 40 "$1" >&2
    return 1
  }
}
# live FILE FIRST LAST: the line that has FIRST has come a second before the one that has LAST.
timed() { while IFS= read -r line; do printf '%s %s\n' "${EPOCHREALTIME/./}" "$line"; done; }
live() {
  awk -v first="$2" -v last="$3" 'index($0, first) && !a { a = $1 } index($0, last) { b = $1 }
    END { exit !(a && b - a > 1000000) }' "$1" || {
    echo "\"$2\" did not come a second before \"$3\":" >&2
    head -n 40 "$1" >&2
    return 1
  }
}
proxy

for version in --http1.1 --http2; do
  echo "nginx: SSE over ${version#--}: the first word comes long before the last"
  ask /messages "$version" -H 'Content-Type: application/json' -d '{"text": "hello"}' | timed >"$temp/sse"
  live "$temp/sse" 'event: content_delta' 'event: turn_completed'
done

echo "nginx: a page of this host may ask, one of another host may not"
ask /session -H "Origin: https://$host:$port" >"$temp/session"
has "$temp/session" '"id":"ses_'
ask /session -H 'Origin: https://elsewhere.example' 2>/dev/null && { echo "a page from elsewhere was answered" >&2; exit 1; }

echo "nginx: a file larger than nginx's own limit goes in and comes out"
head -c 3000000 /dev/urandom >"$temp/large"
ask /raw/large -T "$temp/large" >"$temp/put"
ask /raw/large | cmp - "$temp/large"

message='{"parts": [{"text": {"text": "hello"}}]}'
for protocol in grpc grpcweb; do
  echo "nginx: $protocol, live"
  buf curl --protocol "$protocol" --cacert "$temp/agent.pem" --schema "$repo/proto" -H "Authorization: Bearer $token" \
    -d "$message" "https://127.0.0.1:$port/opencode.v1.OpenCodeService/SendMessage" | timed >"$temp/$protocol"
  live "$temp/$protocol" '"contentDelta"' '"turnCompleted"'
done

echo "nginx: gRPC by grpcio, with health, reflection, and the details of an error"
ADDRESS=127.0.0.1:$port CERTIFICATE=$temp/agent.pem TOKEN=$token python -P - <<'PYTHON'
import os, grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase as Database
from grpc_status import rpc_status
with open(os.environ["CERTIFICATE"], "rb") as file:
    transport = grpc.ssl_channel_credentials(file.read())
bearer = grpc.access_token_call_credentials(os.environ["TOKEN"])
channel = grpc.secure_channel(os.environ["ADDRESS"], grpc.composite_channel_credentials(transport, bearer),
                              [("grpc.enable_http_proxy", 0)])
assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
service = descriptor_pool.DescriptorPool(Database(channel)).FindServiceByName("opencode.v1.OpenCodeService")
def rpc(name, **fields):
    method = service.FindMethodByName(name)
    asked, answered = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = kind(f"/{service.full_name}/{name}", asked.SerializeToString, answered.FromString)
    return call(asked(**fields), timeout=20)
assert rpc("GetSession").session.id.startswith("ses_")
try:
    list(rpc("SendMessage", parts=[], model="mock/demo"))
    raise SystemExit("a message without parts was taken")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    assert rpc_status.from_call(error).details, "the details of the error are lost"
PYTHON

echo "nginx: after its restart Last-Event-ID gives exactly the rest"
ids() { sed -n 's/^id: //p' "$1"; }
ask '/events?after=0' -o "$temp/followed" 2>"$temp/error" &
follower=$!
ask /messages -H 'Content-Type: application/json' -H 'Prefer: respond-async' -d '{"text": "cut"}' >"$temp/started"
turn=$(grep -o '"turn_[^"]*"' "$temp/started" | head -n 1 | tr -d '"')
# In the middle of the turn: some of its words have come.
for _ in $(seq 200); do
  [ "$(grep -c "content_delta.*$turn\|$turn.*content_delta" "$temp/followed")" -lt 4 ] || break
  sleep 0.05
done
kill "${pids[-1]}"
wait "${pids[-1]}"
unset 'pids[-1]'
! wait "$follower" || { echo "the stream ended well though nginx was stopped" >&2; exit 1; }
! grep -q "turn_completed.*$turn" "$temp/followed" || { echo "the turn had ended before" >&2; exit 1; }
proxy
last=$(ids "$temp/followed" | tail -n 1)
ask "/turns/$turn?wait=20" >"$temp/ended"
has "$temp/ended" '"finish_reason":"end_turn"'
timeout 3 curl -sN "$direct/events?after=0" -H "Authorization: Bearer $token" >"$temp/all" || true
ask /events -m 3 -H "Last-Event-ID: $last" >"$temp/rest" 2>"$temp/error" || true
ids "$temp/all" | sed "1,/^$last\$/d" | uniq >"$temp/wanted"
[ "$(wc -l <"$temp/wanted")" -ge 3 ]
# The first id of a stream says where it starts: no event has it.
ids "$temp/rest" | sed 1d | uniq | cmp - "$temp/wanted"
has "$temp/rest" 'event: turn_completed'
echo "nginx: done"
