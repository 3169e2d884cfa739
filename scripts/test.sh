#!/usr/bin/env bash
# The linter and all tests. Makes .venv and installs what the tests need if that has not been done yet.
# Arguments go to pytest: bash scripts/test.sh -k golden. The files are shared between two processes, see PYTEST_WORKERS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/venv.sh
export MINDONE_WERROR=1 # a warning of the compiler is an error here
install_packages "[test]"
command -v g++ > /dev/null && python setup.py -q build_ext --inplace

ruff check .
ruff format --check .
codespell $(git ls-files '*.py' '*.cc' '*.h' '*.md' '*.sh' '*.yaml' '*.toml' 2>/dev/null || true)
git ls-files -z 2>/dev/null | xargs -0 python scripts/check_file_sizes.py --max-megabytes 5
NO_MKDOCS_2_WARNING=1 mkdocs build --strict # links, anchors and navigation of the documentation
# One thread for each process: threads that wait for each other spin, and would take the core of the other process.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# The files run in the order of conftest.py, which begins with the slow ones.
python -m pytest -n "${PYTEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder "$@"
if [ $# -eq 0 ]; then
    # The same without compiled kernels, and with those for a narrower processor where there are any.
    MINDONE_NATIVE=0 python -m pytest -n "${PYTEST_WORKERS:-2}" tests/nn tests/train/test_optim.py
    if [ "$(uname -m)" = x86_64 ]; then
        MINDONE_NATIVE=avx2 python -m pytest -n "${PYTEST_WORKERS:-2}" --dist loadfile tests/nn
    fi
fi
