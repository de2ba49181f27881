#!/usr/bin/env bash
# What a job of the sweep does: one part of the points, requeued for as long as it ends resumable (exit code 75) or is ended by its time limit. A signal
# (scancel --signal=USR1 or TERM) makes it save what it does and be requeued; a cancelled job saves and is gone; after scontrol requeue it goes on. One
# configuration saves nothing, and is not requeued here.
# usage: job.sh SITE PROGRAM part FOLDER SWEEP N [key=value ...]      one array task
#        job.sh SITE PROGRAM merge FOLDER                             afterwards
#        job.sh SITE PROGRAM run CONFIG [options ...]                 one configuration
set -uo pipefail
site=$1 program=$2 what=$3
shift 3
most_restarts=20 # until the site file is read

# The last task of an array has the job id of the whole array, which its own name does not mean.
job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
restarts=${SLURM_RESTART_COUNT:-0}
requeue() { # REASON
  if [ "$what" = run ]; then
    echo "job.sh: $1, not requeued: moekv run saves nothing that it could go on from"
  elif [ "$restarts" -ge "$most_restarts" ]; then
    echo "job.sh: $1, not requeued: its most_restarts=$most_restarts are used up; submit again with --resume"
  else
    echo "job.sh: $1, asks to be requeued (restart $((restarts + 1)) of at most $most_restarts)"
    scontrol requeue "$job" && sleep 600 # ends with the requeue
    echo "job.sh: Slurm does not requeue it; submit again with --resume"
  fi
}
# The warning before the limit comes to this shell alone, and goes on to its child, as does a mere SIGTERM: as SIGUSR1, which srun and mpirun pass to their
# processes; those of a SIGTERM they kill. A job that Slurm ends gets SIGTERM, its steps and this shell, and KillWait later SIGKILL; whether it comes again
# is this shell's affair at the limit only.
child='' ended='' early=''
# shellcheck disable=SC2317 # called by the traps
tell() { # the child, where there is one
  if [ -n "$child" ]; then kill -USR1 "$child" 2>/dev/null; else early=yes; fi
}
# shellcheck disable=SC2317
terminated() {
  case $(scontrol -o show job "$job") in
    *' Reason=TimeLimit '*) requeue "ended by its time limit" ;;
    *' JobState=RUNNING '*) tell ;; # a mere signal
    *) ended=yes ;;
  esac
}
trap tell USR1
trap terminated TERM
# shellcheck source=scripts/slurm/read_site.sh
. "$(dirname "${BASH_SOURCE[0]}")/read_site.sh"
set +u # of modules, some use what is not set
for name in "${modules[@]}"; do module load "$name" || site_error "modules: 'module load $name' failed in job $job" "try it in a batch job of this cluster"; done
set -u
export SLURM_EXPORT_ENV=ALL # what is set here is for the processes, also where jobs begin without the environment of the submitting shell
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}" OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"
for setting in "${launch_environment[@]}"; do export "${setting?}"; done
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

# What may be finished has to be within KillWait, and half of the time is for saving.
kill_wait=$(scontrol show config | sed -n 's/^KillWait *= *\([0-9]\+\).*/\1/p')
grace=$((grace_seconds / 2))
if [ -n "$kill_wait" ] && [ "$kill_wait" -lt "$grace_seconds" ]; then grace=$((kill_wait / 2)); fi

# run COMMAND...: its exit code is `code`; signals are answered while it runs. After an early one it is not begun, or told when it listens.
run() {
  code=75
  if [ -n "$early" ]; then return; fi
  "$@" &
  child=$!
  if [ -n "$early" ]; then sleep 1 && kill -USR1 "$child"; fi
  while kill -0 "$child" 2>/dev/null; do wait "$child"; done
  wait "$child"
  code=$?
}

case $what in
  part)
    folder=$1 sweep=$2 n=$3
    shift 3
    options=() # an isolated point's processes are started for it alone
    for word in "$@"; do # what failed is tried again once, not after every requeue
      if [ "$word" != --retry-failed ] || [ "$restarts" -eq 0 ]; then options+=("$word"); fi
    done
    case " ${options[*]} " in
      *' --isolate '*' --launch '*) launch=() ;;
      *' --isolate '*) options+=(--launch "${launch[*]}") launch=() ;;
    esac
    run "${launch[@]}" "$program" sweep "$sweep" "${options[@]}" --out "$folder" --resume --part "$SLURM_ARRAY_TASK_ID/$n" --grace "${grace}s"
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

# 138 and 143: SIGUSR1 or SIGTERM came while the program was starting, when nobody listened yet.
if [ "$code" -eq 143 ] && [ -z "$ended" ]; then case $(scontrol -o show job "$job") in *' JobState=RUNNING '*) ;; *) ended=yes ;; esac; fi
case $code in 75 | 138 | 143) [ -n "$ended" ] || requeue interrupted ;; esac
exit "$code"
