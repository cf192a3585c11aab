#!/usr/bin/env bash
# Makes sure that the database servers and tools the tests start are on this
# machine, and prints their versions. When they are, it changes nothing and asks
# no network.
#
#   MariaDB  mariadbd of the system
#   MySQL 9  no Debian release has it, unstable does: its packages and all their
#            libraries, libc included, are unpacked into a cache folder and run
#            from there by their own loader; the system isn't touched
#   Galera   its library, and the scripts by which a node copies another's data;
#            these are in mariadb-server, which would start a service, so both are
#            unpacked into the cache folder
#   others   nginx, haproxy, prometheus, rsync, lsof, ss, strace, bindfs and
#            libfaketime of the system
#
# The cache is ${SEQSVR_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/seqsvr}; the
# tests find MySQL by the same rule (tests/support/process.rs).
source "$(dirname "$0")/lib.sh"

mkdir -p "$cache/mysql"
mysql_root=$cache/mysql/root
galera_root=$cache/galera/root
# Where something is fetched: beside where it goes, for the rename at the end to be atomic.
fetched=
clean_up() {
    if [[ -n $fetched ]]; then rm -rf "$fetched"; fi
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
    say "fetching MySQL 9 into $mysql_root"

    fetched=$(mktemp -d "$cache/mysql/work.XXXXXX")
    write_apt_conf "$fetched"

    mirror=$(debian_mirror)
    if [[ -z $mirror ]]; then
        # apt knows a mirror's origin only once it has read its lists, which a
        # fresh machine has not. A third party's mirror that fails is no matter.
        apt-get -c "$fetched/apt.conf" update >>"$log" 2>&1 || true
        mirror=$(debian_mirror -c "$fetched/apt.conf")
    fi
    [[ -n $mirror ]] || die "apt's sources name no Debian mirror"

    echo "deb [arch=$(dpkg --print-architecture) target=Packages lang=none signed-by=$keyring] $mirror unstable main" \
        >"$fetched/sources.list"
    cat >>"$fetched/apt.conf" <<END
Dir::Etc::sourcelist "$fetched/sources.list";
Dir::Etc::sourceparts "/dev/null";
END
    apt-get -c "$fetched/apt.conf" update >>"$log" 2>&1
    apt-get -c "$fetched/apt.conf" install -y --no-install-recommends --download-only mysql-server-core >>"$log" 2>&1

    new=$work/root
    for deb in "$fetched"/cache/archives/*.deb; do
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
    clean_up
}

# Prints the packages that are missing.
missing() {
    missing_of mariadbd:mariadb-server-core mariadb-install-db:mariadb-server-core my_print_defaults:mariadb-client-core \
        nginx:nginx-light haproxy:haproxy prometheus:prometheus rsync:rsync lsof:lsof ss:iproute2 strace:strace \
        bindfs:bindfs fusermount3:fuse3
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || echo libfaketime
}

has_galera() {
    [[ -r $galera_root/lib/libgalera_smm.so && -x $galera_root/bin/wsrep_sst_rsync && -r $galera_root/bin/wsrep_sst_common &&
        -r $galera_root/plugin/auth_ed25519.so ]]
}

install_galera() {
    local deb
    is_debian || die "Galera's library and scripts are missing, and this can fetch them on Debian only"
    say "fetching Galera into $galera_root"
    mkdir -p "$cache/galera"
    fetched=$(mktemp -d "$cache/galera/work.XXXXXX")
    if [[ $EUID -eq 0 ]]; then apt-get update >>"$log" 2>&1; fi
    # In a folder that apt's own user may not read: it then fetches as this one.
    (cd "$fetched" && apt-get -o APT::Sandbox::User=root download galera-4 mariadb-server >>"$log" 2>&1)
    for deb in "$fetched"/*.deb; do
        dpkg -x "$deb" "$fetched/unpacked" >>"$log" 2>&1
    done
    mkdir -p "$fetched/root/lib" "$fetched/root/bin" "$fetched/root/plugin"
    cp "$fetched/unpacked/usr/lib/libgalera_smm.so" "$fetched/root/lib/"
    cp "$fetched/unpacked/usr/lib/mysql/plugin/auth_ed25519.so" "$fetched/root/plugin/"
    cp "$fetched"/unpacked/usr/bin/wsrep_sst_{common,rsync} "$fetched/root/bin/"
    # Started by root, rsync's daemon would become nobody, who may not write the data.
    # shellcheck disable=SC2016 # the $(...) are the script's own
    sed -i 's/^read only = no$/&\nuid = $(id -u)\ngid = $(id -g)/' "$fetched/root/bin/wsrep_sst_rsync"
    grep -q '^uid = ' "$fetched/root/bin/wsrep_sst_rsync" || die "wsrep_sst_rsync is not what it was"
    rm -rf "$galera_root"
    mv -T "$fetched/root" "$galera_root"
}

mapfile -t packages < <(missing)
if [[ ${#packages[@]} -gt 0 ]]; then
    install_packages "${packages[@]}"
    mapfile -t packages < <(missing)
    [[ ${#packages[@]} -eq 0 ]] || die "still missing: ${packages[*]}"
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

echo "tools: nginx haproxy prometheus rsync lsof ss strace bindfs libfaketime"
