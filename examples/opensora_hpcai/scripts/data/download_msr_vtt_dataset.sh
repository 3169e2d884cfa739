#!/usr/bin/env bash
# MSR-VTT, videos and annotations, into a folder: about 7 GB, and as much again while it is unpacked.
#
#   bash scripts/data/download_msr_vtt_dataset.sh datasets/msr_vtt
#
# A download that broke off goes on where it stopped. URL=... takes another copy; DRY_RUN=1 only prints the commands.
set -euo pipefail
FOLDER="${1:?give the folder for the data set}"
URL="${URL:-https://www.robots.ox.ac.uk/~maxbain/frozen-in-time/data/MSRVTT.zip}"

do_it() {
    if [ "${DRY_RUN:-0}" = 1 ]; then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}

do_it mkdir -p "$FOLDER"
do_it curl --location --fail --continue-at - --output "$FOLDER/MSRVTT.zip" "$URL"
do_it unzip -n -q "$FOLDER/MSRVTT.zip" -d "$FOLDER"
