#!/usr/bin/env bash
# What a job of the sweep does: one part of the points, requeued for as long as it ends resumable (exit code 75) or is ended by its time limit.
# usage: job.sh SITE PROGRAM part FOLDER SWEEP N [key=value ...]      one array task
#        job.sh SITE PROGRAM merge FOLDER                             afterwards
#        job.sh SITE PROGRAM run CONFIG [options ...]                 one configuration
set -uo pipefail
site=$1 program=$2 what=$3
shift 3
launch=(srun --mpi=pmix) launch_environment=() modules=() most_restarts=20 grace_seconds=120
# shellcheck source=scripts/slurm/site.sh
. "$site"
for name in "${modules[@]}"; do module load "$name"; done
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"
for setting in "${launch_environment[@]}"; do export "${setting?}"; done
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

restarts=${SLURM_RESTART_COUNT:-0}
requeue() { # REASON
  if [ "$restarts" -lt "$most_restarts" ]; then
    echo "job.sh: $1, requeued (restart $((restarts + 1)) of at most $most_restarts)"
    scontrol requeue "$SLURM_JOB_ID" && sleep 600 # ends with the requeue
  fi
}
# The warning before the limit comes to this shell alone, and goes on to its child: srun and mpirun pass it to their processes. At its limit a job gets
# SIGTERM, and KillWait later SIGKILL; whoever cancels a job sends SIGTERM too.
child=
# shellcheck disable=SC2317 # called by the trap
at_limit() { scontrol -o show job "$SLURM_JOB_ID" | grep -q 'Reason=TimeLimit '; }
trap '[ -z "$child" ] || kill -USR1 "$child"' USR1
trap 'if at_limit; then requeue "ended by its time limit"; fi' TERM

# run COMMAND...: its exit code is `code`; signals are answered while it runs.
run() {
  "$@" &
  child=$!
  while kill -0 "$child" 2>/dev/null; do wait "$child"; done
  wait "$child"
  code=$?
}

case $what in
  part)
    folder=$1 sweep=$2 n=$3
    shift 3
    run "${launch[@]}" "$program" sweep "$sweep" "$@" --out "$folder" --resume --part "$SLURM_ARRAY_TASK_ID/$n" --grace "$((grace_seconds / 2))s"
    ;;
  merge)
    run "$program" merge "$1" --out "${1%/}.h5"
    ;;
  run)
    run "${launch[@]}" "$program" run "$@"
    ;;
  *)
    echo "job.sh: '$what' is none of part, merge, run" >&2
    exit 2
    ;;
esac

if [ "$code" -eq 75 ]; then requeue interrupted; fi
exit "$code"
