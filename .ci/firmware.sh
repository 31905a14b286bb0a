#!/usr/bin/env bash
# Firmware: lints and tests of the board-free parts; every board's programs, built, run in QEMU, and compared with the host; then
# what must hold of the linked programs: no panics, bounded stack, flash and RAM within their limits.
set -euo pipefail
cd "$(dirname "$0")/.."

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
cargo xtask firmware
cargo xtask panics
cargo xtask stack
cargo xtask size
