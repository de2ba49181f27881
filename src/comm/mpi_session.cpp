// Start and end of MPI, and how to tell a launched process from a plain one.
#include "comm/mpi_session.hpp"

#if __has_include(<mpi-ext.h>)
#include <mpi.h>
// First mpi.h.
#include <mpi-ext.h>
#endif

#include <array>
#include <cstdlib>
#include <exception>
#include <string_view>

#include "comm/check.hpp"
#include "comm/start_guard.hpp"

namespace moekv {
namespace {

bool is_set(const char* variable) { return std::getenv(variable) != nullptr; }

/// Processes of this Slurm job step; 1 outside of one. The variables of a batch shell alone do not make a step.
int slurm_step_tasks() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  return is_set("SLURM_PROCID") && is_set("SLURM_STEP_ID") && tasks != nullptr ? std::atoi(tasks) : 1;
}

bool launched_by_process_manager() { return is_set("OMPI_COMM_WORLD_SIZE") || is_set("PMIX_RANK") || is_set("PMI_RANK"); }

}  // namespace

MpiSession::MpiSession(int& argc, char**& argv) : exceptions_at_start_(std::uncaught_exceptions()) {
  int provided = MPI_THREAD_SINGLE;
  {
    const StartGuard guard;
    mpi::check(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided));
  }
  mpi::check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  if (provided < MPI_THREAD_FUNNELED) throw SystemError("MPI: this library does not support threads (MPI_THREAD_FUNNELED is needed)");
  mpi::check(MPI_Comm_rank(MPI_COMM_WORLD, &process_));
  mpi::check(MPI_Comm_size(MPI_COMM_WORLD, &n_processes_));
  if (n_processes_ == 1 && slurm_step_tasks() > 1 && !launched_by_process_manager()) {
    throw UserError("<command line>", fmt::format("srun started {} processes that MPI does not see as one job", slurm_step_tasks()),
                    "start with srun --mpi=pmix, or with mpirun");
  }
  MPI_Comm host = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, process_, MPI_INFO_NULL, &host));
  int n_local = 1;
  mpi::check(MPI_Comm_rank(host, &local_process_));
  mpi::check(MPI_Comm_size(host, &n_local));
  set_local_process({local_process_, n_local});
  mpi::check(MPI_Comm_free(&host));
}

MpiSession::~MpiSession() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized == 0 && std::uncaught_exceptions() == exceptions_at_start_) MPI_Finalize();
}

void MpiSession::abort(int code) {
  int initialised = 0, finalized = 0;
  MPI_Initialized(&initialised);
  MPI_Finalized(&finalized);
  if (initialised != 0 && finalized == 0) MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

std::string MpiSession::library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING + 1> text{};
  int length = 0;  // may include the terminating zero: not used
  if (MPI_Get_library_version(text.data(), &length) != MPI_SUCCESS) return "unknown";
  const std::string_view all = text.data();
  return std::string(all.substr(0, all.find('\n')));
}

bool MpiSession::takes_device_memory() {
#ifdef MPIX_CUDA_AWARE_SUPPORT
  return MPIX_Query_cuda_support() == 1;
#else
  return false;
#endif
}

bool MpiSession::launched_by_launcher() { return launched_by_process_manager() || slurm_step_tasks() > 1; }

}  // namespace moekv
