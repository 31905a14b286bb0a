#!/usr/bin/env bash
# Packs Brooklet's C interface for other build systems. Needs Rust, and for microcontrollers the target's standard library
# (`rustup target add thumbv7em-none-eabihf`).
#
#   package.sh lib host DIR          DIR/libbrooklet.a and DIR/brooklet.h for this machine
#   package.sh lib TARGET DIR        the same for a microcontroller, without an operating system
#   package.sh arduino DIR [MCU..]   DIR/Brooklet, an Arduino library; MCU as in the table below, all without
#
# RUSTFLAGS are passed on, for example -Ctarget-cpu=cortex-m7; CARGO_PROFILE_RELEASE_OPT_LEVEL=s makes smaller, slower code.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

# Arduino's src/{build.mcu}[/{fpu}-{float-abi}], the Rust target, its flags. softfp has the calls of no FPU at all.
arduino_mcus='
cortex-m0plus                   thumbv6m-none-eabi
cortex-m4/fpv4-sp-d16-hard      thumbv7em-none-eabihf
cortex-m4/fpv4-sp-d16-softfp    thumbv7em-none-eabi         -Ctarget-cpu=cortex-m4 -Ctarget-feature=+vfp4d16sp
cortex-m7/fpv5-d16-softfp       thumbv7em-none-eabi         -Ctarget-cpu=cortex-m7 -Ctarget-feature=+fp-armv8d16sp
cortex-m33/fpv5-sp-d16-hard     thumbv8m.main-none-eabihf
'

fail() { echo "package.sh: $*" >&2; exit 1; }

# lib TARGET DIR
lib() {
  local target=$1 dir=$2 built
  mkdir -p "$dir"
  if [ "$target" = host ]; then
    (cd "$root" && cargo build --quiet --release -p brooklet-capi)
    built=$root/target/release
  else
    bare_metal "$target"
    built=$root/target/no-std/$target/release
  fi
  # Moved into place: a program that is being linked sees the old one or the new one.
  cp "$built/libbrooklet_capi.a" "$dir/libbrooklet.a.tmp"
  mv "$dir/libbrooklet.a.tmp" "$dir/libbrooklet.a"
  cp "$here/include/brooklet.h" "$dir/brooklet.h"
}

# Only what firmware needs: no debug information, one object so that the linker can drop what is unused.
bare_metal() {
  local target=$1 toolchain=() core=()
  if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    # Debian's Rust packages ship the standard library's source; .ci/embedded.sh links them as a toolchain of this name.
    if rustup toolchain list 2>/dev/null | grep -q '^debian' && [ -f /usr/lib/rustlib/src/rust/library/Cargo.lock ]; then
      toolchain=(+debian)
      core=(-Zbuild-std=core -Zbuild-std-features=compiler-builtins-mem)
      export RUSTC_BOOTSTRAP=1
    else
      fail "no standard library for $target; get it with: rustup target add $target"
    fi
  fi
  (cd "$root" && CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
    CARGO_PROFILE_RELEASE_PANIC=abort cargo "${toolchain[@]}" rustc --quiet --release -p brooklet-capi --lib --crate-type staticlib \
    --no-default-features --features panic-handler --target "$target" --target-dir target/no-std "${core[@]}")
}

# arduino DIR [MCU..]
arduino() {
  local library=$1/Brooklet mcu target flags
  shift
  mkdir -p "$library"
  cp -R "$here/arduino/." "$library/"
  mkdir -p "$library/src/c"
  # In a folder of its own: Brooklet.h and brooklet.h are one name where case does not count.
  cp "$here/include/brooklet.h" "$library/src/c/brooklet.h"
  while read -r mcu target flags; do
    [ -n "$mcu" ] || continue
    [ $# = 0 ] || [[ " $* " = *" $mcu "* ]] || continue
    (if [ -n "$flags" ]; then export RUSTFLAGS="${RUSTFLAGS:-} $flags"; fi; lib "$target" "$library/src/$mcu")
    rm "$library/src/$mcu/brooklet.h"
    echo "$library/src/$mcu/libbrooklet.a"
  done <<<"$arduino_mcus"
}

case "${1:-} $#" in
  'lib 3') lib "$2" "$3" ;;
  'arduino '[2-9]) shift; arduino "$@" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
