#!/usr/bin/env bash
# Makes sure that the database servers and tools the tests start are on this
# machine, and prints their versions. When they are, it changes nothing and asks
# no network.
#
#   MariaDB  mariadbd of the system; the packages mariadb-server-core and, since
#            10.11.19, mariadb-client-core (my_print_defaults) have the programs
#            only, so no service starts on their account
#   MySQL 9  no Debian release has it, unstable does: its packages and all their
#            libraries, libc included, are unpacked into a cache folder and run
#            from there by their own loader; the system isn't touched
#   Galera   its library, and the scripts by which a node copies another's data;
#            these are in mariadb-server, which would start a service, so both are
#            unpacked into the cache folder
#   others   nginx, haproxy, prometheus, rsync, lsof, ss, strace and libfaketime of the system
#
# The cache is ${SEQSVR_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/seqsvr}; the
# tests find MySQL by the same rule (tests/support/database.rs).
set -euo pipefail

# Servers live in sbin, which isn't on a normal user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

cache=${SEQSVR_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/seqsvr}
mkdir -p "$cache/mysql"
cache=$(cd "$cache" && pwd)
mysql_root=$cache/mysql/root
galera_root=$cache/galera/root
policy=/usr/sbin/policy-rc.d
log=$cache/test-deps.log
: >"$log"
work=
made_policy=

finish() {
    local status=$?
    if [[ $status -ne 0 && -s $log ]]; then
        echo "test-deps: failed; the end of $log:" >&2
        tail -n 40 "$log" >&2
    fi
    if [[ -n $work ]]; then rm -rf "$work"; fi
    if [[ -n $made_policy ]]; then rm -f "$policy"; fi
}
trap finish EXIT

die() {
    echo "test-deps: $*" >&2
    exit 1
}

# Succeeds on Debian itself: a derivative's mirrors don't have Debian's unstable.
is_debian() {
    # shellcheck source=/dev/null
    [[ -r /etc/os-release && $(. /etc/os-release && echo "${ID:-}") == debian ]]
}

# Prints the version in what a server says to --version.
version_of() {
    "$@" --no-defaults --version 2>>"$log" | sed -nE 's/.* Ver ([^ ]+) .*/\1/p' | grep .
}

mysql_version() {
    local loader
    # Debian's folder of libraries has the machine's name in it, and so has the loader.
    loader=$(find "$mysql_root/usr/lib" -maxdepth 2 -name 'ld-linux*' -path '*-linux-gnu*/*' 2>>"$log" | head -n 1)
    [[ -n $loader ]] || return 1
    version_of "$loader" --library-path "${loader%/*}" "$mysql_root/usr/sbin/mysqld"
}

install_mariadb() {
    if [[ $EUID -ne 0 ]] || ! is_debian; then
        die "mariadbd, mariadb-install-db and my_print_defaults are missing: install MariaDB's programs" \
            "(on Debian, as root: apt-get install --no-install-recommends mariadb-server-core mariadb-client-core)"
    fi
    echo "test-deps: installing mariadb-server-core, mariadb-client-core" >&2
    apt-get update >>"$log" 2>&1
    apt-get install -y --no-install-recommends mariadb-server-core mariadb-client-core >>"$log" 2>&1
}

# Writes an apt configuration that keeps apt's lists, downloads and locks in the
# folder $1. It's read after the system's own, so proxies and mirrors stay in
# force, but not the system's pins and hooks. The package status is empty, so
# that every dependency counts as missing.
write_apt_conf() {
    mkdir -p "$1/state/lists/partial" "$1/cache/archives/partial"
    : >"$1/state/status"
    cat >"$1/apt.conf" <<END
Dir::State "$1/state";
Dir::State::status "$1/state/status";
Dir::Cache "$1/cache";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
END
}

# Prints the URI of the Debian mirror that this machine's apt uses; the archive of
# security updates is another one, and has no unstable.
debian_mirror() {
    # shellcheck disable=SC2016 # the $(...) are apt's own
    apt-get "$@" indextargets --format '$(ORIGIN)|$(SUITE)|$(REPO_URI)' 'Created-By: Packages' 2>>"$log" |
        awk -F '|' '$1 == "Debian" && $2 !~ /-security/ && $3 !~ /^cdrom:/ && !uri { uri = $3 } END { print uri }'
}

install_mysql() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror deb new
    is_debian || die "MySQL 9 is missing, and this can fetch it on Debian only: run the tests there," \
        "or unpack Debian unstable's mysql-server-core with all its dependencies into $mysql_root"
    [[ -r $keyring ]] || die "$keyring is missing: install debian-archive-keyring"
    echo "test-deps: fetching MySQL 9 into $mysql_root" >&2

    # In the cache folder, for the rename at the end to be atomic.
    work=$(mktemp -d "$cache/mysql/work.XXXXXX")
    write_apt_conf "$work"

    mirror=$(debian_mirror)
    if [[ -z $mirror ]]; then
        # apt knows a mirror's origin only once it has read its lists, which a
        # fresh machine has not. A third party's mirror that fails is no matter.
        apt-get -c "$work/apt.conf" update >>"$log" 2>&1 || true
        mirror=$(debian_mirror -c "$work/apt.conf")
    fi
    [[ -n $mirror ]] || die "apt's sources name no Debian mirror"

    echo "deb [arch=$(dpkg --print-architecture) target=Packages lang=none signed-by=$keyring] $mirror unstable main" \
        >"$work/sources.list"
    cat >>"$work/apt.conf" <<END
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "/dev/null";
END
    apt-get -c "$work/apt.conf" update >>"$log" 2>&1
    apt-get -c "$work/apt.conf" install -y --no-install-recommends --download-only mysql-server-core >>"$log" 2>&1

    new=$work/root
    for deb in "$work"/cache/archives/*.deb; do
        dpkg -x "$deb" "$new" >>"$log" 2>&1
    done
    # mysqld, its libraries, plugins and messages are all that is needed.
    (
        cd "$new"
        rm -rf ./{bin,etc,sbin,var} ./usr/{bin,libexec} ./usr/lib/{apparmor,debug,systemd,tmpfiles.d} \
            ./usr/lib/*/{gconv,perl,perl5,perl-base} ./usr/share/{doc,gcc,gdb,lintian,locale,man,perl,perl5}
    )
    # A root that's there already but doesn't run is of no use to anyone.
    rm -rf "$mysql_root"
    mv -T "$new" "$mysql_root"
}

# Prints the packages of the tools that are missing.
missing_tools() {
    local tool
    for tool in nginx:nginx-light haproxy:haproxy prometheus:prometheus rsync:rsync lsof:lsof ss:iproute2 strace:strace; do
        command -v "${tool%:*}" >/dev/null || echo "${tool#*:}"
    done
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || echo libfaketime
}

install_tools() {
    local service
    if [[ $EUID -ne 0 ]] || ! is_debian; then
        die "these are missing, by the names of Debian's packages: $*"
    fi
    echo "test-deps: installing $*" >&2
    # No service is to start: 101 is "not allowed".
    if [[ ! -e $policy ]]; then
        made_policy=yes
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    apt-get update >>"$log" 2>&1
    apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1
    if command -v systemctl >/dev/null; then
        # Nor with the machine.
        for service in nginx haproxy prometheus; do
            if [[ " $*" == *" $service"* ]]; then systemctl disable "$service.service" >>"$log" 2>&1 || true; fi
        done
    fi
}

has_galera() {
    [[ -r $galera_root/lib/libgalera_smm.so && -x $galera_root/bin/wsrep_sst_rsync && -r $galera_root/bin/wsrep_sst_common ]]
}

install_galera() {
    local deb
    is_debian || die "Galera's library and scripts are missing, and this can fetch them on Debian only"
    echo "test-deps: fetching Galera into $galera_root" >&2
    mkdir -p "$cache/galera"
    work=$(mktemp -d "$cache/galera/work.XXXXXX")
    if [[ $EUID -eq 0 ]]; then apt-get update >>"$log" 2>&1; fi
    # In a folder that apt's own user may not read: it then fetches as this one.
    (cd "$work" && apt-get -o APT::Sandbox::User=root download galera-4 mariadb-server >>"$log" 2>&1)
    for deb in "$work"/*.deb; do
        dpkg -x "$deb" "$work/unpacked" >>"$log" 2>&1
    done
    mkdir -p "$work/root/lib" "$work/root/bin"
    cp "$work/unpacked/usr/lib/libgalera_smm.so" "$work/root/lib/"
    cp "$work"/unpacked/usr/bin/wsrep_sst_{common,rsync} "$work/root/bin/"
    # Started by root, rsync's daemon would become nobody, who may not write the data.
    # shellcheck disable=SC2016 # the $(...) are the script's own
    sed -i 's/^read only = no$/&\nuid = $(id -u)\ngid = $(id -g)/' "$work/root/bin/wsrep_sst_rsync"
    grep -q '^uid = ' "$work/root/bin/wsrep_sst_rsync" || die "wsrep_sst_rsync is not what it was"
    rm -rf "$galera_root"
    mv -T "$work/root" "$galera_root"
    rm -rf "$work"
    work=
}

if ! { command -v mariadbd && command -v mariadb-install-db && command -v my_print_defaults; } >/dev/null; then
    install_mariadb
fi
mariadb=$(command -v mariadbd)
version=$(version_of "$mariadb") || die "$mariadb doesn't run"
echo "mariadbd $version ($mariadb)"

if ! version=$(mysql_version); then
    install_mysql
    version=$(mysql_version) || die "$mysql_root/usr/sbin/mysqld doesn't run"
fi
echo "mysqld $version ($mysql_root/usr/sbin/mysqld)"

has_galera || install_galera
echo "galera ($galera_root)"

mapfile -t tools < <(missing_tools)
if [[ ${#tools[@]} -gt 0 ]]; then
    install_tools "${tools[@]}"
    mapfile -t tools < <(missing_tools)
    [[ ${#tools[@]} -eq 0 ]] || die "still missing: ${tools[*]}"
fi
echo "tools: nginx haproxy prometheus rsync lsof ss strace libfaketime"
