#!/usr/bin/env bash
# Validates what is in deploy/ by the tools that it is for; what is missing of them is installed (Debian's packages, as
# root; PyPI's in an environment of Python's in the cache folder). Ends with 1 at the first that is not right.
#
#   compose.yaml     check-jsonschema, by compose-spec's schema; docker-compose, that names lead somewhere
#   kubernetes/      kubectl kustomize, then kubernetes-validate by the strict schemas of two releases
#   seqsvr.service   systemd-analyze verify, and security: below 2.5 of 10
#   scripts          shellcheck, all of this repository's
#
# That seqsvr itself takes the configurations there, and that the files fit each other, is tests/it/deploy.rs.
source "$(dirname "$0")/lib.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools=$cache/deploy-check
python_packages=(check-jsonschema==0.39.0 kubernetes-validate==1.37.0)
# The oldest that kustomization.yaml names, and the newest that the validator knows.
kubernetes=(1.27 1.37)
# In tenths.
most_exposure=24

install_tools() {
    local missing
    mapfile -t missing < <(missing_of docker-compose:docker-compose kubectl:kubernetes-client systemd-analyze:systemd \
        shellcheck:shellcheck)
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    if [[ ${#missing[@]} -gt 0 ]]; then install_packages "${missing[@]}"; fi
    if [[ "$(cat "$tools/packages" 2>/dev/null)" != "${python_packages[*]}" ]]; then
        say "installing ${python_packages[*]}"
        python3 -m venv --clear "$tools/venv" >>"$log" 2>&1
        "$tools/venv/bin/pip" install --quiet "${python_packages[@]}" >>"$log" 2>&1
        echo "${python_packages[*]}" >"$tools/packages"
    fi
}

check_compose() {
    "$tools/venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose.yaml >>"$log" 2>&1
    docker-compose -f deploy/compose.yaml config --quiet >>"$log" 2>&1
    echo "ok  deploy/compose.yaml"
}

check_kubernetes() {
    local version name
    cp -r deploy/kubernetes "$work/kubernetes"
    # Each operator makes it; git has none.
    printf 'not a password' >"$work/kubernetes/mysql-password"
    kubectl kustomize "$work/kubernetes" >"$work/manifests.yaml" 2>>"$log"
    # What is generated is used: its name, with the hash, stands there twice.
    while read -r name; do
        [[ $(grep -c ": $name\$" "$work/manifests.yaml") -eq 2 ]] || die "nothing in deploy/kubernetes uses $name"
    done < <(sed -nE 's/^  name: (.*-[0-9a-z]{10})$/\1/p' "$work/manifests.yaml" | grep .)
    for version in "${kubernetes[@]}"; do
        "$tools/venv/bin/kubernetes-validate" --strict -k "$version" "$work/manifests.yaml" >>"$log" 2>&1
        echo "ok  deploy/kubernetes, $(grep -c '^kind:' "$work/manifests.yaml") resources, by Kubernetes $version"
    done
}

check_systemd() {
    # The binary is not on this machine.
    sed "s|/usr/local/bin/seqsvr|$(command -v true)|" deploy/seqsvr.service >"$work/seqsvr.service"
    # Ends with 1 also at what it passes over with a warning.
    systemd-analyze verify --man=no --recursive-errors=no "$work/seqsvr.service" >>"$log" 2>&1
    systemd-analyze security --no-pager --offline=true --threshold="$most_exposure" "$work/seqsvr.service" >>"$log" 2>&1
    echo "ok  deploy/seqsvr.service, $(sed -n 's/.*Overall/overall/p' "$log")"
}

install_tools
check_compose
check_kubernetes
check_systemd
shellcheck deploy/*.sh scripts/*.sh .ci/run >>"$log" 2>&1
echo "ok  scripts"
