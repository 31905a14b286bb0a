#!/usr/bin/env bash
# The GPU's kernels: compiled again from their sources for every architecture, and compared with what is committed. Needs python3 with pip, and no
# GPU: the compiler comes from pinned wheels. The kernels' tests themselves skip where there is no GPU, with a line that says so.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 targets/cuda/build_cubins.py --check
