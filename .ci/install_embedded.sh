#!/usr/bin/env bash
# Installs what builds and emulates firmware, on Debian and its kin: `install_embedded.sh [rust] [qemu]`, nothing named: both. `aarch64`
# brings what links and emulates programs for 64-bit Arm Linux, `arm-c` a C compiler for Cortex-M.
# What is there already stays as it is; no package is removed, and the default Rust toolchain is never touched.
set -euo pipefail
parts=("${@:-rust qemu}")

sudo=''
[ "$(id -u)" = 0 ] || sudo=sudo

install_packages() {
  $sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove -o DPkg::Lock::Timeout=600 "$@" >/dev/null
}

# Debian's Rust comes with the source of `core`, from which cargo builds it for any target; it becomes the toolchain "debian".
install_rust() {
  if [ ! -f /usr/lib/rustlib/src/rust/library/Cargo.lock ] || [ ! -x /usr/bin/cargo ]; then
    install_packages rustc-web cargo-web rust-web-src rust-web-llvm
  fi
  rustup toolchain list | grep -q '^debian' || rustup toolchain link debian /usr
}

# No C library is needed: the examples bring their own start-up code.
install_arm_c() {
  command -v arm-none-eabi-gcc >/dev/null || install_packages gcc-arm-none-eabi
}

install_qemu() {
  command -v qemu-system-arm >/dev/null && command -v qemu-system-riscv32 >/dev/null && return
  install_emulators qemu-system-arm qemu-system-riscv
}

install_aarch64() {
  command -v aarch64-linux-gnu-gcc >/dev/null && [ -d /usr/aarch64-linux-gnu/lib ] || install_packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross
  command -v qemu-aarch64 >/dev/null || install_emulators qemu-user
}

# Debian 12's own QEMU is too old, and would replace newer parts of it that may be there: its backports have the same as Debian 13.
# Packages come from backports only where they are asked for.
install_emulators() {
  local suite=()
  if grep -qs 'VERSION_CODENAME=bookworm' /etc/os-release; then
    suite=(-t bookworm-backports)
    if ! grep -rqs 'bookworm-backports' /etc/apt/sources.list /etc/apt/sources.list.d/; then
      # The machine's own mirror and keyring, another suite.
      sed -n '1,/^$/p' /etc/apt/sources.list.d/debian.sources |
        sed 's/^Suites:.*/Suites: bookworm-backports/; s/^Components:.*/Components: main/' |
        $sudo tee /etc/apt/sources.list.d/bookworm-backports.sources >/dev/null
    fi
  fi
  install_packages "${suite[@]}" "$@"
}

# shellcheck disable=SC2068
for part in ${parts[@]}; do
  case "$part" in
    rust) install_rust ;;
    qemu) install_qemu ;;
    aarch64) install_aarch64 ;;
    arm-c) install_arm_c ;;
    *) echo "install_embedded.sh: rust, qemu, aarch64 or arm-c, not $part" >&2; exit 2 ;;
  esac
done
