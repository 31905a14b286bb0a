#!/usr/bin/env bash
# Instructions per multiplication and per step on emulated Cortex-M boards, under QEMU's -icount: the same on every machine and run.
#   run.sh [BOARD..]      default: all four. A Cortex-M4F, M7, M33 and M55.
#
# Uses the toolchain's own targets if they are there (`rustup target add thumbv7em-none-eabihf thumbv8m.main-none-eabihf`), else
# a toolchain "debian" with the standard library's source, as .ci/embedded.sh does.
set -euo pipefail
cd "$(dirname "$0")"
boards=("${@:-}")
[ -n "${boards[0]}" ] || boards=(mps2-an386 mps2-an500 mps2-an505 mps3-an547)

has_target() { [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]; }

for board in "${boards[@]}"; do
  case $board in
    mps2-an386) core='Cortex-M4F'; folder=m4; target=thumbv7em-none-eabihf; flags='' ;;
    mps2-an500) core='Cortex-M7'; folder=m4; target=thumbv7em-none-eabihf; flags='' ;;
    mps2-an505) core='Cortex-M33'; folder=m33; target=thumbv8m.main-none-eabihf; flags='-Ctarget-cpu=cortex-m33' ;;
    mps3-an547) core='Cortex-M55'; folder=m55; target=thumbv8m.main-none-eabihf; flags='-Ctarget-cpu=cortex-m55 -Ctarget-feature=-mve.fp' ;;
    *) echo "no board $board" >&2; exit 1 ;;
  esac
  # One folder per set of flags: other flags would rebuild everything.
  build=(build --release --target "$target" --target-dir "target/$folder")
  if has_target "$target"; then
    BOARD=$board RUSTFLAGS=$flags cargo "${build[@]}"
  else
    # Debian's Rust comes without the linker that rustup's brings.
    sysroot=$(rustc --print sysroot)
    linker=$sysroot/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/rust-lld
    variable=CARGO_TARGET_$(tr a-z.- A-Z__ <<<"$target")_LINKER
    [ ! -x "$linker" ] || export "$variable=$linker"
    BOARD=$board RUSTFLAGS=$flags RUSTC_BOOTSTRAP=1 cargo +debian "${build[@]}" -Zbuild-std=core -Zbuild-std-features=compiler-builtins-mem
  fi
  echo "== $core ($board)"
  timeout 300 qemu-system-arm -M "$board" -display none -monitor none -semihosting-config enable=on,target=native -icount shift=7 \
    -kernel "target/$folder/$target/release/brooklet-counts"
done
