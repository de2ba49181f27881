#!/usr/bin/env bash
# Submits a sweep: an array of N jobs, and one that merges when they have ended. `moekv sweep SWEEP --submit` calls it with the folder made ready.
# usage: submit.sh SITE PROGRAM FOLDER SWEEP N AT_ONCE [key=value ...]
#        submit.sh SITE PROGRAM run CONFIG [options ...]      one job for one configuration
#        submit.sh SITE PROGRAM shape                         prints nodes, tasks per node, bytes of a node and of a GPU (0: not named); submits nothing
# Prints every command it runs; job scripts, logs and job ids lie in FOLDER/slurm.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
site=$(realpath "$1") program=$(realpath "$2")
shift 2
sbatch_options=() gpus_per_node=0 nodes=1 tasks_per_node=1 cpus_per_task=1 time_limit=01:00:00 grace_seconds=120 memory_per_node='' gpu_memory=''
# shellcheck source=scripts/slurm/site.sh
. "$site"
if [ "$gpus_per_node" -gt 0 ]; then tasks_per_node=$gpus_per_node; fi
for option in "${sbatch_options[@]}"; do
  case $option in --mem=*) memory_per_node=${option#--mem=} ;; esac
done

# bytes SIZE: a size as Slurm reads it, in MiB where it has no unit; 0 for none.
bytes() {
  case $1 in
    '') echo 0 ;;
    *[0-9]) numfmt --from=iec "$1M" ;;
    *) numfmt --from=iec "${1%B}" ;;
  esac
}
if [ "$1" = shape ]; then
  echo "$nodes $tasks_per_node $(bytes "$memory_per_node") $(bytes "$gpu_memory")"
  exit
fi
command -v sbatch >/dev/null || {
  echo "submit.sh: no sbatch on PATH: this machine has no Slurm" >&2
  exit 3
}

# job OPTION... -- ARGUMENT...: writes a job script that starts job.sh with the arguments, submits it, prints the command, sets `id`.
job() {
  local options=()
  while [ "$1" != -- ]; do
    case $1 in
      *' '*) options+=("${1%%=*}=\"${1#*=}\"") ;;
      *) options+=("$1") ;;
    esac
    shift
  done
  shift
  {
    echo '#!/usr/bin/env bash'
    printf '#SBATCH %s\n' "${sbatch_options[@]}" "${options[@]}"
    printf 'exec'
    printf ' %q' "$here/job.sh" "$site" "$program" "$@"
    printf '\n'
  } | sed '/^#SBATCH $/d' >"$script"
  id=$(sbatch --parsable "$script")
  id=${id%%;*}
  echo "sbatch $script -> job $id"
}
shape=(--nodes="$nodes" --ntasks-per-node="$tasks_per_node" --cpus-per-task="$cpus_per_task")
if [ -n "$memory_per_node" ]; then shape+=(--mem="$memory_per_node"); fi
if [ "$gpus_per_node" -gt 0 ]; then shape+=(--gres=gpu:"$gpus_per_node"); fi
again=(--requeue --open-mode=append --time="$time_limit" --signal="B:USR1@$grace_seconds")

if [ "$1" = run ]; then
  shift
  script=$(mktemp "${TMPDIR:-/tmp}/moekv-run.XXXXXX.sbatch")
  job --job-name=moekv-run "${shape[@]}" "${again[@]}" -- run "$@"
  exit
fi

folder=$(realpath "$1") sweep=$(realpath "$2") n=$3 at_once=$4
shift 4
mkdir -p "$folder/slurm"
script=$folder/slurm/parts.sbatch
job --job-name="moekv-$(basename "$folder")" --array="0-$((n - 1))%$at_once" --output="$folder/slurm/part-%a.log" "${shape[@]}" "${again[@]}" \
  -- part "$folder" "$sweep" "$n" "$@"
parts=$id
script=$folder/slurm/merge.sbatch
job --job-name="moekv-$(basename "$folder")-merge" --dependency=afterany:"$parts" --output="$folder/slurm/merge.log" --nodes=1 --ntasks=1 --time="$time_limit" \
  -- merge "$folder"
printf '%s\n' "$parts" "$id" >"$folder/slurm/jobs"
