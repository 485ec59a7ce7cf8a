#!/usr/bin/env bash
# Asks a running server for every operation of its OpenAPI document, with curl, as a user would, and for some of them by
# gRPC and gRPC-Web: no key is needed, since the turns are those of mock/demo. It clears and resets the session: do not
# point it at one that you want to keep.
#
#     ./test_api.sh [BASE_URL]        default: BASE_URL, else http://127.0.0.1:8080
#
# GRPC_URL: where gRPC is, if that is elsewhere. TOKEN: a token with every scope, where the server asks for one.
set -uo pipefail

base=${1:-${BASE_URL:-http://127.0.0.1:8080}}
base=${base%/}
grpc_base=${GRPC_URL:-$base}
grpc_base=${grpc_base%/}
auth=()
[ -n "${TOKEN:-}" ] && auth=(-H "Authorization: Bearer $TOKEN")
passed=0
failed=0
checked=" "
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
body=$temp/body
head=$temp/head

# ask METHOD PATH [OPTION OF CURL...]: leaves $status, the file $body and the file $head.
ask() {
  local method=$1 path=$2
  shift 2
  status=$(curl -sS -m 60 -X "$method" -o "$body" -D "$head" -w '%{http_code}' "${auth[@]}" "$@" "$base$path" \
    2>"$temp/error") || status="$status ($(cat "$temp/error"))"
}

# call RPC TYPE [OPTION OF CURL...]: as ask, with the message in $temp/frame; trailers come into $head too.
call() {
  local rpc=$1 type=$2
  shift 2
  status=$(curl -sS -m 60 -o "$body" -D "$head" -w '%{http_code}' "${auth[@]}" -H "Content-Type: $type" -H 'TE: trailers' \
    --data-binary "@$temp/frame" "$@" "$grpc_base/opencode.v1.OpenCodeService/$rpc" 2>"$temp/error") ||
    status="$status ($(cat "$temp/error"))"
}

# told OPERATION SENTENCE: counts the check that came before it; 0 is passed.
told() {
  if [ "$1" = 0 ]; then
    passed=$((passed + 1))
    echo "ok      $2: $3"
  else
    failed=$((failed + 1))
    echo "FAILED  $2: $3"
    echo "        status $status, $(head -c 600 "$body" | tr '\n' ' ')"
  fi
  checked="$checked$2 "
}

# expect OPERATION SENTENCE STATUS [PATTERN...]: the status, and each pattern in the answer or its head.
expect() {
  local operation=$1 sentence=$2 wanted=$3 good=0
  shift 3
  [ "$status" = "$wanted" ] || good=1
  cat "$head" "$body" | tr -d '\r\0' >"$temp/all"
  for pattern in "$@"; do
    grep -aqE -- "$pattern" "$temp/all" || good=1
  done
  told "$good" "$operation" "$sentence"
}

# same OPERATION SENTENCE A B: two texts that have to be one, and not nothing.
same() {
  [ -n "$3" ] && [ "$3" = "$4" ]
  told $? "$1" "$2"
}

# field NAME: the first text of that name in the answer.
field() { grep -o "\"$1\":\"[^\"]*\"" "$body" | head -n 1 | cut -d '"' -f 4; }
json=(-H 'Content-Type: application/json')
page=(-H 'Accept: application/json')

if ! curl -sSf -m 10 -o /dev/null "$base/health"; then
  echo "nothing serves at $base; start it with: cargo run --release" >&2
  exit 1
fi

ask GET /health
expect health "serves" 200 '"status":"serving"' '"store":"ok"' '^x-request-id: .'
ask GET /livez
expect livez "lives" 200
ask GET /readyz
expect readyz "takes clients" 200
ask GET /metrics
expect metrics "tells the requests that have ended" 200 '^opencode_requests_total\{'
ask GET /openapi.json
expect document "is served" 200 '"openapi": ?"3\.1'
cp "$body" "$temp/openapi.json"
ask GET /docs/
expect document "Swagger UI is there" 200 'swagger'
ask GET /
expect document "the page is there" 200 '<html'
ask GET /no/such/path
expect document "an unknown path is a problem document" 404 '^content-type: application/problem\+json' '"code":"not_found"'
ask GET /capabilities
expect get_capabilities "tells features and limits" 200 '"features":\{' '"max_body_bytes":[0-9]+' '"sandbox":\{"kind":"'
if [ -n "${TOKEN:-}" ]; then
  status=$(curl -sS -m 60 -o "$body" -D "$head" -w '%{http_code}' "$base/session")
  expect document "nobody comes in without a token" 401 '^www-authenticate: Bearer' '"code":"unauthenticated"'
fi
ask PUT /health
expect document "a wrong method is told which are right" 405 '^allow: .*GET'

ask GET /session
expect get_session "is there" 200 '"id":"ses_' '^event-cursor: e'
session=$(field id)
ask GET /session
same get_session "is the same the second time" "$session" "$(field id)"
ask PATCH /session "${json[@]}" -d '{"title":"a smoke test"}'
expect update_session "changes the title" 200 '"title":"a smoke test"'
ask PATCH /session "${json[@]}" -d '{"titel":"x"}'
expect update_session "refuses an unknown field by name" 400 '"field":"titel"'

ask GET '/models?provider=mock'
expect list_models "has mock/demo, which needs no key" 200 '"id":"mock/demo"' '"available":true'
ask GET /agent/status
expect get_agent_status "tells its status" 200 '"status":"'
model_before=$(field model)
ask PUT /agent/model "${json[@]}" -d '{"model_id":"mock/demo"}'
expect set_model "takes mock/demo" 200 '"id":"mock/demo"'
ask PUT /agent/model "${json[@]}" -d '{"model_id":"mock/no-such-model"}'
expect set_model "refuses what is not known" 400 '"code":"invalid_argument"'

ask POST /messages "${json[@]}" -d '{"text":"hello from the smoke test"}'
expect send_message "streams a whole turn" 200 '^content-type: text/event-stream' '^event: turn_started' \
  '^event: content_delta' '^event: tool_call_completed' '^event: turn_completed' '"finish_reason":"end_turn"'
sed -n 's/^id: //p' "$body" | sed 1d >"$temp/ids"
turn=$(field turn_id)
message=$(grep -A 1 '^event: message_completed' "$body" | tail -n 1 | grep -o '"message_id":"[^"]*"' | cut -d '"' -f 4)
ask POST /messages "${json[@]}" "${page[@]}" -d '{"parts":[{"type":"text","text":"and as JSON"}],"model":"mock/demo"}'
expect send_message "answers at the end as JSON" 200 '"turn":\{' '"message":\{' '"finish_reason":"end_turn"'
ask POST /messages "${json[@]}" -d '{"parts":[]}'
expect send_message "refuses a message without parts" 400 '"field":"parts"'
ask POST /messages -H 'Content-Type: text/plain' -d 'hello'
expect send_message "refuses what is no JSON" 415 '"code":"unsupported_media_type"'
key=smoke-$$-$(date +%s)
ask POST /messages "${json[@]}" -H "Idempotency-Key: $key" -d '{"text":"once"}'
once=$(field turn_id)
ask POST /messages "${json[@]}" -H "Idempotency-Key: $key" -d '{"text":"once"}'
expect send_message "joins the turn of the same key" 200 '^idempotent-replayed: true' '^event: turn_completed' "$once"
ask POST /messages "${json[@]}" -H "Idempotency-Key: $key" -d '{"text":"twice"}'
expect send_message "takes a key for one request" 422 '"code":"idempotency_key_reused"'
ask POST /messages "${json[@]}" -H 'Prefer: respond-async' -d '{"text":"go on without me"}'
expect send_message "starts a turn and lets go" 202 '^location: /turns/turn_' '^preference-applied: respond-async'
running=$(field id)
ask POST /messages "${json[@]}" -d '{"text":"me too"}'
expect send_message "one turn at a time" 409 '"code":"agent_busy"' "$running"
ask POST /messages "${json[@]}" -H 'Prefer: respond-async' -d '{"text":"after you","when_busy":"queue"}'
expect send_message "queues" 202 '"status":"queued"'
queued=$(field id)
ask POST /agent/cancel "${json[@]}" -d "{\"turn_id\":\"$queued\"}"
expect cancel_agent "takes a queued turn out" 200 '"canceled":true' "\"turn_id\":\"$queued\""
ask POST /messages "${json[@]}" -d '{"text":"rather this","when_busy":"steer","turn_id":"turn_of_somebody_else"}'
expect send_message "steers no other turn than the one named" 409 '"code":"stale_turn"'
ask GET "/turns/$running"
expect get_turn "runs" 200 '"status":"running"'
ask POST /agent/cancel "${json[@]}" -d '{"turn_id":"turn_of_somebody_else"}'
expect cancel_agent "touches no other turn than the one named" 409 '"code":"stale_turn"'
ask POST /agent/cancel
expect cancel_agent "ends the turn" 200 '"canceled":true' "\"turn_id\":\"$running\""
ask POST /agent/cancel
expect cancel_agent "has nothing more to end" 200 '"canceled":false'
ask GET "/turns/$running?wait=5"
expect get_turn "was canceled" 200 '"status":"completed"' '"finish_reason":"canceled"'
ask GET /agent/processes
expect list_processes "lists the commands that run" 200 '"processes":\[' '"pagination":\{'
ask DELETE /agent/processes/proc_of_nobody
expect end_process "does not know what does not run" 404 '"code":"not_found"'
ask GET /session/ledger
expect list_ledger "has the calls" 200 '"calls":\[' '"pagination":\{'
ask GET /agent/permissions
expect list_permissions "lists what waits for an answer" 200 '"permissions":\[\]' '"pagination":\{'
ask POST /agent/permissions/evaluate "${json[@]}" -d '{"tool_name":"bash","input":{"command":"ls | wc -l"}}'
expect evaluate_permission "says what would become of a call" 200 '"verdict":"allow"'
ask POST /agent/permissions/perm_of_nobody "${json[@]}" -d '{"decision":"allow_once"}'
if [ -n "${TOKEN:-}" ]; then
  expect reply_permission "does not know what was not asked" 404 '"code":"not_found"'
else
  expect reply_permission "takes the reply token" 403 '"code":"permission_denied"'
fi
ask GET /agent/status
expect get_agent_status "is idle again" 200 '"status":"idle"' '"last_turn":\{'

ask GET '/events?after=0&limit=2' "${page[@]}"
expect stream_events "comes in pages" 200 '"events":\[' '"has_more":true' '"next":"e'
ask GET "/events?after=0&turn_id=$turn"
expect stream_events "tells a turn again, and ends with it" 200 '^event: turn_completed'
same stream_events "with the ids that POST /messages had" "$(cat "$temp/ids")" "$(sed -n 's/^id: //p' "$body" | sed 1d)"
ask GET "/events?turn_id=$turn" -H "Last-Event-ID: $(sed -n 5p "$temp/ids")"
same stream_events "goes on after Last-Event-ID" "$(sed 1,5d "$temp/ids")" "$(sed -n 's/^id: //p' "$body" | sed 1d)"
ask GET '/events?types=no_such_type'
expect stream_events "refuses a type that is not known" 400 '"code":"invalid_argument"'
# This one has no end: two seconds are enough to see that it streams.
curl -sN -m 2 -o "$body" -D "$head" "${auth[@]}" "$base/messages/stream?after=0" 2>/dev/null
status=$(head -n 1 "$head" | cut -d ' ' -f 2)
expect stream_messages "follows whole messages" 200 '^content-type: text/event-stream' '^event: message_created'
! grep -q '^event: content_delta' "$body"
told $? stream_messages "and no deltas"

ask GET '/messages?limit=2'
expect list_messages "pages" 200 '"has_more":true' '"next_cursor":"' '"as_of":"e'
first=$(field id)
ask GET "/messages?limit=2&cursor=$(field next_cursor)"
expect list_messages "has a second page" 200 '"messages":\[\{'
[ "$first" != "$(field id)" ]
told $? list_messages "which is another"
ask GET '/messages?role=user&order=desc'
expect list_messages "filters by role" 200 '"role":"user"'
! grep -q '"role":"assistant"' "$body"
told $? list_messages "and leaves the others out"
ask GET '/messages?limit=201'
expect list_messages "refuses a limit that is too large" 400 '"field":"limit"'
ask GET "/messages/$message"
expect get_message "gives one" 200 "\"id\":\"$message\""
ask GET /messages/msg_no_such_message
expect get_message "or says that there is none" 404 '"code":"not_found"'
ask GET "/turns/$turn"
said=$(field user_message_id)
ask GET "/messages/$said/parts/0"
expect get_message_part "gives the bytes" 200 '^content-type: text/plain' '^hello from the smoke test$'
ask GET "/messages/$said/parts/99"
expect get_message_part "or says that there are none" 404 '"code":"not_found"'
ask GET '/turns?limit=1'
expect list_turns "has the newest first" 200 "\"id\":\"$queued\""
ask GET "/turns/$turn"
expect get_turn "knows how it ended" 200 '"finish_reason":"end_turn"' '"usage":\{'
ask GET /turns/turn_no_such_turn
expect get_turn "or says that there is none" 404 '"code":"not_found"'
ask GET /session/stats
expect get_session_stats "counts" 200 '"user_messages":[1-9]' '"assistant_messages":[1-9]' '"mock/demo"'

file=smoke-test-$$/a.txt
ask PUT "/files/$file" "${json[@]}" -d '{"content":"one\n","create_dirs":true}'
expect write_file "makes a file and its directory" 201 '"size":4' '^etag: "'
tag=$(field etag)
ask PUT "/files/$file" "${json[@]}" -H 'If-None-Match: *' -d '{"content":"two\n"}'
expect write_file "keeps what is there if told so" 412 '"code":"precondition_failed"'
ask PUT '/files/../outside.txt' --path-as-is "${json[@]}" -d '{"content":"x"}'
expect write_file "stays in the workspace" 403 '"code":"permission_denied"'
ask GET "/files/$file"
expect read_file "reads it" 200 '"content":"one\\n"' '"encoding":"utf-8"'
ask GET '/files?recursive=true&patterns=smoke-test-*/a.txt'
expect list_files "lists it" 200 "\"path\":\"$file\""
ask GET /files/versions
expect list_versions "has a version of it" 200 '"cause":"write"'
version=$(grep -oE '"id":"v[0-9]+"' "$body" | head -n 1 | cut -d '"' -f 4)
ask PUT "/raw/$file" -H "If-Match: \"$tag\"" -d 'three'
expect write_raw "replaces the bytes that were read" 200 '"size":5'
ask GET "/raw/$file" -H 'Range: bytes=1-2'
expect read_raw "gives a piece" 206 '^content-range: bytes 1-2/5' '^hr$'
status=$(curl -sS -I -m 60 -o "$head" -w '%{http_code}' "${auth[@]}" "$base/raw/$file")
: >"$body"
expect head_raw "tells size and tag" 200 '^content-length: 5' '^etag: "'
ask GET "/files/changes?since_version=$version"
expect get_file_changes "tells what changed since" 200 "\"path\":\"$file\"" '"type":"modified"' '"by":"write"' '-one'
ask GET "/files/changes?since_version=$version" -H 'Accept: text/x-diff'
expect get_file_changes "as a patch" 200 '^content-type: text/x-diff' '^-one$' '^\+three$'
ask POST /files/revert "${json[@]}" -d "{\"version\":\"$version\",\"paths\":[\"$file\"]}"
expect revert_files "brings it back" 200 '"version_after":"v' "\"path\":\"$file\""
ask GET "/raw/$file"
expect read_raw "as it was" 200 '^one$'
ask DELETE "/raw/$file"
expect delete_raw "deletes it" 204
ask DELETE "/files/${file%/*}"
expect delete_file "and its directory" 204
ask GET "/files/$file"
expect read_file "which is gone" 404 '"code":"not_found"'

ask PUT "/files/$file" "${json[@]}" -d '{"content":"by a link\n","create_dirs":true}'
ask POST /tickets "${json[@]}" -d "{\"path\":\"/raw/$file\"}"
expect create_ticket "makes one for a path" 200 '"ticket":"' '"expires_at":"'
status=$(curl -sS -m 60 -o "$body" -D "$head" -w '%{http_code}' "$base/raw/$file?ticket=$(field ticket)")
expect create_ticket "which is a link that needs no header" 200 '^by a link$'
ask DELETE "/files/${file%/*}?recursive=true"

# gRPC over HTTP/2 with prior knowledge, and gRPC-Web: a message is a flag, four bytes of its length, and itself.
printf '\0\0\0\0\0' >"$temp/frame"
call GetSession application/grpc --http2-prior-knowledge
expect get_session "by gRPC" 200 '^content-type: application/grpc' '^grpc-status: 0' "$session"
call GetSession application/grpc-web+proto --http1.1
expect get_session "by gRPC-Web" 200 'grpc-status: ?0' "$session"
call ListModels application/grpc-web-text --http1.1
expect list_models "takes no base64 that is none" 200 'grpc-status: ?[1-9]'
# parts {text {text: "hi"}}, model: "mock/demo"
printf '\0\0\0\0\023\012\006\012\004\012\002hi\032\011mock/demo' >"$temp/frame"
call SendMessage application/grpc --http2-prior-knowledge
expect send_message "streams a turn by gRPC" 200 '^grpc-status: 0' 'model'
call SendMessage application/grpc-web+proto --http1.1
expect send_message "streams a turn by gRPC-Web" 200 'grpc-status: ?0' 'model'
# turn_id: "x"
printf '\0\0\0\0\003\012\001x' >"$temp/frame"
call GetTurn application/grpc --http2-prior-knowledge
expect get_turn "is NOT_FOUND in gRPC" 200 '^grpc-status: 5' '^grpc-message: ' '^grpc-status-details-bin: '
if [ -n "${TOKEN:-}" ]; then
  own=("${auth[@]}") auth=(-H 'Authorization: Bearer none-of-the-tokens')
  call GetTurn application/grpc --http2-prior-knowledge
  auth=("${own[@]}")
  expect get_turn "is UNAUTHENTICATED with a wrong token" 200 '^grpc-status: 16'
fi

ask DELETE /messages
expect clear_messages "clears" 204
ask GET /messages
expect list_messages "is empty then" 200 '"messages":\[\]'
ask POST /session/reset "${json[@]}" -d '{"title":"a new one"}'
expect reset_session "makes a new session" 200 '"title":"a new one"'
[ -n "$session" ] && [ "$session" != "$(field id)" ]
told $? reset_session "with an id of its own"
if [ -n "$model_before" ] && [ "$model_before" != mock/demo ]; then
  ask PUT /agent/model "${json[@]}" -d "{\"model_id\":\"$model_before\"}"
  expect set_model "has the model of before again" 200
fi

# What the document names has to be asked here.
for operation in $(grep -oE '"operationId": ?"[^"]*"' "$temp/openapi.json" | cut -d '"' -f 4); do
  case $checked in
  *" $operation "*) ;;
  *)
    failed=$((failed + 1))
    echo "FAILED  $operation: is in /openapi.json, but no check of test_api.sh asks for it"
    ;;
  esac
done

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
