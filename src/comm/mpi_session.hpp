// MpiSession: owns MPI_Init and MPI_Finalize. Does not finalize while an exception unwinds (the other ranks would hang): main aborts instead.
#pragma once

#include <string>

namespace moekv {

class MpiSession {
 public:
  MpiSession(int& argc, char**& argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  [[nodiscard]] int process() const;
  [[nodiscard]] int n_processes() const;
  /// Index among the processes of this host, for device choice.
  [[nodiscard]] int local_process() const;
  /// Ends every process of the job with `code`; prints nothing.
  [[noreturn]] static void abort(int code);
  /// "Open MPI v4.1.4, ...", for provenance.
  [[nodiscard]] static std::string library_version();
  /// True when this process was started by mpirun, srun or another launcher with more than one process or is a singleton that was initialised.
  [[nodiscard]] static bool launched_by_launcher();
};

}  // namespace moekv
