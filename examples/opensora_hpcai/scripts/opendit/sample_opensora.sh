#!/usr/bin/env bash
# Makes videos with Open-Sora 1.0 by OpenDiT's options.
#
#   MODEL=ckpt_path bash scripts/opendit/sample_opensora.sh --captions "a lighthouse at dusk"
#
# All variables can be given like that, and all settings of the command. DRY_RUN=1 only prints it.
set -euo pipefail
NPUS="${NPUS:-1}"
OUTPUT="${OUTPUT:-samples}"
source "$(dirname "${BASH_SOURCE[0]}")/../run/launch.sh"

launch opendit/sample_opensora.py --model_time_scale 1 --model_space_scale 1 --image_size 512 512 --num_frames 16 \
    --fps 8 --dtype fp16 --model_pretrained_path "${MODEL:-$MODELS/Open-Sora/OpenSora-v1-HQ-16x512x512.pth}" \
    --vae_pretrained_path "$MODELS/sd-vae-ft-ema" --text_pretrained_path "$MODELS/t5-v1_1-xxl" --outputs "$OUTPUT" "$@"
