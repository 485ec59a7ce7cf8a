#!/usr/bin/env bash
# One server, one session: REST by curl, gRPC by buf curl and by grpcio, gRPC-Web by connect-node see the same.
# Alone: `bash tests/peers/one_session.sh` after .ci/run installed things.
set -euo pipefail
. "$(dirname "$0")/server.sh"
cd "$peers"

by_curl() { curl -sSf "$url/session" | python -c "import json,sys; s=json.load(sys.stdin); print(s['id'], s['message_count'])"; }
by_buf() {
  buf curl --protocol grpc --http2-prior-knowledge -d '{}' "$url/opencode.v1.OpenCodeService/GetSession" |
    python -c "import json,sys; s=json.load(sys.stdin)['session']; print(s['id'], s.get('messageCount', 0))"
}
by_grpcio() {
  # Without the folder of this script on the path: its grpcio.py is no package.
  ADDRESS=${url#http://} python -P - <<'PYTHON'
import os, grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase as Database
channel = grpc.insecure_channel(os.environ["ADDRESS"], [("grpc.enable_http_proxy", 0)])
service = descriptor_pool.DescriptorPool(Database(channel)).FindServiceByName("opencode.v1.OpenCodeService")
method = service.FindMethodByName("GetSession")
asked, answered = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
rpc = channel.unary_unary("/opencode.v1.OpenCodeService/GetSession", asked.SerializeToString, answered.FromString)
session = rpc(asked(), timeout=5).session
print(session.id, session.message_count)
PYTHON
}
by_connect() {
  buf build "$repo/proto" -o "$temp/descriptors.binpb"
  BASE=$url FILE=$temp/descriptors.binpb node --input-type=module - <<'JAVASCRIPT'
import { readFileSync } from 'node:fs';
import { createFileRegistry, fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { createClient } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-node';
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(process.env.FILE)));
const transport = createGrpcWebTransport({ baseUrl: process.env.BASE, httpVersion: '1.1' });
const { session } = await createClient(registry.getService('opencode.v1.OpenCodeService'), transport).getSession({});
console.log(session.id, String(session.messageCount));
process.exit();
JAVASCRIPT
}

compare() {
  local first
  first=$(by_curl)
  for client in by_buf by_grpcio by_connect; do
    local other
    other=$($client)
    [ "$first" = "$other" ] || {
      echo "by_curl sees the session $first, $client sees $other" >&2
      return 1
    }
  done
  echo "one session: curl, buf curl, grpcio and connect-node see $first"
}

# The first calls of all make one session, not four.
serve
first=()
for client in by_curl by_buf by_grpcio by_connect; do
  $client >/dev/null &
  first+=($!)
done
for pid in "${first[@]}"; do wait "$pid"; done
compare
curl -sSf -o "$temp/turn" -H 'Content-Type: application/json' -d '{"text":"hello","model":"mock/demo"}' "$url/messages"
grep -q '^event: turn_completed' "$temp/turn"
compare
