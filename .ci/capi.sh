#!/usr/bin/env bash
# The C interface on a microcontroller: installs a compiler and an emulator for Cortex-M where they are missing, then runs the
# C programs' tests so that none of them is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
target=thumbv7em-none-eabihf

get() {
  local sudo=''
  [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove -o DPkg::Lock::Timeout=600 "$@" >/dev/null
}

# No C library is needed: the examples bring their own start-up code.
command -v arm-none-eabi-gcc >/dev/null || get gcc-arm-none-eabi
bash .ci/install_embedded.sh qemu

# Rust for the target, or its sources.
[ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] || bash .ci/install_embedded.sh rust

BROOKLET_ARM=1 cargo test --workspace --release --test c_programs
