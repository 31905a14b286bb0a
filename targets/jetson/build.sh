#!/usr/bin/env bash
# Builds the brooklet command for 64-bit Arm Linux on another machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=aarch64-unknown-linux-gnu
command -v aarch64-linux-gnu-gcc >/dev/null || { echo 'no aarch64-linux-gnu-gcc: install gcc-aarch64-linux-gnu and libc6-dev-arm64-cross' >&2; exit 1; }
[ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] || { echo "no Rust for $target: rustup target add $target" >&2; exit 1; }
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CARGO_PROFILE_RELEASE_STRIP=symbols
cargo build --release --target "$target" -p brooklet-cli "$@"
ls -l "target/$target/release/brooklet"
