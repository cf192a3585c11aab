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
source "$(dirname "$0")/lib.sh"

# Postgres has a folder for each version.
for folder in /usr/lib/postgresql/*/bin; do PATH=$PATH:$folder; done

programs=(wrk:wrk nginx:nginx-light redis-server:redis-server mariadbd:mariadb-server-core
    mariadb-install-db:mariadb-server-core initdb:postgresql postgres:postgresql)

mapfile -t packages < <(missing_of "${programs[@]}")
if [[ ${#packages[@]} -gt 0 ]]; then
    install_packages "${packages[@]}"
    for folder in /usr/lib/postgresql/*/bin; do PATH=$PATH:$folder; done
    mapfile -t packages < <(missing_of "${programs[@]}")
    [[ ${#packages[@]} -eq 0 ]] || die "still missing: ${packages[*]}"
fi
for program in "${programs[@]}"; do
    printf '%-18s %s\n' "${program%:*}" "$(command -v "${program%:*}")"
done
