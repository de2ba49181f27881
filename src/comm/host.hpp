// The name of this host, for error messages and provenance.
#pragma once

#include <string>

namespace moekv {

/// As gethostname says; "unknown" where it fails.
[[nodiscard]] std::string host_name();

}  // namespace moekv
