#!/usr/bin/env bash
# The README's promises, by its own commands: each block of `sh` that asks a server is run against one that is started
# here. Then a kill -9 in the middle of a turn: after the restart Last-Event-ID gives exactly the rest.
# Alone: `bash tests/peers/readme.sh` after .ci/run installed things.
set -euo pipefail
. "$(dirname "$0")/server.sh"

# What the README's commands have in variables.
export TOKEN=a-token-of-the-readme REPLY_TOKEN=a-reply-token-of-the-readme SERVER ID=
kept=(OPENCODE_WORKSPACE="$temp/workspace" OPENCODE_DATA_DIR="$temp/data" OPENCODE_REPLY_TOKEN="$REPLY_TOKEN"
  OPENCODE_MOCK_SCRIPT="$temp/script.yaml")
cat >"$temp/script.yaml" <<'YAML'
delay_ms: 0
answers:
  - match: ask
    steps:
      - tool_calls: [{name: bash, input: {command: "touch asked"}}]
  - match: ask
    steps: [{text: Done.}]
YAML
serve "${kept[@]}"
SERVER=$url

# Every `sh` block goes into a file of its own; both listeners of the README are the one that is there.
mkdir "$temp/blocks" "$temp/here"
awk -v folder="$temp/blocks" '/^```sh$/ { on = 1; n++; next } /^```$/ { on = 0 } on { print > sprintf("%s/%02d", folder, n) }' \
  "$repo/README.md"
asked=0
for block in "$temp"/blocks/*; do
  # Blocks that build, start, need a key or an engine are not about this server.
  grep -qE '127\.0\.0\.1:808[01]|\$SERVER' "$block" && ! grep -qE 'cargo|API_KEY|docker' "$block" || continue
  sed -E -i "s#http://127\.0\.0\.1:808[01]#$url#g" "$block"
  echo "readme: $(tr -s '\\\n ' ' ' <"$block" | head -c 140)"
  # A stream without an end is seen to stream, then left.
  status=0
  # The turn of the block before may still run.
  for _ in $(seq 300); do
    curl -s "$url/agent/status" | grep -qF '"status":"idle"' && break
    sleep 0.1
  done
  if grep -qF '$ID' "$block"; then
    curl -s -o "$temp/asking" "$SERVER/messages" -H 'Content-Type: application/json' -H 'Prefer: respond-async' \
      -d '{"text": "ask", "model": "mock/script"}'
    for _ in $(seq 100); do
      ID=$(curl -s "$SERVER/agent/permissions" | sed -n 's/.*"id":"\(perm_[^"]*\)".*/\1/p')
      [ -z "$ID" ] || break
      sleep 0.1
    done
  fi
  # What a block writes beside itself is not to lie in the clone.
  (cd "$temp/here" && timeout 6 bash -euo pipefail "$block") >"$temp/answer" 2>"$temp/error" || status=$?
  if [ "$status" != 0 ] && [ "$status" != 124 ] || ! [ -s "$temp/answer" ] || grep -q '"code":"' "$temp/answer"; then
    cat "$block" "$temp/answer" "$temp/error" >&2
    echo "the README's command ended with $status" >&2
    exit 1
  fi
  asked=$((asked + 1))
done
[ "$asked" -ge 15 ] || { echo "the README has $asked commands that ask a server: at least 15 were there" >&2; exit 1; }
[ -e "$temp/workspace/asked" ] || { echo "the README's answer to a permission request let nothing run" >&2; exit 1; }
[ -s "$temp/workspace/hello.txt" ] || { echo "the turn of the README changed no file" >&2; exit 1; }

echo "readme: a second terminal sees the same events, and after kill -9 exactly the rest"
ids() { sed -n 's/^id: //p' "$1"; }
curl -sN "$url/events?after=0" >"$temp/followed" &
pids+=($!)
curl -sN -X POST "$url/messages" -H 'Content-Type: application/json' -d '{"text":"again","model":"mock/demo"}' \
  >"$temp/turn" || true &
turn=$!
# In the middle of the turn: some of its words have come.
for _ in $(seq 200); do
  [ "$(grep -c '^event: content_delta' "$temp/turn")" -lt 5 ] || break
  sleep 0.05
done
kill -9 "${pids[0]}"
wait "${pids[0]}" "$turn" "${pids[1]}" 2>/dev/null || true
[ "$(ids "$temp/turn" | wc -l)" -ge 5 ] || { echo "the turn had not begun" >&2; exit 1; }

serve "${kept[@]}"
curl -sN -m 3 "$url/events?after=0" >"$temp/all" || true
# The first id of a stream says where it starts: no event has it.
ids "$temp/turn" | sed 1d >"$temp/shown"
grep -xFf "$temp/shown" <(ids "$temp/all") | cmp - "$temp/shown"
grep -xFf "$temp/shown" <(ids "$temp/followed") | cmp - "$temp/shown"
last=$(tail -n 1 "$temp/shown")
curl -sN -m 3 "$url/events" -H "Last-Event-ID: $last" >"$temp/rest" || true
ids "$temp/all" | sed "1,/^$last\$/d" | uniq >"$temp/wanted"
ids "$temp/rest" | sed 1d | uniq | cmp - "$temp/wanted"
grep -q '^event: turn_completed' "$temp/rest"
grep -q '"finish_reason":"error"' "$temp/rest"
curl -sSf "$url/messages?order=desc" | grep -q '"text":"again"'
echo "readme: done"
