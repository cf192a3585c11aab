#!/usr/bin/env bash
# Makes the passwords of compose.yaml in deploy/secrets, each once: what is there stays.
set -euo pipefail
cd "$(dirname "$0")"

# Containers read the files as users of their own, so the folder, which they do not see, is what keeps others out.
install -d -m 0700 secrets
for name in mysql mysql_root grafana; do
    if [[ ! -e secrets/$name ]]; then
        (set -o noclobber && head -c 24 /dev/urandom | base64 >"secrets/$name")
        chmod 0644 "secrets/$name"
    fi
done
