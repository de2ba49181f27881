#!/usr/bin/env bash
# Submits a sweep: an array of N jobs, and one that merges when they have ended. `moekv sweep SWEEP --submit` calls it with the folder made ready.
# usage: submit.sh SITE PROGRAM FOLDER SWEEP N AT_ONCE [key=value ...]
#        submit.sh SITE PROGRAM run CONFIG [options ...]      one job for one configuration
#        submit.sh SITE PROGRAM ready FOLDER                  whether jobs may be submitted for the folder, which need not exist yet
#        submit.sh SITE PROGRAM shape                         prints nodes, tasks per node, bytes of a node and of a GPU (0: not named); submits nothing
# Prints every command it runs; job scripts, logs and job ids lie in FOLDER/slurm.
set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n 's/^# usage: //p; s/^#  *submit.sh/submit.sh/p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# fail WHAT HINT
fail() {
  echo "submit.sh: error: $1 ($2)" >&2
  exit 2
}
[ -f "$1" ] || fail "$1: no such site file" "copy scripts/slurm/site.sh and edit the copy"
site=$(realpath "$1")
program=$(type -P "$2") || fail "$2 is no program" "name it with its folder, as build/release/moekv"
program=$(realpath "$program")
shift 2
# shellcheck source=scripts/slurm/read_site.sh
. "$here/read_site.sh"
for option in "${sbatch_options[@]}"; do
  case $option in --mem=*) memory_per_node=${option#--mem=} ;; esac
done

# bytes NAME SIZE: a size as Slurm reads it, in MiB where it has no unit; 0 for none.
bytes() {
  local size=${2^^}
  [[ $size =~ ^([0-9]+(\.[0-9]+)?[KMGT]?B?)?$ ]] || site_error "$1=$2 is no size" "for example $1=64G"
  case $size in
    '') echo 0 ;;
    *[0-9]) numfmt --from=iec "${size}M" ;;
    *) numfmt --from=iec "${size%B}" ;;
  esac
}
node_bytes=$(bytes memory_per_node "$memory_per_node")
gpu_bytes=$(bytes gpu_memory "$gpu_memory")
if [ "$1" = shape ]; then
  echo "$nodes $tasks_per_node $node_bytes $gpu_bytes"
  exit
fi
command -v sbatch >/dev/null || {
  echo "submit.sh: no sbatch on PATH: this machine has no Slurm" >&2
  exit 3
}

# A job begins without what the launcher or the job around this script has set, and without the values of mpi_env.sh, which are for one machine.
while IFS= read -r name; do
  case $name in
    SLURM_CONF | SLURM_CLUSTERS | SLURM_JWT | PMIX_INSTALL_PREFIX | PMIX_MCA_*) ;; # how this Slurm and this Open MPI are found
    SLURM_* | PMIX_* | PMI_* | PMI2_* | MPI_LOCAL* | HYDRA_* | HYDI_* | PALS_*) unset "$name" ;;
    OMPI_COMM_WORLD_* | OMPI_UNIVERSE_SIZE | OMPI_*APP_CTX* | OMPI_FIRST_RANKS | OMPI_ARGV | OMPI_COMMAND | OMPI_FILE_LOCATION) unset "$name" ;;
    OMPI_MCA_ess | OMPI_MCA_ess_* | OMPI_MCA_orte_* | OMPI_MCA_pmix | OMPI_MCA_initial_wdir | OMPI_MCA_shmem_RUNTIME_QUERY_hint) unset "$name" ;;
  esac
done < <(compgen -e)
while read -r name value; do
  if [ "${!name-}" = "$value" ]; then unset "$name"; fi
done < <(sed -n 's/^export \(OMPI_MCA_[a-z_]*\)="${\1:-\(.*\)}"$/\1 \2/p' "$here/../mpi_env.sh" && echo OMPI_MCA_plm isolated)

# job SCRIPT OPTION... -- ARGUMENT...: writes a job script that starts job.sh with the arguments, submits it, prints the command, sets `id`.
job() {
  local script=$1 options=()
  shift
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  local command=(sbatch --parsable "${sbatch_options[@]}" "${options[@]}" "$script")
  {
    echo '#!/usr/bin/env bash'
    echo "# submitted by:$(printf ' %q' "${command[@]}")"
    echo "exec$(printf ' %q' "$here/job.sh" "$site" "$program" "$@")"
  } >"$script"
  id=$("${command[@]}") || return
  id=$(sed -n 's/^\([0-9]\+\)\(;.*\)\?$/\1/p' <<<"$id" | tail -n 1) # behind what a wrapper of sbatch may say
  [ -n "$id" ] || fail "sbatch printed no job id" "is it a wrapper that takes no --parsable?"
  echo "$(printf '%q ' "${command[@]}")-> job $id"
}
shape=(--nodes="$nodes" --ntasks-per-node="$tasks_per_node" --cpus-per-task="$cpus_per_task")
if [ -n "$memory_per_node" ]; then shape+=(--mem="$memory_per_node"); fi
if [ "$gpus_per_node" -gt 0 ]; then shape+=(--gres=gpu:"$gpus_per_node"); fi
again=(--requeue --open-mode=append --time="$time_limit")

if [ "$1" = run ]; then
  shift
  job "$(mktemp "${TMPDIR:-/tmp}/moekv-run.XXXXXX.sbatch")" --job-name=moekv-run "${shape[@]}" "${again[@]}" -- run "$@"
  exit
fi

mode=submit
if [ "$1" = ready ]; then
  mode=ready
  shift
fi
folder=$(realpath -m "$1")
case $folder in *\\*) fail "$folder has a backslash, which Slurm drops from the names of logs" "choose another folder with --out" ;; esac
if [ -f "$folder/slurm/jobs" ]; then
  mapfile -t former <"$folder/slurm/jobs"
  for id in "${former[@]}"; do
    [ -z "$(squeue --noheader --jobs="$id" 2>/dev/null)" ] ||
      fail "job $id of $folder still waits or runs, and points would be computed twice" "wait for it, or: scancel ${former[*]}"
  done
fi
if [ $mode = ready ]; then exit; fi

[ $# -ge 4 ] || fail "$# words are too few" "FOLDER SWEEP N AT_ONCE [key=value ...]"
sweep=$2 n=$3 at_once=$4
case $sweep in /*) ;; *) sweep=$PWD/$sweep ;; esac # a link stays one: `base:` starts at its folder
shift 4
mkdir -p "$folder/slurm"
name=moekv-$(basename "$folder")
logs=${folder//%/%%}/slurm # Slurm fills in what a % names
job "$folder/slurm/parts.sbatch" --job-name="$name" --array="0-$((n - 1))%$at_once" --output="$logs/part-%a.log" "${shape[@]}" "${again[@]}" \
  --signal="B:USR1@$grace_seconds" -- part "$folder" "$sweep" "$n" "$@"
parts=$id
echo "$parts" >"$folder/slurm/jobs"
if job "$folder/slurm/merge.sbatch" --job-name="$name-merge" --dependency=afterany:"$parts" --output="$logs/merge.log" --nodes=1 --ntasks=1 \
  --time="$time_limit" "${merge_options[@]}" -- merge "$folder"; then
  echo "$id" >>"$folder/slurm/jobs"
elif scancel "$parts"; then
  fail "the job that merges was refused, and job $parts is cancelled" "merge_options of the site file are for it"
else
  fail "the job that merges was refused, and job $parts is still there" "scancel $parts, or let it run, then moekv merge $folder"
fi
