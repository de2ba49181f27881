// This host and this process on it, for error messages, provenance and the choice of devices.
#pragma once

#include <string>

namespace moekv {

/// As gethostname says; "unknown" where it fails.
[[nodiscard]] std::string host_name();

/// This process among those of the job on this host: 0 of 1 until an MpiSession has told.
struct LocalProcess {
  int index = 0, count = 1;
};
[[nodiscard]] LocalProcess local_process();
void set_local_process(const LocalProcess& process);

}  // namespace moekv
