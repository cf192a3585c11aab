#!/usr/bin/env bash
# Asks a running server whatever openapi.yaml allows, and much that it does not, and compares each answer with what stands
# there: schemathesis. The server is the one at $1 (as `make api-check` builds it), on the embedded store in a temporary folder.
#
# The tools live in an environment of their own in ${SEQSVR_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/seqsvr}/api.
source "$(dirname "$0")/lib.sh"

schemathesis=4.32.5
validator=0.9.0
server=$(realpath "${1:?the path of seqsvr}")
cd "$(dirname "$0")/.."

pid=
clean_up() {
    if [[ -n $pid ]]; then
        kill "$pid" 2>/dev/null || true
        # What it ends with counts too: `status` is the caller's.
        wait "$pid" || status=1
    fi
}

tools=$cache/api
if [[ $(cat "$tools/versions" 2>/dev/null) != "$schemathesis $validator" ]]; then
    rm -rf "$tools"
    python3 -m venv "$tools" || die "python3 (3.10 or later) with venv is missing (on Debian, as root: apt-get install python3-venv)"
    "$tools/bin/pip" install --quiet "schemathesis==$schemathesis" "openapi-spec-validator==$validator"
    echo "$schemathesis $validator" >"$tools/versions"
fi

"$tools/bin/openapi-spec-validator" openapi.yaml
version=$("$server" --version)
grep -qFx "  version: ${version#seqsvr }" openapi.yaml || die "openapi.yaml tells of another version than $version"

# That `count` ends sooner without `ranges` OpenAPI can't say: here both end at 1000. How fast it is, is not asked.
sed 's/maximum: 1000000}/maximum: 1000}/' openapi.yaml >"$work/openapi.yaml"
grep -q 'maximum: 1000}' "$work/openapi.yaml" || die "the largest count does not stand in openapi.yaml as it did"
cat >"$work/config.yml" <<'END'
port: '127.0.0.1:0'
store: embedded
sequences: {orders: {}}
limits: {wait: 10s, batch: 1000, range: 1000}
END
(cd "$work" && exec "$server" 2>"$log") &
pid=$!
for _ in {1..200}; do
    url=$(sed -nE 's/.*listening on (http:[^ ]+): .*/\1/p' "$log" 2>/dev/null || true)
    [[ -z $url ]] || break
    kill -0 "$pid" 2>/dev/null || die "the server ended"
    sleep 0.1
done
[[ -n $url ]] || die "the server does not listen"

# Once for each shape of an answer: which one comes, the Accept header says, and that is no parameter of OpenAPI.
scripts=$PWD/scripts
export PYTHONPATH=$scripts PYTHONDONTWRITEBYTECODE=1
# It leaves a cache where it runs.
cd "$work"
for accept in application/json text/plain; do
    "$tools/bin/schemathesis" --config-file "$scripts/api-check.toml" run openapi.yaml --url "$url" --header "Accept: $accept"
done
if grep -E 'ERROR|panic' "$log"; then die "the server logged an error"; fi
