// MpiSession: owns MPI_Init and MPI_Finalize. Does not finalize while an exception unwinds (the other ranks would hang): main aborts instead.
#pragma once

#include <string>

namespace moekv {

/// At most one per program. MPI errors come back as codes (and so as SystemError), MPI is used from the main thread only.
class MpiSession {
 public:
  /// Throws SystemError where MPI cannot start, UserError where Slurm started several processes that MPI does not see as one job.
  MpiSession(int& argc, char**& argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  [[nodiscard]] int process() const { return process_; }
  [[nodiscard]] int n_processes() const { return n_processes_; }
  /// Index among the processes of this host, for device choice.
  [[nodiscard]] int local_process() const { return local_process_; }
  /// Ends every process of the job with `code`; prints nothing.
  [[noreturn]] static void abort(int code);
  /// "Open MPI v4.1.4, ...", for provenance. Needs no session.
  [[nodiscard]] static std::string library_version();
  /// Whether MPI itself says that it takes device memory. moekv hands it none: messages pass through host memory.
  [[nodiscard]] static bool takes_device_memory();
  /// True when mpirun, srun or another launcher started this process. A plain process needs no MPI and must not start it.
  [[nodiscard]] static bool launched_by_launcher();

 private:
  int process_ = 0, n_processes_ = 1, local_process_ = 0;
  int exceptions_at_start_ = 0;
};

}  // namespace moekv
