#!/usr/bin/env bash
# Open-Sora 1.2: videos of 408 frames at 720x1280, each shared by all NPUs by frames and tokens in turn.
#
#   NPUS=4 PROMPTS=prompts.txt bash scripts/run/run_infer_sequence_parallel_dsp.sh --seed 7
#
# All variables can be given like that, and all settings of the command. DRY_RUN=1 only prints it.
set -euo pipefail
NPUS="${NPUS:-2}"
PROMPTS="${PROMPTS:-prompts.txt}"  # one prompt per line, or .csv with a column caption
OUTPUT="${OUTPUT:-samples}"
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch inference.py --config "$EXAMPLE/configs/opensora-v1-2/inference/sample_t2v.yaml" \
    --ckpt_path "$MODELS/OpenSora-STDiT-v3" --vae_checkpoint "$MODELS/OpenSora-VAE-v1.2" \
    --t5_model_name_or_path "$MODELS/t5-v1_1-xxl" --prompt_path "$PROMPTS" --output_path "$OUTPUT" \
    --num_frames 16s --enable_sequence_parallelism True --dsp True "$@"
