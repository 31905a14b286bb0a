#!/usr/bin/env bash
# Builds the library crates for targets without an operating system: the proof that they need neither std nor a heap.
#
# Uses the toolchain's own target if it is there (`rustup target add thumbv7em-none-eabihf`), else Debian's Rust packages,
# which ship the standard library's source, as a second toolchain named "debian". Never touches the default toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."
targets=("${@:-thumbv7em-none-eabihf}")

has_target() { [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]; }

install_debian_toolchain() {
  [ -f /usr/lib/rustlib/src/rust/library/Cargo.lock ] && [ -x /usr/bin/cargo ] && return
  local sudo=''
  [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 \
    rustc-web cargo-web rust-web-src rust-web-llvm >/dev/null
}

for target in "${targets[@]}"; do
  if has_target "$target"; then
    cargo build --release --target "$target" -p brooklet -p brooklet-device
  else
    install_debian_toolchain
    rustup toolchain list | grep -q '^debian' || rustup toolchain link debian /usr
    RUSTC_BOOTSTRAP=1 cargo +debian build --release --target "$target" -p brooklet -p brooklet-device \
      -Zbuild-std=core -Zbuild-std-features=compiler-builtins-mem --target-dir target/no-std
  fi
  echo "brooklet and brooklet-device build for $target without std and without alloc"
done
