#!/usr/bin/env bash
# Trains Open-Sora 1.0 on 16 frames of 256x256, on one NPU.
#
#   DATA=datasets/train bash scripts/run/run_train_256x256x16.sh --resume True
#
# All variables can be given like that, and all settings of the command. DRY_RUN=1 only prints it.
set -euo pipefail
NPUS="${NPUS:-1}"
DATA="${DATA:-datasets/train}"  # videos and video_caption.csv
TEXT="${TEXT:-$DATA/text}"  # what run_infer_t5_parallel.sh made
OUTPUT="${OUTPUT:-output}"
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch train.py --config "$EXAMPLE/configs/opensora/train/stdit_256x256x16.yaml" \
    --csv_path "$DATA/video_caption.csv" --video_folder "$DATA" --text_embed_folder "$TEXT" \
    --pretrained_model_path "$MODELS/PixArt-alpha/PixArt-XL-2-512x512.pth" --vae_checkpoint "$MODELS/sd-vae-ft-ema" \
    --output_path "$OUTPUT" "$@"
