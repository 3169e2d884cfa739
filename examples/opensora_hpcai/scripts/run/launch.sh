# Read by the scripts of this folder: how a command is started on the devices of one machine, or of several.
EXAMPLE="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
MODELS="${MODELS:-$EXAMPLE/models}"
NODES="${NODES:-1}"

# launch SCRIPT.py ARGUMENTS...: with python on one device, with opensora launch on more. DRY_RUN=1 only prints the
# command.
launch() {
    local script="$EXAMPLE/scripts/$1" command
    shift
    if [ $((NPUS * NODES)) -eq 1 ]; then
        command=(python "$script" "$@")
    else
        command=(opensora launch --nproc "$NPUS" --bind_core True --log_dir "${LOGS:-$OUTPUT/launch}")
        if [ "$NODES" -gt 1 ]; then
            command+=(--nodes "$NODES" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR")
            command+=(--master_port "${MASTER_PORT:-8118}")
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
