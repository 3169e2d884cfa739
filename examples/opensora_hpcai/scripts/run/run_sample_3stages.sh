#!/usr/bin/env bash
# Open-Sora 1.2 with little memory: text, latents and videos by three commands, with one network each.
# The settings after the name are those of inference.py.
#
#   PROMPTS=prompts.txt bash scripts/run/run_sample_3stages.sh --seed 7
#
# All variables can be given like that, and all settings of the command. DRY_RUN=1 only prints it.
set -euo pipefail
NPUS="${NPUS:-1}"
PROMPTS="${PROMPTS:-prompts.txt}"  # one prompt per line, or .csv with a column caption
OUTPUT="${OUTPUT:-samples/$(date +%Y-%m-%dT%H-%M-%S)}"
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch infer_t5.py --prompt_path "$PROMPTS" --output_path "$OUTPUT/text" --model_version v1.2 \
    --t5_model_name_or_path "$MODELS/t5-v1_1-xxl"
launch inference.py --config "$EXAMPLE/configs/opensora-v1-2/inference/sample_t2v.yaml" \
    --captions None --text_embed_folder "$OUTPUT/text" --ckpt_path "$MODELS/OpenSora-STDiT-v3" \
    --vae_checkpoint "$MODELS/OpenSora-VAE-v1.2" --save_latent True --use_vae_decode False \
    --output_path "$OUTPUT" --append_timestr False "$@"
launch infer_vae_decode.py --latent_folder "$OUTPUT/denoised_latents" --output_path "$OUTPUT/videos" \
    --vae_checkpoint "$MODELS/OpenSora-VAE-v1.2" --vae_dtype bf16
