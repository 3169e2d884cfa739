#!/usr/bin/env bash
# Open-Sora 1.0: videos of 16 frames at 256x256; every NPU makes its share of the prompts.
#
#   NPUS=4 PROMPTS=prompts.txt bash scripts/run/run_infer_t2v_parallel.sh --seed 7
#
# All variables can be given like that, and all settings of the command. DRY_RUN=1 only prints it.
set -euo pipefail
NPUS="${NPUS:-8}"
PROMPTS="${PROMPTS:-prompts.txt}"  # one prompt per line, or .csv with a column caption
OUTPUT="${OUTPUT:-samples}"
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch inference.py --config "$EXAMPLE/configs/opensora/inference/stdit_256x256x16.yaml" \
    --ckpt_path "$MODELS/Open-Sora/OpenSora-v1-HQ-16x256x256.pth" --vae_checkpoint "$MODELS/sd-vae-ft-ema" \
    --t5_model_name_or_path "$MODELS/t5-v1_1-xxl" --prompt_path "$PROMPTS" --output_path "$OUTPUT" "$@"
