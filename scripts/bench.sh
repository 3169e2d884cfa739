#!/usr/bin/env bash
# Ratios to PyTorch on identical shapes, and what loading and sampling need, see benchmarks/README.md. PyTorch is installed into .venv for this only.
#
#   bash scripts/bench.sh                                  # all cases, about ten minutes on two cores
#   bash scripts/bench.sh --cases t5_encode --json out.json
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$ROOT/scripts/venv.sh"
install_packages "[bench]"
python "$ROOT/benchmarks/bench.py" "$@"
if [ $# -eq 0 ]; then
    python "$ROOT/benchmarks/memory.py"
    python "$ROOT/benchmarks/loops.py"
    python "$ROOT/benchmarks/staged.py"
    python "$ROOT/benchmarks/curation.py"
fi
