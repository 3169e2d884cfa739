#!/usr/bin/env bash
# Trains Open-Sora 1.0 by OpenDiT's options.
#
#   NPUS=2 DATA=videos/demo.csv MODEL=ckpt_path bash scripts/opendit/train_opensora.sh --grad_checkpoint
#
# All variables can be given like that, and all settings of the command. DRY_RUN=1 only prints it.
set -euo pipefail
NPUS="${NPUS:-1}"
DATA="${DATA:-videos/demo.csv}"
OUTPUT="${OUTPUT:-outputs}"
source "$(dirname "${BASH_SOURCE[0]}")/../run/launch.sh"

launch opendit/train_opensora.py --batch_size 2 --mixed_precision bf16 --lr 2e-5 --data_path "$DATA" \
    --model_pretrained_path "${MODEL:-$MODELS/PixArt-alpha/PixArt-XL-2-512x512.pth}" \
    --vae_pretrained_path "$MODELS/sd-vae-ft-ema" --text_pretrained_path "$MODELS/t5-v1_1-xxl" --outputs "$OUTPUT" "$@"
