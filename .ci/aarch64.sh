#!/usr/bin/env bash
# 64-bit Arm: the kernels' and the runtime's tests, and 2,000 steps of whole models, on emulated cores of three generations. Every back-end
# must give the bits that this host gives.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu

bash .ci/install_embedded.sh aarch64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64 QEMU_LD_PREFIX=/usr/aarch64-linux-gnu
# The toolchain's own target will do (`rustup target add ..`); where it is not, Debian's Rust builds `std`.
if rustup target list --installed | grep -qx "$target"; then
  arm_cargo() { cargo "$1" --release -q --target "$target" --target-dir target/aarch64 "${@:2}"; }
else
  bash .ci/install_embedded.sh rust
  arm_cargo() {
    # Without what prints the lines of a backtrace: four crates less.
    RUSTC_BOOTSTRAP=1 cargo +debian "$1" -Zbuild-std=std,panic_abort,test -Zbuild-std-features=panic-unwind --release -q --target "$target" --target-dir target/aarch64 "${@:2}"
  }
fi

# Hybrids with both kinds of attention cache and both recurrences, one with heads in its scan; a classifier of sensor frames.
models=target/aarch64/models
mkdir -p "$models"
for model in granite-rope:q4 jamba-dense:q8 zamba:q4; do
  ${BROOKLET:-cargo run --release -q --} quantize "tests/fixtures/families/${model%:*}" -o "$models/${model%:*}.brook" --context 100 --format "${model#*:}" >/dev/null 2>&1
done
files=("$models"/{granite-rope,jamba-dense,zamba}.brook examples/models/watch-small.brook)
# One line a file: hash, path.
cargo build --workspace --release -q --example back_ends
want=$(target/release/examples/back_ends "${files[@]}" | awk '{ print $1, $2 }' | uniq)

arm_cargo build -p brooklet --features std --example back_ends
# The newest core has every back-end, and computes most; the others must show that they are taken for what they are, and need nothing newer.
for core in '20 cortex-a72 portable neon' '20 neoverse-n1 portable neon dotprod' '60 max portable neon dotprod i8mm'; do
  read -r cases cpu back_ends <<<"$core"
  echo "-- $cpu: $back_ends"
  export QEMU_CPU=$cpu
  PROPTEST_CASES=$cases arm_cargo test -p brooklet-kernels -p brooklet --features brooklet/std --lib --tests
  got=$(qemu-aarch64 "target/aarch64/$target/release/examples/back_ends" "${files[@]}")
  echo "$got"
  [ "$(awk '{ print $3 }' <<<"$got" | awk '!seen[$0]++' | xargs)" = "$back_ends" ] || { echo "$cpu must have the back-ends $back_ends" >&2; exit 1; }
  [ "$(awk '{ print $1, $2 }' <<<"$got" | uniq)" = "$want" ] || { printf '%s\n' "$cpu gives other bits than this host:" "$want" >&2; exit 1; }
done
