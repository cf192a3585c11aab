#!/usr/bin/env bash
# Builds the image of Dockerfile and tries it, without Docker's daemon and without a registry of images (as root, on
# Debian). All is in a temporary folder, and gone at the end; the machine's crates and Debian's packages are what it needs
# of the network.
#
#   bases   made by debootstrap, under the names that Dockerfile has; Rust is this machine's, mounted
#   build   buildah, with chroot isolation
#   tried   with the image's entrypoint, user and environment, on a root that is read-only and has no shell, in a network
#           of its own: /new, the health check, a stop, a start on the same volume; and the size
source "$(dirname "$0")/lib.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What the image may have above its base.
most_bytes=$((30 * 1000 * 1000))
release=bookworm
base=docker.io/library/debian:$release-slim
rust=docker.io/library/rust:1-slim-$release
image=localhost/seqsvr:tried
url=http://127.0.0.1:8000

server=

clean_up() {
    if [[ -n $server ]]; then kill -KILL "$server" 2>/dev/null || true; fi
    if command -v buildah >/dev/null; then run_buildah umount --all >/dev/null 2>&1 || true; fi
}

# With a store of its own; vfs mounts nothing that could stay behind.
run_buildah() {
    buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"
}

bytes_of() {
    du --summarize --apparent-size --block-size=1 --one-file-system "$1" | cut -f 1
}

# Debian as the name $base has it, if not as slim; the size is above it, so that does not matter.
make_base() {
    local container root
    say "$base, by debootstrap"
    container=$(run_buildah from scratch)
    root=$(run_buildah mount "$container")
    debootstrap --variant=minbase "$release" "$root" >>"$log" 2>&1
    rm -rf "$root"/var/cache/apt/archives/*.deb
    base_bytes=$(bytes_of "$root")
    run_buildah umount "$container" >>"$log"
    run_buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    run_buildah commit --quiet --rm "$container" "$base" >>"$log" 2>&1
}

# The same with a C compiler; /opt/rust and /opt/cargo/registry are mounted when it is used.
make_rust() {
    local container
    say "$rust, with $(rustc --version)"
    container=$(run_buildah from --pull-never "$base")
    run_buildah run --isolation chroot "$container" -- sh -c \
        'apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev' >>"$log" 2>&1
    run_buildah config --env CARGO_HOME=/opt/cargo --env CARGO_NET_OFFLINE=true \
        --env PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    if [[ -n ${CARGO_BUILD_JOBS:-} ]]; then run_buildah config --env CARGO_BUILD_JOBS="$CARGO_BUILD_JOBS" "$container"; fi
    run_buildah commit --quiet --rm "$container" "$rust" >>"$log" 2>&1
}

build_image() {
    local cargo_home=${CARGO_HOME:-$HOME/.cargo} settings=() file
    # A source of crates that the machine's configuration puts in place of the usual one has a folder of its own.
    for file in config.toml config; do
        if [[ -f $cargo_home/$file ]]; then settings+=(--volume "$cargo_home/$file:/opt/cargo/$file:ro"); fi
    done
    cargo fetch --locked --target "$(rustc --version --verbose | sed -n 's/^host: //p')" >>"$log" 2>&1
    say "building, for minutes"
    run_buildah bud --isolation chroot --pull-never --format docker --tag "$image" \
        --volume "$(rustc --print sysroot):/opt/rust:ro" --volume "$cargo_home/registry:/opt/cargo/registry:ro" \
        "${settings[@]}" --file Dockerfile . >>"$log" 2>&1
}

# Prints what jq finds in the image's configuration, a line each.
configured() {
    jq --raw-output ".Docker.config | $1" "$work/image.json"
}

# Becomes the image's program $4... on the root $1 with the volume $2 at $3: as Docker does it with --read-only.
# shellcheck disable=SC2016 # to be expanded in there
in_container='
    set -eu
    root=$1 data=$2 volume=$3 user=$4 group=$5
    shift 5
    ip link set lo up
    mount --bind "$root" "$root"
    mount --bind "$data" "$root$volume"
    mount -t proc proc "$root/proc"
    mount -o remount,bind,ro "$root"
    exec setpriv --no-new-privs unshare --root "$root" --wd "$volume" --setgid "$group" --setuid "$user" "$@"
'

start() {
    env -i "${environment[@]}" unshare --mount --net --ipc --uts --propagation private \
        bash -c "$in_container" bash "$root" "$work/data" "$volume" "$user" "$group" "${entrypoint[@]}" "${arguments[@]}" \
        >>"$log" 2>&1 &
    server=$!
    # A minute, for a machine that is busy.
    for ((try = 0; try < 600; try++)); do
        kill -0 "$server" 2>/dev/null || die "the image's program has ended"
        if ask /livez >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    die "nothing listens in the container"
}

stop() {
    local status=0
    kill -TERM "$server"
    wait "$server" || status=$?
    server=
    [[ $status -eq 0 ]] || die "the container ended with $status in place of 0"
}

ask() {
    nsenter --target "$server" --net curl --silent --show-error --fail --max-time 10 "$url$1"
}

# Runs "$@" in the container that runs, as Docker runs a health check.
inside() {
    env -i "${environment[@]}" nsenter --target "$server" --mount --net --root --wd --setgid "$group" --setuid "$user" "$@"
}

try_image() {
    local container above first second line health
    run_buildah inspect --type image "$image" >"$work/image.json"
    mapfile -t entrypoint < <(configured '.Entrypoint[]')
    mapfile -t arguments < <(configured '.Cmd[]')
    mapfile -t environment < <(configured '.Env[]')
    mapfile -t health < <(configured '.Healthcheck.Test[1:][]')
    IFS=: read -r user group < <(configured .User)
    volume=$(configured '.Volumes | keys[0]')
    [[ $(configured '.Healthcheck.Test[0]') == CMD ]] || die "the health check needs a shell"

    container=$(run_buildah from --pull-never "$image")
    root=$(run_buildah mount "$container")
    above=$(($(bytes_of "$root") - base_bytes))
    [[ $above -lt $most_bytes ]] || die "the image is $above bytes above its base, and $most_bytes are the most"
    # Nothing in it may need them.
    rm -f "$root"/bin/{sh,bash,dash}
    # As a new volume begins.
    cp -a "$root$volume" "$work/data"

    start
    first=$(ask /new)
    [[ $first == '{"code":0,"msg":"ok","data":{"id":101}}' ]] || die "/new answers $first"
    line=$(inside "${health[@]}") || die "the health check fails: $line"
    echo "/new          $first"
    echo "health check  $line"

    for line in Uid:"$user" Gid:"$group" CapEff:0000000000000000 NoNewPrivs:1; do
        [[ $(awk -v what="${line%:*}:" '$1 == what { print $2 }' "/proc/$server/status") == "${line#*:}" ]] ||
            die "$(grep "^${line%:*}:" "/proc/$server/status"), in place of ${line#*:}"
    done
    [[ $user -ne 0 ]] || die "it runs as root"
    [[ ! -e /proc/$server/root/bin/sh ]] || die "there is a shell"
    if line=$(touch "/proc/$server/root/usr/local/bin/written" 2>&1); then die "its root can be written"; fi
    [[ $line == *"Read-only file system"* ]] || die "its root: $line"
    echo "runs as       user $user, group $group, no capabilities, read-only root, no shell"

    stop
    start
    second=$(ask /new | jq .data.id)
    [[ $second -gt 101 ]] || die "after a restart on the same volume /new begins with $second again"
    stop
    echo "restarted     on the same volume; goes on with $second"
    awk -v above="$above" -v most="$most_bytes" \
        'BEGIN { printf "size          %.1f MB above the base (at most %d)\n", above / 1e6, most / 1e6 }'
}

if [[ $EUID -ne 0 || ! -e /etc/debian_version ]]; then
    die "this needs root, on Debian; with Docker: docker build -t seqsvr ."
fi
mapfile -t missing < <(missing_of buildah:buildah debootstrap:debootstrap curl:curl jq:jq nsenter:util-linux ip:iproute2)
if [[ ${#missing[@]} -gt 0 ]]; then install_packages "${missing[@]}"; fi
make_base
make_rust
build_image
try_image
