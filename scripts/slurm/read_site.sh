# shellcheck shell=bash disable=SC2154
# Reads the site file $site for submit.sh and job.sh: what is empty there gets its default, but launch, where it means one process without a launcher; a
# number that is none ends the script.
modules=() launch_environment=() sbatch_options=() merge_options=()
unset launch # an empty one is none at all
nodes='' tasks_per_node='' gpus_per_node='' cpus_per_task='' memory_per_node='' gpu_memory='' time_limit='' grace_seconds='' most_restarts=''

# site_error WHAT HINT
site_error() {
  echo "$site: error: $1 ($2)" >&2
  exit 2
}
bash -n "$site" || site_error "is no script that bash can read" "scripts/slurm/site.sh says what may stand there"
flags=$- # a site file may print, use what is not set, and end with what fails
set +eu
# shellcheck source=scripts/slurm/site.sh
. "$site" >&2
case $flags in *e*) set -e ;; esac
set -u
nodes=${nodes:-1} tasks_per_node=${tasks_per_node:-1} gpus_per_node=${gpus_per_node:-0} cpus_per_task=${cpus_per_task:-1}
time_limit=${time_limit:-01:00:00} grace_seconds=${grace_seconds:-120} most_restarts=${most_restarts:-20}
declare -p launch &>/dev/null || launch=(srun --mpi=pmix)

for name in nodes tasks_per_node cpus_per_task gpus_per_node grace_seconds most_restarts; do
  least=1
  case $name in gpus_per_node | grace_seconds | most_restarts) least=0 ;; esac
  [[ ${!name} =~ ^(0|[1-9][0-9]{0,4})$ && ${!name} -ge $least ]] || site_error "$name=${!name} is no whole number from $least to 99999" "for example $name=2"
done
if [ "$gpus_per_node" -gt 0 ]; then tasks_per_node=$gpus_per_node; fi
# The words of a list that are not empty: `modules=` names none.
for name in modules launch launch_environment sbatch_options merge_options; do
  declare -n list=$name
  words=()
  for word in "${list[@]}"; do if [ -n "$word" ]; then words+=("$word"); fi; done
  list=("${words[@]}")
done
unset -n list
# What the job scripts ask for themselves would win over the same option here.
for option in "${sbatch_options[@]}"; do
  case ${option%%=*} in
    --nodes | -N*) hint='set nodes=' ;;
    --ntasks | -n* | --ntasks-per-node | --tasks-per-node) hint='set tasks_per_node=' ;;
    --cpus-per-task | -c*) hint='set cpus_per_task=' ;;
    --time | -t*) hint='set time_limit=' ;;
    --requeue | --no-requeue) hint='set most_restarts=' ;;
    --gres | --gpus-per-node) [ "$gpus_per_node" -gt 0 ] || continue && hint='its number and kind at once: leave gpus_per_node=0 and set tasks_per_node=' ;;
    --array | -a* | --signal | --output | -o* | --open-mode | --dependency | -d* | --job-name | -J*) hint='leave it out' ;;
    *) continue ;;
  esac
  site_error "sbatch_options: $option is what the jobs of a sweep set themselves" "$hint"
done

# seconds TIME: of a limit as Slurm reads it: m, m:s, h:m:s, d-h, d-h:m or d-h:m:s; nothing for any other, such as UNLIMITED. 0 is no limit.
seconds() {
  [[ $1 =~ ^(([0-9]+)-)?([0-9]+)(:([0-9]+))?(:([0-9]+))?$ ]] || return 0
  local days=$((10#${BASH_REMATCH[2]:-0})) first=$((10#${BASH_REMATCH[3]})) second=$((10#${BASH_REMATCH[5]:-0})) third=$((10#${BASH_REMATCH[7]:-0}))
  if [ -n "${BASH_REMATCH[1]}" ] || [ -n "${BASH_REMATCH[6]}" ]; then
    echo $((((days * 24 + first) * 60 + second) * 60 + third))
  else
    echo $((first * 60 + second))
  fi
}
limit=$(seconds "$time_limit")
if [ "$grace_seconds" -gt 65535 ] || { [ "${limit:-0}" -gt 0 ] && [ "$grace_seconds" -ge "$limit" ]; }; then
  site_error "grace_seconds=$grace_seconds is not shorter than time_limit=$time_limit" "jobs would be told to end as they begin; Slurm takes up to 65535"
fi
if [ "${#launch[@]}" -eq 0 ]; then nodes=1 tasks_per_node=1 gpus_per_node=$((gpus_per_node > 0 ? 1 : 0)); fi
