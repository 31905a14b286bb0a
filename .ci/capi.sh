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

# An image with newer QEMU tools takes its emulator from Debian's backports, so that nothing has to go for it.
get_qemu() {
  get qemu-system-arm && return
  local sudo='' release
  [ "$(id -u)" = 0 ] || sudo=sudo
  release=$(. /etc/os-release && echo "$VERSION_CODENAME-backports")
  sed -n '1,/^$/p' /etc/apt/sources.list.d/debian.sources | sed "s/^Suites:.*/Suites: $release/; s/^Components:.*/Components: main/" |
    $sudo tee "/etc/apt/sources.list.d/$release.sources" >/dev/null
  get -t "$release" qemu-system-arm
}

# No C library is needed: the examples bring their own start-up code.
command -v arm-none-eabi-gcc >/dev/null || get gcc-arm-none-eabi
command -v qemu-system-arm >/dev/null || get_qemu

# Rust for the target, or its sources (embedded.sh knows how).
[ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] || bash .ci/embedded.sh "$target"

BROOKLET_ARM=1 cargo test --release -p brooklet-cli --test c_programs
