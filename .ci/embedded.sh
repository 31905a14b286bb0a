#!/usr/bin/env bash
# Builds the library crates for targets without an operating system: the proof that they need neither std nor a heap.
# Targets as arguments; without any, all that are supported.
set -euo pipefail
cd "$(dirname "$0")/.."

# The toolchain's own targets will do (`rustup target add ..`); where they are not, Debian's Rust builds `core`.
if ! rustup target list --installed | grep -q thumbv6m-none-eabi; then
  bash .ci/install_embedded.sh rust
fi
${XTASK:-cargo xtask} libraries "$@"
