#!/bin/bash -eu
# Builds every fuzz target with its seeds, dictionary and limits into $OUT, as ClusterFuzzLite and OSS-Fuzz expect it. The
# environment is theirs: $SRC, $OUT, $SANITIZER, and a nightly toolchain by RUSTUP_TOOLCHAIN.
cd "$SRC/qemu-snapshot"
# shellcheck source=../.ci/steps
source .ci/steps

# Optimised, with debug assertions: an overflow is a crash.
cargo fuzz build --sanitizer "${SANITIZER:-address}"

for source in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$source" .rs)
    cp "fuzz/target/x86_64-unknown-linux-gnu/release/$target" "$OUT/"
    seeds=$(mktemp -d)
    fuzz_seeds "$target" "$seeds"
    fuzz_found "$target" "$seeds"
    if [[ -n $(ls "$seeds") ]]; then
        (cd "$seeds" && zip -q -r "$OUT/${target}_seed_corpus.zip" .)
    fi
    rm -r "$seeds"
    if [[ -e fuzz/dictionaries/$target.dict ]]; then
        cp "fuzz/dictionaries/$target.dict" "$OUT/"
    fi
    # Memory and time for an input are what a stream or image of any size may cost; sanitizers come on top.
    cat > "$OUT/$target.options" << OPTIONS
[libfuzzer]
rss_limit_mb = 512
malloc_limit_mb = 256
timeout = 5
max_len = 131072

[asan]
quarantine_size_mb = 16
OPTIONS
done
