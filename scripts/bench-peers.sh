#!/usr/bin/env bash
# Makes sure that what `make bench` compares with is on this machine, and prints where it is. When all of it is, this
# changes nothing and asks no network. Peers that are missing are left out of the bench and named in its results, so this
# is for who wants all of them.
#
#   wrk              the load generator that users know
#   nginx            `return 200` of the same bytes
#   redis-server     INCR
#   mariadbd         NEXTVAL, and UPDATE with LAST_INSERT_ID
#   initdb, postgres nextval
#
# The packages are Debian's. No service is started on their account, now or with the machine.
set -euo pipefail

# Servers live in sbin, which isn't on a normal user's PATH; Postgres has a folder for each version.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
for folder in /usr/lib/postgresql/*/bin; do PATH=$PATH:$folder; done
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

programs=(wrk:wrk nginx:nginx-light redis-server:redis-server mariadbd:mariadb-server-core
    mariadb-install-db:mariadb-server-core initdb:postgresql postgres:postgresql)
policy=/usr/sbin/policy-rc.d
# What Debian's packages would start with the machine.
services=(nginx.service redis-server.service postgresql.service)
log=
made_policy=

finish() {
    local status=$?
    if [[ $status -ne 0 && -s $log ]]; then
        echo "bench-peers: failed; the end of what was printed:" >&2
        tail -n 40 "$log" >&2
    fi
    if [[ -n $log ]]; then rm -f "$log"; fi
    if [[ -n $made_policy ]]; then rm -f "$policy"; fi
}
trap finish EXIT

die() {
    echo "bench-peers: $*" >&2
    exit 1
}

# Prints the packages of the programs that are missing, each once.
missing() {
    local program
    for program in "${programs[@]}"; do
        command -v "${program%:*}" >/dev/null || echo "${program#*:}"
    done | sort -u
}

is_debian() {
    # shellcheck source=/dev/null
    [[ -r /etc/os-release && $(. /etc/os-release && echo "${ID:-} ${ID_LIKE:-}") == *debian* ]]
}

install() {
    local service
    if [[ $EUID -ne 0 ]] || ! is_debian; then
        die "these are missing, by the names of Debian's packages: $*"
    fi
    echo "bench-peers: installing $*" >&2
    log=$(mktemp)
    # No service is to start: 101 is "not allowed".
    if [[ ! -e $policy ]]; then
        made_policy=yes
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    apt-get update >>"$log" 2>&1
    apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1
    if command -v systemctl >/dev/null; then
        for service in "${services[@]}"; do systemctl disable "$service" >>"$log" 2>&1 || true; done
    fi
}

mapfile -t packages < <(missing)
if [[ ${#packages[@]} -gt 0 ]]; then
    install "${packages[@]}"
    for folder in /usr/lib/postgresql/*/bin; do PATH=$PATH:$folder; done
    mapfile -t packages < <(missing)
    [[ ${#packages[@]} -eq 0 ]] || die "still missing: ${packages[*]}"
fi
for program in "${programs[@]}"; do
    printf '%-18s %s\n' "${program%:*}" "$(command -v "${program%:*}")"
done
