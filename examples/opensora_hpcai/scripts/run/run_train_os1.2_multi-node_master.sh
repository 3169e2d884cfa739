#!/usr/bin/env bash
# Trains Open-Sora 1.2 on 51 frames of 720x1280 on several machines: the first one, which the others join.
#
#   MASTER_ADDR=10.0.0.1 bash scripts/run/run_train_os1.2_multi-node_master.sh --resume True
#
# All variables can be given like that, and all settings of the command. DRY_RUN=1 only prints it.
set -euo pipefail
NPUS="${NPUS:-8}"
NODES="${NODES:-2}"  # machines with NPUS devices each
MASTER_ADDR="${MASTER_ADDR:?give the address of this machine}"
NODE_RANK=0
DATA="${DATA:-datasets/train}"  # videos and video_caption.csv
TEXT="${TEXT:-$DATA/text}"  # what run_infer_t5_parallel.sh made
OUTPUT="${OUTPUT:-output}"
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch train.py --config "$EXAMPLE/configs/opensora-v1-2/train/train_720x1280x51.yaml" \
    --csv_path "$DATA/video_caption.csv" --video_folder "$DATA" --text_embed_folder "$TEXT" \
    --pretrained_model_path "$MODELS/OpenSora-STDiT-v3" --vae_checkpoint "$MODELS/OpenSora-VAE-v1.2" \
    --output_path "$OUTPUT" "$@"
