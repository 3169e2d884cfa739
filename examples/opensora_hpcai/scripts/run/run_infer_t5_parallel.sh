#!/usr/bin/env bash
# Text embeddings of all captions of a table, for training.
#
#   NPUS=4 DATA=datasets/train bash scripts/run/run_infer_t5_parallel.sh --stale renew
#
# All variables can be given like that, and all settings of the command. DRY_RUN=1 only prints it.
set -euo pipefail
NPUS="${NPUS:-8}"
DATA="${DATA:-datasets/train}"  # videos and video_caption.csv
OUTPUT="${OUTPUT:-$DATA/text}"
VERSION="${VERSION:-v1.2}"  # v1: 120 tokens, v1.1: 200, v1.2: 300
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch infer_t5.py --csv_path "$DATA/video_caption.csv" --output_path "$OUTPUT" --model_version "$VERSION" \
    --t5_model_name_or_path "$MODELS/t5-v1_1-xxl" "$@"
