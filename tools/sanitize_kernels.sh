#!/usr/bin/env bash
# Runs the tests of the compiled kernels with the sanitizers of addresses and of undefined behaviour, in a copy of the
# files under build/sanitized. Arguments go to pytest: bash tools/sanitize_kernels.sh -k attention. Needs GCC, and a
# Python that has what the tests need first in PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
copy=build/sanitized
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard -- mindone tests conftest.py pyproject.toml setup.py requirements.txt README.md |
    while IFS= read -r -d '' file; do
        [ ! -f "$file" ] || { mkdir -p "$copy/$(dirname "$file")" && cp -up "$file" "$copy/$file"; }
    done
cd "$copy"

export CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
MINDONE_WERROR=1 LDFLAGS="-fsanitize=address,undefined" python setup.py -q build_ext --inplace
# Python and MindSpore keep memory until they end, and MindSpore throws through libraries that it loads itself.
export ASAN_OPTIONS="detect_leaks=0:detect_odr_violation=0" UBSAN_OPTIONS="print_stacktrace=1"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
[ $# -gt 0 ] || set -- tests/nn/test_native.py tests/train/test_optim.py
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" python -m pytest -x -p no:cacheprovider "$@"
