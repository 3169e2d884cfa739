#!/usr/bin/env bash
# Generates videos from a few prompts with the bundled model, scores them, and says where they are.
#
#   bash scripts/demo.sh                              # prompts of our choice
#   bash scripts/demo.sh "a green triangle moves up"  # your own, as many as you like
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$ROOT/scripts/venv.sh"
install_packages ""

if [ "$#" -eq 0 ]; then
    set -- "a red circle moves left" "a green triangle moves up" "a blue square moves right" \
           "a yellow circle moves down" "the purple triangle stands still" "a cyan square is moving to the left"
fi
EXAMPLE="$ROOT/examples/opensora_hpcai"
exec python "$EXAMPLE/tools/score_toy.py" --config "$EXAMPLE/configs/tiny/opensora_v1_2_sample.yaml" \
    --output_path "$PWD/samples/demo" --captions "$@"
