#!/usr/bin/env bash
# Fuzzes a reader of checkpoints for some seconds: tests/fuzz/run.sh gguf|safetensors SECONDS
# Any Rust will do (RUSTC_BOOTSTRAP lets a stable one instrument); libFuzzer needs a C++ compiler. Inputs that break the reader are left in
# tests/fuzz/found.
set -euo pipefail
cd "$(dirname "$0")"
target=$1 seconds=${2:-600}
fixtures=../fixtures
export RUSTC_BOOTSTRAP=1 CARGO_ENCODED_RUSTFLAGS=
printf -v CARGO_ENCODED_RUSTFLAGS '%s\x1f' --cfg=fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
CARGO_ENCODED_RUSTFLAGS+=-Cforce-frame-pointers=yes
# With a target given, build scripts and macros stay without the instrumentation.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host" --bin "$target"
# The fixtures' own files to begin with; what is found besides is kept in corpus/.
mkdir -p "corpus/$target" "found" "seeds/$target"
if [ "$target" = gguf ]; then
  for file in "$fixtures"/gguf/*.gguf; do cp "$file" "seeds/gguf/$(basename "$file")"; done
else
  for dir in "$fixtures"/families/*/; do
    if [ -f "$dir/model.safetensors" ]; then { cat "$dir/config.json"; printf '\0'; cat "$dir/model.safetensors"; } > "seeds/safetensors/$(basename "$dir")"; fi
  done
fi
"target/$host/release/$target" "corpus/$target" "seeds/$target" -dict="$target.dict" -artifact_prefix=found/ -max_total_time="$seconds" \
  -rss_limit_mb=1500 -malloc_limit_mb=256 -timeout=20 -max_len=200000 -print_final_stats=1
