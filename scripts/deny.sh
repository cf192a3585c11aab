#!/usr/bin/env bash
# Licences, bans, sources, and known vulnerabilities of the dependencies (deny.toml). The list of vulnerabilities is
# fetched from the network: where that can't be reached, this says so and checks the rest.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo deny --locked check bans licenses sources

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if cargo deny --locked fetch db >"$log" 2>&1; then
    cargo deny --locked check advisories
else
    echo "NOT CHECKED: known vulnerabilities. Their list can't be fetched from here:" >&2
    tail -n 3 "$log" >&2
fi
