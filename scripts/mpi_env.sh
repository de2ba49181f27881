# shellcheck shell=bash
# The environment in which this project starts mpirun; sourced by the scripts, read line by line by scripts/cmake/MoekvAddTest.cmake.
# Each line keeps a value that is already set, so a cluster or a simulated node can choose its own transport.
if [ "$(id -u)" -eq 0 ]; then # mpirun refuses root without both
  export OMPI_ALLOW_RUN_AS_ROOT="${OMPI_ALLOW_RUN_AS_ROOT:-1}"
  export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-1}"
fi
# More processes than cores: allow it, and let a waiting process give its core away (collectives are 1000 times slower otherwise).
export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"
# Processes are not bound to one core each: the OpenMP threads of a process would share it.
export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"
# Shared memory of one machine; skips probing for network cards (half of the start-up time) and system calls that containers forbid.
export OMPI_MCA_btl="${OMPI_MCA_btl:-self,vader}"
export OMPI_MCA_pml="${OMPI_MCA_pml:-ob1}"
export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism:-none}"
# OpenMP threads that wait give their core away too. (A process alone on its cores takes small steps up to four times faster without this.)
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
