#!/usr/bin/env bash
# The GPU's kernels: compiled again from their sources for every architecture, and compared with what is committed. Installs Python with pip where it
# is missing, and needs no GPU: the compiler comes from pinned wheels. The kernels' tests themselves skip where there is no GPU, with a line that says so.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! python3 -m pip --version >/dev/null 2>&1; then
  sudo=''
  [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove -o DPkg::Lock::Timeout=600 python3 python3-pip >/dev/null
fi
python3 targets/cuda/build_cubins.py --check
