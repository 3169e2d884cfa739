# Read by the scripts of this folder: how a command is started on the devices of one machine, or of several.
EXAMPLE="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
MODELS="${MODELS:-$EXAMPLE/models}"
NODES="${NODES:-1}"

# launch SCRIPT.py ARGUMENTS...: with python on one device, with msrun on more. DRY_RUN=1 only prints the command.
launch() {
    local script="$EXAMPLE/scripts/$1" workers=$((NPUS * NODES)) command
    shift
    if [ "$workers" -eq 1 ]; then
        command=(python "$script" "$@")
    else
        command=(msrun --bind_core=True --worker_num="$workers" --local_worker_num="$NPUS" --join=True
                 --log_dir="${LOGS:-$OUTPUT/msrun}")
        if [ "$NODES" -gt 1 ]; then
            command+=(--master_addr="$MASTER_ADDR" --master_port="${MASTER_PORT:-8118}" --node_rank="$NODE_RANK")
        fi
        command+=("$script" "$@" --use_parallel True)
    fi
    if [ "${DRY_RUN:-0}" = 1 ]; then
        printf '%q ' "${command[@]}"
        printf '\n'
    else
        "${command[@]}"
    fi
}
