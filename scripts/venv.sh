# Sourced by demo.sh, test.sh and bench.sh: makes .venv once and installs into it what is asked for.
#
#   install_packages EXTRAS    e.g. "" or "[test]"; skipped when neither requirements, kernels nor extras have changed

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${MINDONE_VENV:-$ROOT/.venv}"

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.10 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.10, 3.11 or 3.12 is needed; install one, or name it: PYTHON=/path/to/python3.11 bash $0" >&2
    return 2
}

install_packages() {
    local extras="$1" stamp python sources
    stamp="$VENV/.installed-$(echo "$extras" | tr -cd 'a-z')"
    sources=("$ROOT/requirements.txt" "$ROOT/setup.py" "$ROOT"/mindone/nn/kernels/csrc/*)
    if [ ! -x "$VENV/bin/python" ]; then
        python="$(find_python)" || exit 2
        "$python" -m venv "$VENV"
    fi
    if [ ! -f "$stamp" ] || ! cmp -s "$stamp" <(cat "${sources[@]}"); then
        echo "installing packages into $VENV (a few minutes the first time)"
        "$VENV/bin/python" -m pip install -q --no-compile --disable-pip-version-check -e "$ROOT$extras" 2> >(grep -v '^WARNING: Location' >&2)
        cat "${sources[@]}" > "$stamp"
    fi
    export PATH="$VENV/bin:$PATH"
}
