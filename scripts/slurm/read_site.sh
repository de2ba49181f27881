# shellcheck shell=bash disable=SC2154
# Reads the site file $site for submit.sh and job.sh: what is empty there gets its default, but launch, where it means one process without a launcher; a
# number that is none ends the script.
modules=() launch_environment=() sbatch_options=() merge_options=()
unset launch # an empty one is none at all
nodes='' tasks_per_node='' gpus_per_node='' cpus_per_task='' memory_per_node='' gpu_memory='' time_limit='' grace_seconds='' most_restarts=''
# shellcheck source=scripts/slurm/site.sh
. "$site"
nodes=${nodes:-1} tasks_per_node=${tasks_per_node:-1} gpus_per_node=${gpus_per_node:-0} cpus_per_task=${cpus_per_task:-1}
time_limit=${time_limit:-01:00:00} grace_seconds=${grace_seconds:-120} most_restarts=${most_restarts:-20}
declare -p launch &>/dev/null || launch=(srun --mpi=pmix)

# site_error WHAT HINT
site_error() {
  echo "$site: error: $1 ($2)" >&2
  exit 2
}
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
if [ "${#launch[@]}" -eq 0 ]; then nodes=1 tasks_per_node=1 gpus_per_node=$((gpus_per_node > 0 ? 1 : 0)); fi
