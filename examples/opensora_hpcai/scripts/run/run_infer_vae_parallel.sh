#!/usr/bin/env bash
# Latents of all videos of a table, for training.
#
#   NPUS=4 DATA=datasets/train bash scripts/run/run_infer_vae_parallel.sh --stale renew
#
# All variables can be given like that, and all settings of the command. DRY_RUN=1 only prints it.
set -euo pipefail
NPUS="${NPUS:-8}"
DATA="${DATA:-datasets/train}"  # videos and video_caption.csv
OUTPUT="${OUTPUT:-$DATA/latents}"
VERSION="${VERSION:-v1.2}"
VAE="${VAE:-OpenSora-VAE-v1.2}"  # v1 and v1.1: sd-vae-ft-ema
SIZE="${SIZE:-720 1280}"  # height width
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

read -ra size <<< "$SIZE"
launch infer_vae.py --csv_path "$DATA/video_caption.csv" --video_folder "$DATA" --output_path "$OUTPUT" \
    --model_version "$VERSION" --vae_checkpoint "$MODELS/$VAE" --image_size "${size[@]}" "$@"
