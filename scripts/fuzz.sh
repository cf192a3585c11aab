#!/usr/bin/env bash
# Gives random inputs to each target of fuzz/ (or to those named) for ${FUZZ_SECONDS:-60} seconds, and ends with 1 at the
# first that breaks a property. The stable toolchain is enough: libFuzzer steers, no sanitizer looks on, for there is
# no unsafe code to watch.
#
#   scripts/fuzz.sh                         all
#   FUZZ_SECONDS=600 scripts/fuzz.sh query  one, for longer
#
# It goes on from fuzz/corpus, which it fills and git does not keep, and from fuzz/seeds. An input that breaks something
# is in fuzz/artifacts: mend it, and add the input to fuzz/seeds, which `make test` tries too.
source "$(dirname "$0")/lib.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${FUZZ_SECONDS:-60}
targets=("$@")
if [[ ${#targets[@]} -eq 0 ]]; then targets=(query config node fast_path server); fi

# libFuzzer is C++.
command -v "${CXX:-c++}" >/dev/null || install_packages g++

for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target"
    cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -print_final_stats=1
done
