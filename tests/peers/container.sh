#!/usr/bin/env bash
# Dockerfile.api and docker-compose.api.yml under an engine of its own, which is started here and taken away again.
# Alone, as root on Debian: `bash tests/peers/container.sh`. It installs the engine by apt and downloads no image: the two
# base images are made of Debian's packages and of this machine's Rust.
#
# PROFILE=dist builds what is shipped, for ten minutes and more. Without it the profile is dev: the same code and layers,
# but its binary is large, so that the binary's size is not checked and counts with what it may be at most.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
cd "$repo"
profile=${PROFILE:-dev}
binary_at_most=25
layers_at_most=150

skip() {
  echo "SKIPPED: container tests: $1" >&2
  exit 0
}
fail() {
  echo "container: $1" >&2
  exit 1
}
said() { printf 'container: %4d s  %s\n' "$SECONDS" "$1"; }

echo "container: hadolint"
target/peers-venv/bin/hadolint Dockerfile.api

[ "$(id -u)" = 0 ] || skip "they start an engine, which takes root"
command -v apt-get >/dev/null || skip "there is no apt-get to install the engine by"
for program in dockerd docker docker-compose debootstrap ip curl; do
  command -v "$program" >/dev/null || missing=1
done
mkdir -p target
if [ -n "${missing:-}" ]; then
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io \
    docker-compose debootstrap iproute2 iptables curl; } >target/apt-engine.log 2>&1 </dev/null ||
    skip "the engine could not be installed: $(tail -n 1 target/apt-engine.log)"
fi

temp=$(mktemp -d)
# At most 15 letters.
bridge=oc$$
engine=
# The classic builder, since the engine of Debian has no other one.
export DOCKER_HOST=unix://$temp/docker.sock DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0

clean() {
  local status=$?
  set +e
  if [ -n "$engine" ]; then
    [ "$status" = 0 ] || for id in $(docker ps -aq); do
      docker inspect -f '{{.Name}} {{json .State}}' "$id"
      docker logs --tail 20 "$id"
    done >&2
    docker ps -aq | xargs -r docker rm -fv >/dev/null 2>&1
    # A network has a bridge, which would stay.
    docker network prune -f >/dev/null 2>&1
    kill "$engine" 2>/dev/null
    for _ in $(seq 200); do
      kill -0 "$engine" 2>/dev/null || break
      sleep 0.1
    done
    kill -9 "$engine" 2>/dev/null
    wait "$engine" 2>/dev/null
    [ "$status" = 0 ] || tail -n 5 "$temp/engine.log" >&2
  fi
  ip link del "$bridge" 2>/dev/null
  awk -v top="$temp/" 'index($2, top) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r -n 1 umount -l
  rm -rf "$temp"
  exit "$status"
}
trap clean EXIT
trap 'exit 1' INT TERM

# No rule of this machine's firewall is touched: builds use its network, published ports go through the engine's proxy, and
# the containers reach nobody, which they need not. The bridge is our own, in a network that nothing here has a route to.
ip link add "$bridge" type bridge 2>/dev/null || skip "no network bridge can be made here"
for number in $(seq 16 31) none; do
  [ "$number" != none ] || skip "all networks from 172.16 to 172.31 are in use"
  ip route | grep -q "^172\.$number\." || break
done
ip addr add "172.$number.0.1/24" dev "$bridge"
ip link set "$bridge" up
dockerd --data-root "$temp/data" --exec-root "$temp/exec" -H "$DOCKER_HOST" --pidfile "$temp/pid" --bridge "$bridge" \
  --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
  --default-address-pool "base=172.$number.128.0/17,size=24" >"$temp/engine.log" 2>&1 &
engine=$!
for _ in $(seq 300); do
  docker version >/dev/null 2>&1 && break
  kill -0 "$engine" 2>/dev/null || break
  sleep 0.1
done
docker version >/dev/null 2>&1 || skip "the engine does not start: $(tail -n 1 "$temp/engine.log")"

# The base images, named as the Dockerfile names them. Debian's own leaves out documentation too.
base=$(sed -n 's/^FROM \(debian:[^ ]*\)$/\1/p' Dockerfile.api)
rust=$(sed -n 's/^FROM \(rust:[^ ]*\) AS .*/\1/p' Dockerfile.api)
suite=${base#debian:}
suite=${suite%-slim}
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null |
  sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb +(\[[^]]*\] +)?([^ ]+).*/\2/p' | head -n 1) || true
[ -n "$mirror" ] || skip "no mirror is named in /etc/apt/sources.list nor in sources.list.d/debian.sources"
debootstrap --variant=minbase "$suite" "$temp/root" "$mirror" >"$temp/debootstrap.log" 2>&1 </dev/null ||
  skip "no base image can be made: $(tail -n 1 "$temp/debootstrap.log")"
for path in doc man locale info lintian; do echo "path-exclude /usr/share/$path/*"; done >"$temp/root/etc/dpkg/dpkg.cfg.d/slim"
rm -rf "$temp"/root/var/cache/apt/archives/*.deb "$temp"/root/var/lib/apt/lists/*
tar -C "$temp/root" -c . | docker import - "$base" >/dev/null
rm -rf "$temp/root"

mkdir "$temp/rust"
# This machine's certificates too, for cargo: its way to the registry may need them. In this test image alone.
cat >"$temp/rust/Dockerfile" <<DOCKERFILE
FROM $base
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev
COPY ca-certificates.crt /etc/ssl/certs/
COPY bin /usr/local/bin
COPY lib /usr/local/lib
DOCKERFILE
tar -c -C "$temp/rust" Dockerfile -C /etc/ssl/certs --dereference ca-certificates.crt -C "$(rustc --print sysroot)" bin lib |
  docker build --network host -t "$rust" - >"$temp/rust.log" 2>&1 || {
  tail "$temp/rust.log" >&2
  fail "the image with Rust does not build"
}
said "the engine runs and the base images are made"

# build FOLDER: what was said is in $temp/build.log.
build() {
  docker build --network host --build-arg PROFILE="$profile" -f Dockerfile.api -t opencode-api "$1" >"$temp/raw.log" 2>&1 || {
    tail -n 30 "$temp/raw.log" >&2
    fail "the image does not build"
  }
  sed 's/\x1b\[[0-9;]*m//g' "$temp/raw.log" >"$temp/build.log"
}
compiled() { sed -nE 's/^ *Compiling ([^ ]+) v.*/\1/p' "$temp/build.log" | sort -u; }
build .
said "the image is built ($profile), $(compiled | wc -l) crates compiled"

# launch OPTION...: docker's `run`, whose warnings are of interest only if it failed.
launch() {
  docker run "$@" 2>"$temp/run.log" || {
    cat "$temp/run.log" >&2
    fail "no container could be started"
  }
}
size() { docker image inspect -f '{{.Size}}' "$1"; }
layers=$((($(size opencode-api) - $(size "$base")) / 1000000))
binary=$(($(launch --rm --entrypoint stat opencode-api -c %s /usr/local/bin/opencode-api) / 1000000))
if [ "$profile" = dev ]; then
  layers=$((layers - binary + binary_at_most))
  said "our layers have $layers MB, with a binary of $binary_at_most MB instead of this one's $binary MB"
else
  said "our layers have $layers MB, the binary of it $binary MB"
  [ "$binary" -lt "$binary_at_most" ] || fail "the binary is to have less than $binary_at_most MB"
fi
[ "$layers" -lt "$layers_at_most" ] || fail "our layers are to have less than $layers_at_most MB"

token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
# What the commands of the turns below leave behind: a session of its own, and an orphan whose parent has gone.
cat >"$temp/script.yaml" <<'YAML'
delay_ms: 0
answers:
  - match: orphans
    steps:
      - tool_calls: [{name: bash, input: {command: "(setsid sleep 0.2 &); (sleep 0.1 & exec sleep 0.3); setsid sleep 30 & true"}}]
  - match: orphans
    steps: [{text: Done.}]
  - match: git
    steps:
      - tool_calls:
          - name: bash
            input: {command: "git init -q && echo a >a && git add a && git commit -qm a && git log --format=said:%s"}
          - {name: bash, input: {command: "cd && echo home:$?"}}
  - match: git
    steps: [{text: Done.}]
  - match: wait
    steps:
      - tool_calls: [{name: bash, input: {command: "sleep 60"}}]
YAML

# run NAME [OPTION...]: starts a container with the token and waits until the engine calls it healthy. Sets $url, $second.
run() {
  local name=$1 state=
  shift
  launch -d --name "$name" -p 127.0.0.1::8080 -p 127.0.0.1::8081 --health-interval 1s -e OPENCODE_API_TOKEN="$token" \
    -e OPENCODE_DRAIN_TIMEOUT=2 -e OPENCODE_MOCK_SCRIPT=/script.yaml \
    -v "$temp/script.yaml:/script.yaml:ro" "$@" opencode-api >/dev/null
  for _ in $(seq 100); do
    state=$(docker inspect -f '{{.State.Health.Status}}' "$name")
    [ "$state" != healthy ] || break
    sleep 0.2
  done
  [ "$state" = healthy ] || fail "$name is $state and not healthy"
  url=http://$(docker port "$name" 8080)
  second=http://$(docker port "$name" 8081)
}
# has TEXT SENTENCE: the turn's stream has the text, or it fails with the sentence.
has() {
  grep -qF -- "$1" "$temp/turn" || {
    cat "$temp/turn" >&2
    fail "$2"
  }
}
# turn URL TEXT [MODEL]: its stream, in $temp/turn.
turn() {
  curl -sSN -m 60 -H "Authorization: Bearer $token" -H 'Content-Type: application/json' \
    -d "{\"text\": \"$2\", \"model\": \"${3:-mock/demo}\"}" "$1/messages" >"$temp/turn"
  has '"finish_reason":"end_turn"' "the turn \"$2\" did not end well"
}
# stopped NAME: by SIGTERM, in time, with exit code 0. The engine would kill it after 10 s, which is code 137.
stopped() {
  local began=$EPOCHREALTIME code
  docker stop "$1" >/dev/null
  code=$(docker inspect -f '{{.State.ExitCode}}' "$1")
  [ "$code" = 0 ] || fail "$1 has ended with $code"
  said "$1 has stopped within $(((${EPOCHREALTIME/./} - ${began/./}) / 1000)) ms, with 0"
  docker rm -v "$1" >/dev/null
}

run plain
turn "$url" "first port"
turn "$second" "second port"
docker exec plain test -s /workspace/hello.txt || fail "the turn wrote no file"
said "healthy, and a turn through either port"

turn "$url" orphans mock/script
# And what loses its parent outside of a turn, which the first process adopts.
docker exec plain sh -c 'sleep 0.1 & exit 0'
sleep 1
# Nothing but the init, the server and ps itself, and no zombie.
docker exec plain ps -eo stat=,args= >"$temp/ps"
[ "$(wc -l <"$temp/ps")" = 3 ] && ! grep -qE '^Z|sleep' "$temp/ps" || {
  cat "$temp/ps" >&2
  fail "something was left running, or not reaped"
}
said "orphans are ended and reaped"
stopped plain

run hardened --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --user 54321:0
docker exec hardened sh -c '! touch /usr/bin/x 2>/dev/null' || fail "the root is not read-only"
BASE_URL=$second GRPC_URL=$url TOKEN=$token bash test_api.sh >"$temp/test_api" || {
  grep -A1 FAILED "$temp/test_api" >&2
  fail "test_api.sh does not pass"
}
said "read-only as user 54321: test_api.sh: $(tail -n 1 "$temp/test_api")"
turn "$url" git mock/script
has said:a "git does not work for user 54321"
has home:0 "the home of user 54321 is not there"
curl -sS -m 10 -H "Authorization: Bearer $token" -H 'Content-Type: application/json' -H 'Prefer: respond-async' \
  -d '{"text": "wait", "model": "mock/script"}' "$url/messages" >/dev/null
sleep 1
# With a turn under way, which gets two seconds.
stopped hardened

# Compose, in a folder of its own: ports that are free, and a network without a way out.
mkdir -p "$temp/stack/workspace"
chown 1000 "$temp/stack/workspace"
sed 's/127\.0\.0\.1:808\([01]\):/127.0.0.1::/' docker-compose.api.yml >"$temp/stack/docker-compose.api.yml"
printf 'networks:\n  default:\n    internal: true\n' >"$temp/stack/offline.yml"
# Another server under the name of the image of the profile `local`.
mkdir "$temp/model"
cp tests/peers/ollama.pl "$temp/model"
printf 'FROM %s\nCOPY ollama.pl /\nCMD ["perl", "/ollama.pl"]\n' "$base" >"$temp/model/Dockerfile"
model=$(sed -nE 's|^ *image: "(ollama/ollama:)\$\{OLLAMA_VERSION:-([^}]*)\}"|\1\2|p' docker-compose.api.yml)
docker build -t "$model" "$temp/model" >"$temp/model.log" 2>&1 || { tail "$temp/model.log" >&2; fail "$model does not build"; }

# compose ARGUMENT...: by $compose, with nothing of the caller's keys.
compose() {
  (cd "$temp/stack" && env -i PATH="$PATH" HOME="$temp" DOCKER_HOST="$DOCKER_HOST" \
    $compose -p stack -f docker-compose.api.yml -f offline.yml "$@")
}
# up OPTION...: until the API is healthy.
up() {
  compose "$@" up -d --no-build >"$temp/compose.log" 2>&1 || { cat "$temp/compose.log" >&2; fail "$compose up"; }
  for _ in $(seq 100); do
    [ "$(docker inspect -f '{{.State.Health.Status}}' "$(compose ps -q api)")" != healthy ] || return 0
    sleep 0.2
  done
  fail "the stack is not healthy"
}
# stack_turn MODEL: from inside, since the network has no way in either.
stack_turn() {
  compose exec -T api curl -sSN -m 30 -H 'Content-Type: application/json' -d "{\"text\": \"hello\", \"model\": \"$1\"}" \
    http://127.0.0.1:8080/messages >"$temp/turn"
  has '"finish_reason":"end_turn"' "no turn of $1 in the stack"
}
# stack PROGRAM: all that README's section Compose says, by this one.
stack() {
  local compose=$1 began
  # The file as it is, before what is changed in it here.
  env -i PATH="$PATH" HOME="$temp" $compose -f docker-compose.api.yml --profile local config -q
  up
  ! compose exec -T api curl -s -m 3 -o /dev/null "$mirror" || fail "the network has a way out"
  stack_turn mock/demo
  [ -s "$temp/stack/workspace/hello.txt" ] || fail "the turn in the stack wrote no file on this machine"
  rm "$temp/stack/workspace/hello.txt"
  [ "$(docker ps -q | wc -l)" = 1 ] || fail "more than the API runs without the profile"
  up --profile local
  stack_turn local/tiny:1b
  has 'Said beside you.' "the model beside the API has said nothing"
  began=$SECONDS
  compose --profile local down -v >"$temp/compose.log" 2>&1
  [ $((SECONDS - began)) -lt 20 ] || fail "the stack did not stop in time"
  [ -z "$(docker ps -aq)" ] || fail "the stack has left containers"
  said "$compose $(compose version --short): turns without a key and without a network, on the mounted folder, and of a model beside"
}

# Version 2 as the next Debian has it, unpacked and not installed: there is none in this one.
fetch_compose2() {
  mkdir -p "$temp/next/lists/partial" "$temp/next/cache/archives/partial" "$temp/.docker/cli-plugins" && cd "$temp/next" &&
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >sources.list &&
    options=(-qq -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$PWD/lists"
      -o Dir::Cache="$PWD/cache" -o APT::Sandbox::User=root) &&
    apt-get "${options[@]}" update && apt-get "${options[@]}" download docker-compose && dpkg -x docker-compose_*.deb . &&
    cp usr/libexec/docker/cli-plugins/docker-compose "$temp/.docker/cli-plugins/"
}
if (fetch_compose2) >"$temp/next.log" 2>&1 </dev/null; then
  stack "docker compose"
else
  echo "SKIPPED: docker compose 2: $(tail -n 1 "$temp/next.log")" >&2
fi
stack docker-compose

# An edit of a source compiles this crate alone.
mkdir "$temp/edited"
cp -a Cargo.toml Cargo.lock build.rs openapi proto static src .dockerignore Dockerfile.api "$temp/edited"
echo '// edited' >>"$temp/edited/src/main.rs"
(cd "$temp/edited" && build .)
[ "$(compiled)" = opencode-api ] || fail "after an edit were compiled: $(compiled | tr '\n' ' ')"
said "an edit compiles this crate alone"
echo "container: done"
