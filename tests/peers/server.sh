# Sourced by the peers in bash: `serve` starts the built server on a free port, in a folder of its own that goes with it.
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
peers=$repo/tests/peers
export PATH=$peers/node_modules/.bin:$repo/target/peers-venv/bin:$PATH

temp=$(mktemp -d)
pids=()
clean() {
  local status=$?
  for pid in "${pids[@]}"; do
    kill "$pid" 2>/dev/null || true
    # A server that does not end must not hold the run: ten seconds, then the hard way.
    for _ in $(seq 100); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  # What the server said is wanted only if something went wrong.
  [ "$status" = 0 ] || tail -n 40 "$temp"/*.log >&2 2>/dev/null || true
  rm -rf "$temp"
}
trap clean EXIT

# serve [NAME=VALUE...]: starts a server with these settings and sets $url.
serve() {
  local out=$temp/server-${#pids[@]}
  mkdir -p "$out"
  # Nothing of the caller's settings: a key in the environment would name another model.
  : >"$out/stdout"
  env -i PATH="$PATH" HOME="$out" GRPC_PORT=0 HTTP_PORT=0 OPENCODE_WORKSPACE="$out/workspace" \
    OPENCODE_DATA_DIR="$out/data" "$@" "${OPENCODE_API:-$repo/target/debug/opencode-api}" \
    >"$out/stdout" 2>"$out.log" &
  pids+=($!)
  for _ in $(seq 200); do
    url=$(sed -n 's/^listening on //p' "$out/stdout")
    [ -z "$url" ] || return 0
    kill -0 "${pids[-1]}" 2>/dev/null || break
    sleep 0.05
  done
  echo "the server did not start" >&2
  return 1
}
