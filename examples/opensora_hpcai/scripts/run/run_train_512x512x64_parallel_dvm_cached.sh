#!/usr/bin/env bash
# Trains Open-Sora 1.0 on cached latents of 64 frames of 512x512.
#
#   NPUS=4 DATA=datasets/train bash scripts/run/run_train_512x512x64_parallel_dvm_cached.sh --resume True
#
# All variables can be given like that, and all settings of the command. DRY_RUN=1 only prints it.
set -euo pipefail
NPUS="${NPUS:-8}"
DATA="${DATA:-datasets/train}"  # videos and video_caption.csv
TEXT="${TEXT:-$DATA/text}"  # what run_infer_t5_parallel.sh made
LATENTS="${LATENTS:-$DATA/latents}"  # what run_infer_vae_parallel.sh made
OUTPUT="${OUTPUT:-output}"
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch train.py --config "$EXAMPLE/configs/opensora/train/stdit_512x512x64_ms.yaml" \
    --csv_path "$DATA/video_caption.csv" --video_folder "$DATA" --text_embed_folder "$TEXT" \
    --pretrained_model_path "$MODELS/Open-Sora/OpenSora-v1-HQ-16x512x512.pth" --vae_checkpoint "$MODELS/sd-vae-ft-ema" \
    --output_path "$OUTPUT" --vae_latent_folder "$LATENTS" "$@"
