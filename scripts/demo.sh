#!/usr/bin/env bash
# Generates videos from a few prompts with a bundled model, scores them, and says where they are.
#
#   bash scripts/demo.sh                              # prompts of our choice
#   bash scripts/demo.sh "a green triangle moves up"  # your own, as many as you like
#   bash scripts/demo.sh --family 1.1                 # Open-Sora 1.0, 1.1, 1.2 (if none is given) or 2.0
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
EXAMPLE="$ROOT/examples/opensora_hpcai"

fail() {
    echo "error: $1" >&2
    exit 2
}

FAMILY=1.2
PROMPTS=()
while [ "$#" -gt 0 ]; do
    case "$1" in
        --family=*) FAMILY="${1#*=}" ;;
        --family)
            [ "$#" -gt 1 ] || fail "--family has no value; use 1.0, 1.1, 1.2 or 2.0"
            FAMILY="$2"
            shift
            ;;
        *) PROMPTS+=("$1") ;;
    esac
    shift
done
case "$FAMILY" in
    1.0 | 1.1 | 1.2 | 2.0) ;;
    *) fail "--family $FAMILY is not known; use 1.0, 1.1, 1.2 or 2.0" ;;
esac
RECIPE="$EXAMPLE/configs/tiny/opensora_v${FAMILY/./_}_sample.yaml"
[ -f "$RECIPE" ] || fail "there is no bundled model of Open-Sora $FAMILY ($RECIPE is missing); use another --family"
MODEL="$(sed -n 's/^ *ckpt_path: *//p' "$RECIPE")"
[ -e "$(dirname "$RECIPE")/$MODEL" ] || fail "the bundled model of Open-Sora $FAMILY is missing: $RECIPE names $MODEL"

if [ "${#PROMPTS[@]}" -eq 0 ]; then
    PROMPTS=("a red circle moves left" "a green triangle moves up" "a blue square moves right"
        "a yellow circle moves down" "the purple triangle stands still" "a cyan square is moving to the left")
fi
source "$ROOT/scripts/venv.sh"
install_packages ""
exec python "$EXAMPLE/tools/score_toy.py" --config "$RECIPE" --output_path "$PWD/samples/demo" --captions "${PROMPTS[@]}"
