# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is used there
# What the scripts beside this one share, each of which reads it first: a folder that is gone at the end, a log of which the
# end is printed where it fails, and how packages are installed. What else is to be ended, a script's own clean_up does.
set -euo pipefail

# Servers live in sbin, which isn't on a normal user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

script=$(basename "$0" .sh)
# Stays, so that a second run fetches nothing.
cache=${SEQSVR_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/seqsvr}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
work=$(mktemp -d)
log=$work/log
policy=/usr/sbin/policy-rc.d
made_policy=

clean_up() { :; }

finish() {
    local status=$?
    clean_up
    if [[ $status -ne 0 && -s $log ]]; then
        say "failed; the end of what was printed:"
        tail -n 40 "$log" >&2
    fi
    if [[ -n $made_policy ]]; then rm -f "$policy"; fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

say() {
    echo "$script: $*" >&2
}

die() {
    say "$@"
    exit 1
}

# Prints what of program:package... is missing: the packages, each once.
missing_of() {
    local program
    for program; do
        command -v "${program%:*}" >/dev/null || echo "${program#*:}"
    done | sort -u
}

# Prints the services that start with the machine.
enabled() {
    command -v systemctl >/dev/null || return 0
    systemctl list-unit-files --state=enabled --no-legend | cut -d ' ' -f 1 | sort
}

# Installs Debian's packages, as root. None of their services starts, now or with the machine.
install_packages() {
    local before
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        die "these are missing, by the names of Debian's packages: $*"
    fi
    say "installing $*"
    # 101 is "not allowed".
    if [[ ! -e $policy ]]; then
        made_policy=yes
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    before=$(enabled)
    {
        apt-get -o DPkg::Lock::Timeout=300 update
        apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
        comm -13 <(echo "$before") <(enabled) | xargs --no-run-if-empty systemctl disable
    } >>"$log" 2>&1
}
