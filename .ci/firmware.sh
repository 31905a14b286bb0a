#!/usr/bin/env bash
# Firmware: lints and tests of the board-free parts; every board's programs, built, run in QEMU, and compared with the host; then
# what must hold of the linked programs: no panics, bounded stack, flash and RAM within their limits.
set -euo pipefail
cd "$(dirname "$0")/.."
xtask=${XTASK:-cargo xtask}

bash .ci/install_embedded.sh qemu
if ! rustup target list --installed | grep -q thumbv6m-none-eabi; then
  bash .ci/install_embedded.sh rust
fi

(
  cd targets/cortex-m
  cargo fmt --all --check
  cargo clippy --package brooklet-app --package brooklet-bundle --all-targets -- -D warnings
  cargo test --package brooklet-app
)
$xtask check
# What is fitted to a device fits it: all of what the watch has, and so little flash that a part must be 4-bit.
for flash_kib in 512 148; do
  fitted=target/firmware/fitted-$flash_kib.brook
  ${BROOKLET:-cargo run --release --package brooklet-cli --} quantize examples/models/watch -o "$fitted" --flash ${flash_kib}KiB --ram 64KiB --core cortex-m4f
  $xtask size --model "$fitted" --flash $((flash_kib * 1024)) --ram 65536
done
