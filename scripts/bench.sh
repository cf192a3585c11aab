#!/usr/bin/env bash
# What an id costs: in memory (cargo bench --bench next), and over HTTP, beside nginx as a yardstick.
#
#   scripts/bench.sh                                 all of it
#   SEQSVR_BIN=target/debug/seqsvr scripts/bench.sh  with a binary that is there already; builds nothing, skips cargo bench
#
# Over HTTP, wrk asks a server of our own with the embedded store, and checks that no id comes twice; between its rounds
# it asks an nginx that returns a constant of about as many bytes, so that both see the same moods of the machine. wrk
# shares the processors with what it measures, so the requests a second say as much about wrk; the processor time a
# request says what the server spends. Figures of one run compare with each other, not with those of other machines.
#
# Ends with 1 if an id came twice or an answer was an error.
set -euo pipefail

# nginx lives in sbin, which isn't on a normal user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=3
threads=2
connections=64
seconds=10
script=$PWD/benches/wrk.lua
work=
pids=()

die() {
    echo "bench: $*" >&2
    exit 1
}

finish() {
    # Only what was started here; by pid, and waited for, so that nothing writes to the folder that goes.
    if [[ ${#pids[@]} -gt 0 ]]; then
        kill "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
    fi
    if [[ -n $work ]]; then rm -rf "$work"; fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Prints the processor time, in ticks of the clock, that process $1 and its children have used so far.
ticks() {
    local pid stat total=0
    local -a fields
    for pid in "$1" $(cat "/proc/$1/task/"*/children 2>/dev/null || true); do
        # The name, in brackets, may have blanks in it; utime and stime are the 12th and 13th field behind it.
        stat=$(<"/proc/$pid/stat")
        read -ra fields <<<"${stat##*) }"
        total=$((total + fields[11] + fields[12]))
    done
    echo "$total"
}

# Waits until URL $1 is answered by process $2; $3 is what to show if it never is.
wait_for() {
    local i
    for ((i = 0; i < 100; i++)); do
        kill -0 "$2" 2>/dev/null || break
        if curl -fso "$work/answer" "$1"; then return; fi
        sleep 0.1
    done
    cat "$3" >&2
    die "no answer from $1"
}

start_seqsvr() {
    mkdir "$work/seqsvr"
    # A variable of the caller's must not change what is measured.
    local name
    for name in "${!SEQSVR_@}"; do unset "$name"; done
    # Port 0: the system chooses a free one, and the log names it.
    (cd "$work/seqsvr" && SEQSVR_PORT=127.0.0.1:0 exec "$binary" --embedded) >"$work/seqsvr.log" 2>&1 &
    seqsvr_pid=$!
    pids+=("$seqsvr_pid")
    local i port=
    for ((i = 0; i < 100 && ! port; i++)); do
        sleep 0.1
        kill -0 "$seqsvr_pid" 2>/dev/null || break
        port=$(sed -nE 's/.*listening on .*:([0-9]+): .*/\1/p' "$work/seqsvr.log")
    done
    if [[ -z $port ]]; then
        cat "$work/seqsvr.log" >&2
        die "$binary did not start"
    fi
    seqsvr_url=http://127.0.0.1:$port/new
    wait_for "$seqsvr_url" "$seqsvr_pid" "$work/seqsvr.log"
}

start_nginx() {
    # nginx can't choose a port itself: one that nobody answers on.
    local port
    for ((;;)); do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    mkdir "$work/nginx"
    # The same body and headers as seqsvr's, with an id of some digits; nginx adds a `Server` and a `Connection` of
    # its own.
    cat >"$work/nginx/nginx.conf" <<END
daemon off;
pid $work/nginx/pid;
worker_processes $(nproc);
error_log stderr;
events { worker_connections 1024; }
http {
    access_log off;
    keepalive_requests 1000000000;
    server_tokens off;
    default_type application/json;
    client_body_temp_path $work/nginx/body;
    proxy_temp_path $work/nginx/proxy;
    fastcgi_temp_path $work/nginx/fastcgi;
    uwsgi_temp_path $work/nginx/uwsgi;
    scgi_temp_path $work/nginx/scgi;
    server {
        listen 127.0.0.1:$port;
        location / {
            add_header Cache-Control no-store;
            return 200 '{"code":0,"msg":"ok","data":{"id":1000000}}';
        }
    }
}
END
    nginx -e stderr -p "$work/nginx" -c "$work/nginx/nginx.conf" >"$work/nginx.log" 2>&1 &
    nginx_pid=$!
    pids+=("$nginx_pid")
    nginx_url=http://127.0.0.1:$port/
    wait_for "$nginx_url" "$nginx_pid" "$work/nginx.log"
}

# Prints the value of line $1 in wrk's output $2.
value() {
    awk -v name="$1" '$1 == name { print $2 }' "$2"
}

# Measures server $1 (process $2, URL $3) once; adds to its lists of requests a second and microseconds a request.
measure() {
    local before after out=$work/$1.wrk requests status=0 bad
    before=$(ticks "$2")
    wrk -t"$threads" -c"$connections" -d"${seconds}s" -s "$script" "$3" >"$out" 2>&1 || status=$?
    after=$(ticks "$2")
    requests=$(value requests "$out")
    if [[ ! ${requests:-0} -gt 0 ]]; then
        cat "$out" >&2
        die "wrk got no answer from $1 (exit code $status)"
    fi
    # Nothing but seqsvr promises not to repeat itself.
    if [[ $1 == seqsvr ]]; then
        bad=$(awk '/^(errors|repeats|unchecked|broken_connections|timeouts) / { n += $2 } END { print n + 0 }' "$out")
        if [[ $status -ne 0 || $bad -ne 0 ]]; then
            cat "$out" >&2
            die "seqsvr gave errors or repeats"
        fi
    fi
    awk -v ticks=$((after - before)) -v hertz="$(getconf CLK_TCK)" -v requests="$requests" \
        -v rate="$(value requests_per_second "$out")" -v p50="$(value p50_ms "$out")" -v p99="$(value p99_ms "$out")" \
        -v name="$1" 'BEGIN {
            us = ticks / hertz / requests * 1e6
            printf "%-7s %8d req/s  %6.2f us of processor time a request  p50 %.2f ms  p99 %.2f ms\n", name, rate, us, p50, p99
        }' | tee -a "$work/rounds"
}

# Prints the median of field $2 in the rounds of server $1.
median() {
    awk -v name="$1" -v field="$2" '$1 == name { print $field }' "$work/rounds" | sort -n |
        awk '{ a[NR] = $1 } END { print NR % 2 ? a[(NR + 1) / 2] : (a[NR / 2] + a[NR / 2 + 1]) / 2 }'
}

command -v wrk >/dev/null || die "wrk is missing: apt-get install wrk"
command -v curl >/dev/null || die "curl is missing: apt-get install curl"

if [[ -n ${SEQSVR_BIN:-} ]]; then
    binary=$(realpath "$SEQSVR_BIN")
else
    cargo bench --bench next
    cargo build --release
    binary=${CARGO_TARGET_DIR:-target}/release/seqsvr
    binary=$(realpath "$binary")
fi
[[ -x $binary ]] || die "$binary can't be run"

work=$(mktemp -d)
start_seqsvr
servers=(seqsvr)
if command -v nginx >/dev/null; then
    # Its workers give up root's rights, and must be able to read what is theirs.
    chmod 755 "$work"
    start_nginx
    servers+=(nginx)
    for server in "${servers[@]}"; do
        url=${server}_url
        curl -si "${!url}" | wc -c | xargs echo "bytes of an answer of $server:"
    done
else
    echo "nginx is not installed: no yardstick (apt-get install nginx-light)"
fi

for ((round = 1; round <= rounds; round++)); do
    for server in "${servers[@]}"; do
        pid=${server}_pid url=${server}_url
        measure "$server" "${!pid}" "${!url}"
    done
done

echo
for server in "${servers[@]}"; do
    echo "$server, median of $rounds: $(median "$server" 2) req/s," \
        "$(median "$server" 4) us of processor time a request"
done
if [[ ${#servers[@]} -eq 2 ]]; then
    awk -v s="$(median seqsvr 4)" -v n="$(median nginx 4)" -v sr="$(median seqsvr 2)" -v nr="$(median nginx 2)" \
        'BEGIN { printf "seqsvr / nginx: %.2f in processor time a request, %.2f in req/s\n", s / n, sr / nr }'
fi
