#!/usr/bin/env bash
# Tests Dockerfile, docker-compose.yml and config/haproxy.cfg by running them, with compose v1 and with v2:
#     tests/compose.sh [BINARY]          (default: target/release/wardcast; as root, on Debian 12)
# It uses no image registry: a Debian made by debootstrap is imported under the image names of the files, and the `cargo` of
# the builder stage is a stand-in that installs BINARY. Everything runs in separate namespaces. So an engine that is already
# running, its networks and its firewall are not touched, and nothing is left behind however this ends.
set -euo pipefail
cd "$(dirname "$0")/.."
tests=$PWD/tests

cache=${WARDCAST_TEST_CACHE:-/var/cache/wardcast-tests}
unset "${!WARDCAST_@}"

# --- Outside the namespaces: what needs the network --------------------------------------------------------------

install_packages() {
    local missing=() package
    for package in docker.io docker-compose debootstrap iptables iproute2 curl python3-websockets; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>&1) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]} == 0)) && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
}

make_base_images() {
    [[ -s $cache/base.tar && -s $cache/services.tar ]] && return
    local root=$scratch/root
    debootstrap --variant=minbase --include=ca-certificates bookworm "$root"
    rm -rf "$root"/var/cache/apt/archives/*.deb
    tar -C "$root" -cf "$cache/base.tar.part" .
    # This exit status keeps packages from starting their daemons when they are installed.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" && chmod +x "$root/usr/sbin/policy-rc.d"
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -qq -y --no-install-recommends redis-server haproxy
    tar -C "$root" -cf "$cache/services.tar.part" .
    mv "$cache/base.tar.part" "$cache/base.tar" && mv "$cache/services.tar.part" "$cache/services.tar"
    rm -rf "$root"
}

# Debian 12 has only compose v1. The v2 of Debian 13 runs there too; it is unpacked, not installed.
fetch_compose_v2() {
    [[ -x $cache/docker-compose-v2 ]] && return
    local apt=$scratch/apt
    mkdir -p "$apt"/{lists/partial,cache/archives/partial}
    tests/mirrors | sed 's/.*/deb & trixie main/' >"$apt/sources.list"
    local options=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$apt/lists"
        -o "Dir::Cache=$apt/cache" -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o APT::Sandbox::User=root)
    apt-get -qq "${options[@]}" update && (cd "$apt" && apt-get -qq "${options[@]}" download docker-compose)
    dpkg-deb -x "$apt"/docker-compose_*.deb "$apt/unpacked"
    mv "$apt/unpacked/usr/libexec/docker/cli-plugins/docker-compose" "$cache/docker-compose-v2"
}

if [[ ${1:-} != --inside ]]; then
    binary=$(realpath "${1:-target/release/wardcast}")
    [[ -x $binary ]] || { echo "no binary at $binary: run 'cargo build --release' first" >&2; exit 1; }
    ((EUID == 0)) || { echo "skipped: only root can start a Docker engine"; exit 77; }
    scratch=$(mktemp -d)
    mkdir -p "$cache"
    trap 'tail -20 "$scratch/log" >&2; rm -rf "$scratch"' EXIT
    install_packages >"$scratch/log" 2>&1
    make_base_images >"$scratch/log" 2>&1
    (fetch_compose_v2) >"$scratch/log" 2>&1 || true
    trap 'rm -rf "$scratch"' EXIT
    own=(unshare --mount --net --pid --fork --mount-proc --kill-child)
    "${own[@]}" true || { echo "skipped: a Docker engine needs namespaces, which cannot be created here"; exit 77; }
    "${own[@]}" "$0" --inside "$binary" "$scratch" "$cache"
    exit
fi

# --- Inside the namespaces: an engine, images, and helpers --------------------------------------------------------

set +e # From here on failures are counted, not fatal.
binary=$2 scratch=$3 cache=$4 passed=0 failed=0
export DOCKER_HOST=unix://$scratch/docker.sock WARDCAST_PORT=18080 WARDCAST_API_PORT=18081
# For clients, and for backends.
url=http://localhost:$WARDCAST_PORT api_url=http://localhost:$WARDCAST_API_PORT

say() { if [[ $1 == ok ]]; then ((++passed)); else ((++failed)); fi; printf '%-5s %s\n' "$1" "$2"; }
# check SENTENCE COMMAND…: prints one line; if the command fails, also its output.
check() {
    local sentence=$1; shift
    if "$@" >"$scratch/output" 2>&1; then say ok "$via: $sentence"
    else say FAIL "$via: $sentence"; tail -15 "$scratch/output" | sed 's/^/        /'; return 1; fi
}
is() { [[ $1 == "$2" ]] || { echo "expected «$2», got «$1»"; return 1; }; }
await() { local end=$((SECONDS + $1)); shift; until "$@"; do ((SECONDS < end)) || return 1; sleep 0.2; done; }

start_engine() {
    ip link set lo up
    echo '{}' >"$scratch/daemon.json"
    local flags
    for flags in "" "--storage-driver=vfs" "--storage-driver=vfs --iptables=false"; do
        dockerd --config-file "$scratch/daemon.json" --data-root "$scratch/data" --exec-root "$scratch/exec" \
            --pidfile "$scratch/docker.pid" --host "$DOCKER_HOST" $flags >"$scratch/engine.log" 2>&1 &
        engine=$!
        await 60 engine_decided && docker info >/dev/null 2>&1 && return
        kill "$engine" 2>/dev/null; wait "$engine"
    done
    return 1
}
engine_decided() { docker info >/dev/null 2>&1 || ! kill -0 "$engine" 2>/dev/null; }

import_images() {
    mkdir -p "$scratch/builder/usr/local/bin" "$scratch/builder/usr/local/share"
    cp "$binary" "$scratch/builder/usr/local/share/wardcast"
    cat >"$scratch/builder/usr/local/bin/cargo" <<'CARGO'
#!/bin/sh
case "$*" in
"build --release --locked --bin wardcast") test -s src/lib.rs -a -s Cargo.lock && mkdir -p target/release && cp /usr/local/share/wardcast target/release ;;
"clean --release --package wardcast") rm target/release/wardcast ;;
*) echo "the stand-in for cargo has no such command: $*" >&2; exit 1 ;;
esac
CARGO
    chmod +x "$scratch/builder/usr/local/bin/cargo"
    cp "$cache/base.tar" "$scratch/builder.tar"
    tar -C "$scratch/builder" --append -f "$scratch/builder.tar" usr/local/bin/cargo usr/local/share/wardcast
    docker import "$scratch/builder.tar" "$(image_of Dockerfile 'FROM rust')"
    docker import "$cache/base.tar" "$(image_of Dockerfile 'FROM debian')"
    docker import "$cache/services.tar" services
    # The folders of the official images, with their owners.
    printf 'FROM services\nRUN mkdir /data && chown 999:999 /data && chown 99:99 /var/lib/haproxy\n' |
        DOCKER_BUILDKIT=0 docker build --network none --tag services - 2>/dev/null
    docker tag services "$(image_of docker-compose.yml 'image: .*redis:')"
    docker tag services "$(image_of docker-compose.yml 'image: .*haproxy:')"
    rm "$scratch/builder.tar"
}
# The image in the first line that matches, behind an anchor if there is one.
image_of() { grep -m1 "$2" "$1" | awk '{print ($2 ~ /^&/) ? $3 : $2}'; }

containers() { docker ps --all --quiet --filter "label=com.docker.compose.service=$1"; }
first() { containers "$1" | head -1; }
in_hub() { docker exec "$(first hub)" "$@"; }
healthy() { [[ $(docker ps --quiet --filter health=healthy | wc -l) == "$1" ]]; }
all_healthy() { await 60 healthy "$1" || { docker ps --all; docker logs --tail 20 "$(first hub)"; return 1; }; }
status() { curl -s -o "$scratch/body" -w '%{http_code}' --max-time 10 --path-as-is "$@"; }
up() { timeout 300 "$compose" up -d "$@"; }

# clients COUNT TOKEN API_KEY QUERY: COUNT clients subscribe through the load balancer, curl publishes once; prints how many
# received it, and on how many hubs they are.
clients() {
    /usr/bin/python3 2> >(tail -1) - "ws://localhost:$WARDCAST_PORT" "$api_url" "$@" <<'PYTHON'
import asyncio, json, sys, websockets
url, api_url, count, token, key, query = sys.argv[1:]

async def answer(socket, wanted):
    async for frame in socket:
        for reply in map(json.loads, frame.splitlines()):
            if "error" in reply: raise SystemExit(f"error {reply}")
            if wanted(reply): return reply

async def client():
    socket = await websockets.connect(f"{url}/connection/websocket?{query}", close_timeout=1)
    node = None
    for id, command in enumerate(({"connect": {"token": token}}, {"subscribe": {"channel": "news"}}), 1):
        await socket.send(json.dumps({"id": id, **command}))
        reply = await answer(socket, lambda reply: reply.get("id") == id)
        node = node or reply["connect"]["node"]
    return socket, node

async def main():
    clients = await asyncio.gather(*(client() for _ in range(int(count))))
    curl = await asyncio.create_subprocess_exec("curl", "-sf", api_url + "/api/publish", "-H", f"X-API-Key: {key}",
        "-H", "Content-Type: application/json", "-d", '{"channel":"news","data":{"text":"hello"}}', stdout=asyncio.subprocess.DEVNULL)
    if await curl.wait(): raise SystemExit("curl could not publish")
    news = await asyncio.gather(*(answer(socket, lambda reply: "pub" in reply.get("push", {})) for socket, _ in clients))
    received = sum(push["push"]["pub"]["data"] == {"text": "hello"} for push in news)
    print(f"{received} of {count} on {len({node for _, node in clients})} hubs")

asyncio.run(asyncio.wait_for(main(), 15))
PYTHON
}
# The status of a handshake with a token in the query string.
handshake() {
    status --max-time 2 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
        -H 'Sec-WebSocket-Key: d2FyZGNhc3Qgd2FyZGNhcw==' "$url/socket?token=$1"
}
# Sends requests one after the other until it is killed. A hub responds with 404, a load balancer without hubs with 503.
# Until the file `enough` exists, so that the last answer is whole.
probe() { rm -f "$scratch/enough"; until [ -e "$scratch/enough" ]; do curl -s -o /dev/null -w '%{http_code}\n' --max-time 10 "$url/nothing"; done >"$scratch/probes"; }
# publish API_KEY: prints the answer and its status.
publish() { curl -s --max-time 10 "$api_url/api/publish" -H "X-API-Key: $1" -d '{"channel":"news","data":1}' -w ' %{http_code}\n'; }
answers_error_100() { [[ $1 == '{"error":{"code":100,'*" $2" ]] || { echo "got «$1»"; return 1; }; }
# Starts clients that recover what they miss, and publishes meanwhile. `watched` ends it and prints what they have lost.
watch() {
    rm -f "$scratch/stop"
    /usr/bin/python3 "$tests/compose_watch.py" "ws://localhost:$WARDCAST_PORT" "$api_url" 12 "$1" "$2" "$scratch/stop" >"$scratch/watched" 2>"$scratch/watch.log" &
    watching=$!
}
watched() { touch "$scratch/stop"; await 60 has_ended $watching; cat "$scratch/watched"; cat "$scratch/watch.log" >&2; }
has_ended() { ! kill -0 "$1" 2>/dev/null; }
# Kills the process of a container, as a crash does. `docker kill` would also tell Docker not to start it again.
crash() { kill -KILL "$(docker inspect -f '{{.State.Pid}}' "$1")" && await 10 has_crashed "$1"; }
has_crashed() { [[ $(docker inspect -f '{{.RestartCount}}' "$1") != 0 ]]; }
# Publishes one after the other until it is killed.
publish_steadily() { rm -f "$scratch/enough"; until [ -e "$scratch/enough" ]; do publish "$1"; done >"$scratch/published"; }
restart_each_hub() {
    local id
    for id in $(containers hub); do docker restart "$id" && all_healthy 4 || return 1; done
}
generated() { in_hub cat /var/lib/wardcast/wardcast.toml | /usr/bin/python3 -c "import sys, tomllib; print(tomllib.loads(sys.stdin.read())$1)"; }
jwt() {
    /usr/bin/python3 - "$1" <<'PYTHON'
import base64, hmac, json, sys, time
encode = lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=")
text = b".".join(encode(json.dumps(part).encode()) for part in ({"alg": "HS256"}, {"sub": "boss", "exp": int(time.time()) + 600}))
print((text + b"." + encode(hmac.digest(sys.argv[1].encode(), text, "sha256"))).decode())
PYTHON
}
# Runs the `curl` line that init has printed.
log_in() {
    local line; line=$(docker logs "$(first init)" 2>&1 | sed -e ':a' -e '/\\$/{N;s/\\\n//;ba}' | grep -m1 -o 'curl .*/auth/login.*')
    bash -c "$line" | /usr/bin/python3 -c 'import json, sys; reply = json.load(sys.stdin); print(reply.get("token") or reply["access_token"])'
}

# Runs the `curl` line that publishes.
publish_as_printed() {
    local line; line=$(docker logs "$(first init)" 2>&1 | grep -m1 -o 'curl .*/api/publish.*')
    [[ $(bash -c "${line/curl/curl -s}") == '{"result":{'* ]]
}

# --- The checks --------------------------------------------------------------------------------------------------

every_container_is_hardened() {
    local id
    for id in $(docker ps --all --quiet); do
        is "$(docker inspect -f '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}' "$id")" "true [ALL] [no-new-privileges:true]" || return 1
        [[ $(docker inspect -f '{{.Config.User}}' "$id") =~ ^[1-9][0-9]*:[1-9][0-9]*$ ]] || { echo "$id runs as root"; return 1; }
    done
    is "$(in_hub id -u)" 10001 && ! in_hub touch /usr/local/bin/mine
}
only_balancer_is_published() {
    is "$(docker ps --format '{{.Ports}}' | grep -- '->')" "127.0.0.1:$WARDCAST_PORT->8000/tcp, 127.0.0.1:$WARDCAST_API_PORT->8001/tcp"
}
# balancer_hides_internal_paths API_KEY
balancer_hides_internal_paths() {
    local path
    for path in /api /api/info /%61pi/info //api/info /admin /metrics //metrics /%6detrics /metrics?a=b /health /health/ /health/startup; do
        is "$path $(status -H "X-API-Key: $1" "$url$path")" "$path 404" || return 1
    done
    is "$(status "$url/api/publish" -H "X-API-Key: $1" -d '{"channel":"news","data":1}')" 404 || return 1
    is "$(status "$url/v1/channels/news/messages" -H "X-API-Key: $1" -H 'Content-Type: application/json' -d 1)" 401 || return 1
    is "$(status "$url/health/ready")" 200 && is "$(status "$url/health/live")" 200
}
# balancer_serves_backends API_KEY: the other port has the server API, and nothing that clients use.
balancer_serves_backends() {
    local path
    is "$(status "$api_url/api/info" -H "X-API-Key: $1" -d '{}')" 200 && is "$(status "$api_url/api/info" -d '{}')" 401 || return 1
    for path in / /demo/app.js /connection/websocket /auth/login /metrics; do is "$path $(status "$api_url$path")" "$path 404" || return 1; done
    is "$(status "$api_url/health/ready")" 200
}
# The hubs' own port for clients has none of it either, for containers beside them.
hub_hides_internal_paths() {
    local hub; hub=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' "$(first hub)" | awk '{print $1}')
    is "$(status "http://$hub:8000/api/info" -H "X-API-Key: $1" -d '{}')" 404 && is "$(status "http://$hub:8000/metrics")" 404 &&
        is "$(status "http://$hub:8001/metrics")" 200
}
no_query_string_is_logged() {
    local log; log=$(docker logs "$(first balancer)" 2>&1)
    [[ $log == *" GET /connection/websocket 101 "* && $log == *" GET /socket 503 "* ]] || { echo "log lines are missing: $log"; return 1; }
    ! grep -E '\?|token|probe|leak|%3[fF]' <<<"$log"
}
# no_secret_is_logged SECRET...: neither these nor any token is in the log of a container but init, which prints a password once.
no_secret_is_logged() {
    local id init; init=$(first init)
    for id in $(docker ps --all --quiet); do
        [[ $id == "$init" ]] || ! docker logs "$id" 2>&1 | grep -aE 'eyJ[A-Za-z0-9_-]{10,}\.' || return 1
        [[ $id == "$init" ]] || ! docker logs "$id" 2>&1 | grep -aFf <(printf '%s\n' "$@") || return 1
    done
}
is_not_ready() { ! docker exec "$1" wardcast health >/dev/null 2>&1; }
balancer_is() { [[ $(status "$url/health/ready") == "$1" ]]; }
demo_page_is_served() {
    is "$(status "$url/")" 200 && grep -q '<title>Wardcast</title>' "$scratch/body" || return 1
    is "$(status "$url/demo/app.js")" 200 && is "$(status "$url/demo/hub.json")" 200 && grep -q '"login":true' "$scratch/body" || return 1
    is "$(curl -s --head --max-time 10 "$url/" | grep -ci "^content-security-policy: default-src 'none'")" 1
}
init_is_silent_about_secrets() { ! docker logs "$(first init)" 2>&1 | grep -F "${1:?}"; }

check_compose() {
    via=$1 compose=$2
    check "docker-compose.yml is valid" "$compose" config
    local token key hmac sum override=an-api-key-of-32-bytes-from-the-environment secret=0123456789abcdef0123456789abcdef-environment
    check "up, with unchanged files, starts Redis, two hubs and a load balancer" up &&
        check "all four are healthy" all_healthy 4 &&
        check "init prints a curl line for the login, which works" log_in || { "$compose" down --volumes >/dev/null 2>&1; return; }
    token=$(log_in)
    key=$(generated '["api"]["key"]') hmac=$(generated '["auth"]["hmac_secret"]')
    sum=$(in_hub sha256sum /var/lib/wardcast/wardcast.toml)
    check "only the hub's user can read the secrets" is "$(in_hub stat -c '%u %a' /var/lib/wardcast/wardcast.toml)" "10001 600"
    check "overrides that are not set are absent from the environment, not empty" is "$(in_hub env | grep -cE 'API__KEY|HMAC_SECRET')" 0
    check "every container is read-only, without capabilities and not root" every_container_is_hardened
    check "only the load balancer has a published port, on loopback" only_balancer_is_published
    check "clients of one address are spread over both hubs, and all receive what curl published" is "$(clients 12 "$token" "$key" probe=leak)" "12 of 12 on 2 hubs"
    check "a token in the query string is accepted" is "$(handshake "$token")" 101
    check "the load balancer forwards the demo page" demo_page_is_served
    check "the load balancer serves clients its own health and neither the server API nor other internal paths" balancer_hides_internal_paths "$key"
    check "it serves the server API on a port of its own, and nothing else there" balancer_serves_backends "$key"
    check "the hubs serve API and metrics on their internal port only" hub_hides_internal_paths "$key"
    check "init prints a curl line that publishes, which works" publish_as_printed

    watch "$token" "$key"
    check "a hub that crashes is started again" crash "$(first hub)" && check "all four are healthy after the crash" all_healthy 4
    publish_steadily "$key" & local publishing=$!
    check "both hubs restart, one after the other" restart_each_hub
    touch "$scratch/enough"; wait $publishing
    check "no publish failed meanwhile" is "$(sort -u "$scratch/published" | sed 's/"result":{.*}}/"result":{}}/' | sort -u)" '{"result":{}} 200'
    docker stop "$(first redis)" >/dev/null
    await 15 is_not_ready "$(first hub)" && await 5 balancer_is 503
    check "without Redis, publishing through the load balancer answers error 100" answers_error_100 "$(publish "$key")" 200
    docker start "$(first redis)" >/dev/null
    check "all four are healthy after the outage" all_healthy 4
    check "Redis that crashes is started again, with its data" crash "$(first redis)" && check "all four are healthy after its crash" all_healthy 4

    probe & local probing=$!
    check "--scale hub=4" up --scale hub=4
    check "all six are healthy" all_healthy 6
    touch "$scratch/enough"; wait $probing
    check "no request was refused meanwhile" is "$(sort -u "$scratch/probes")" 404
    check "clients that recover have lost nothing through all of this" is "$(watched)" "0 lost, 0 doubled, 0 not recovered"
    await 15 all_hubs_are_used "$token" "$key"
    check "clients are spread over all four hubs, and all receive the publication" is "$(clients 16 "$token" "$key" probe=leak)" "16 of 16 on 4 hubs"

    containers hub | xargs docker kill >/dev/null
    check "without a hub, the load balancer is not ready" await 10 balancer_is 503
    check "and answers error 100 itself" answers_error_100 "$(publish "$key")" 503
    status "$url/socket?token=leak" >/dev/null
    { exec 3<>"/dev/tcp/localhost/$WARDCAST_PORT" && printf 'GET /socket?token=leak HTTP/9.9x\r\n\r\n' >&3 && cat <&3 && exec 3>&-; } >/dev/null
    check "its log has no query string, in error lines either" no_query_string_is_logged

    check "no log has a token, a key or a password" no_secret_is_logged "$key" "$hmac"
    check "down" timeout 60 "$compose" down
    echo "WARDCAST_API__KEY=$override" >.env
    check "up again, one override in the shell, one in .env" env WARDCAST_AUTH__HMAC_SECRET=$secret timeout 120 "$compose" up -d
    check "all four are healthy again" all_healthy 4
    check "the secrets in the volume are the same" is "$(in_hub sha256sum /var/lib/wardcast/wardcast.toml)" "$sum"
    check "init prints no secret a second time" init_is_silent_about_secrets "$key"
    check "both overrides take effect" is "$(clients 4 "$(jwt $secret)" $override probe=leak)" "4 of 4 on 2 hubs"
    check "the generated API key is refused" is "$(status "$api_url/api/publish" -H "X-API-Key: $key" -d '{"channel":"news","data":1}')" 401
    rm .env
    check "down, with the volume" timeout 60 "$compose" down --volumes
    check "nothing is left" is "$(docker ps --all --quiet; docker volume ls --quiet; docker network ls --quiet --filter type=custom)" ""
    docker rmi wardcast >/dev/null
}
# check_form FORM HEALTHY: the form of Redis of config/compose/FORM.env, with this many healthy containers.
check_form() {
    local form=$1 healthy=$2 token key
    compose_with_form() { "$compose" --env-file "config/compose/$form.env" "$@"; }
    check "$form: up" timeout 300 "$compose" --env-file "config/compose/$form.env" up -d && check "$form: all are healthy" all_healthy "$healthy" || {
        containers redis | xargs docker logs --tail 5; compose_with_form down --volumes >/dev/null 2>&1; return
    }
    token=$(log_in) key=$(generated '["api"]["key"]')
    check "$form: every container is hardened" every_container_is_hardened
    check "$form: all clients receive what curl published" is "$(clients 12 "$token" "$key" probe=leak)" "12 of 12 on 2 hubs"
    watch "$token" "$key"
    "check_$form" "$healthy" "$key"
    check "$form: clients that recover have lost nothing" is "$(watched)" "0 lost, 0 doubled, 0 not recovered"
    check "$form: no log has a token, a key or a password" no_secret_is_logged "$key" "$(generated '["auth"]["hmac_secret"]')"
    check "$form: down, with the volumes" timeout 60 "$compose" --env-file "config/compose/$form.env" down --volumes
    check "$form: nothing is left" is "$(docker ps --all --quiet; docker volume ls --quiet)" ""
}
check_tls() {
    check "tls: Redis accepts no client without a certificate" refuses_strangers
    docker cp "$(first balancer-tls):/tls/ca.pem" "$scratch/ca.pem"
    check "tls: the load balancer serves https with the certificate" is "$(status --cacert "$scratch/ca.pem" https://localhost:8443/health/ready)" 200
    check "tls: Redis restarts" docker restart "$(first redis)" && check "tls: all are healthy again" all_healthy "$1"
}
refuses_strangers() { ! docker exec "$(first redis)" redis-cli -h redis --tls --cacert /tls/ca.pem ping && docker exec "$(first redis)" redis-cli -h redis --tls --cacert /tls/ca.pem --cert /tls/hub.pem --key /tls/hub-key.pem ping; }
check_sentinel() { replaces_a_master sentinel redis "$@"; }
check_cluster() { replaces_a_master cluster redis "$@"; }
# replaces_a_master FORM SERVICE HEALTHY API_KEY
replaces_a_master() {
    docker stop "$(first "$2")" >/dev/null
    check "$1: another server becomes the master, and the hubs follow" await 40 hubs_follow "$4" $(($3 - 1))
    docker start "$(first "$2")" >/dev/null
    check "$1: the old master returns as a replica" await 30 is_replica "$(first "$2")" && check "$1: all are healthy again" all_healthy "$3"
    check "$1: all restart" restart_all && check "$1: all are healthy after the restart" all_healthy "$3"
}
hubs_follow() { [[ $(publish "$1") == '{"result":'*' 200' ]] && healthy "$2"; }
is_replica() { docker exec "$1" redis-cli -s /tmp/redis.sock info replication | grep -q role:slave; }
restart_all() { docker ps --quiet --filter "label=com.docker.compose.service" | xargs docker restart --time 10; }
all_hubs_are_used() { [[ $(clients 8 "$@" probe=leak 2>/dev/null) == *"on 4 hubs" ]]; }

start_engine || { echo "skipped: no Docker engine can start here: $(tail -1 "$scratch/engine.log")"; exit 77; }
import_images >/dev/null
# As in a fresh clone: without .env and build results.
mkdir "$scratch/wardcast" && cp -r Dockerfile .dockerignore docker-compose.yml Cargo.toml Cargo.lock src config "$scratch/wardcast"
cd "$scratch/wardcast"
check_compose "compose v1" docker-compose
if [[ -x $cache/docker-compose-v2 ]]; then check_compose "compose v2" "$cache/docker-compose-v2"; else echo "compose v2 could not be fetched: tested with v1 only"; fi
# With the latter of the two, built once more.
"$compose" build >"$scratch/output" 2>&1
check_form tls 5
check_form sentinel 9
check_form cluster 9
echo "$passed passed, $failed failed"
((failed == 0))
