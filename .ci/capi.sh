#!/usr/bin/env bash
# The C interface on a microcontroller: installs a compiler and an emulator for Cortex-M where they are missing, then runs the
# C programs' tests so that none of them is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
target=thumbv7em-none-eabihf

bash .ci/install_embedded.sh qemu arm-c

# Rust for the target, or its sources.
[ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] || bash .ci/install_embedded.sh rust

BROOKLET_ARM=1 cargo test --workspace --release --test all c_programs::
