// Programs that this one starts.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace moekv {

/// Where a child writes, open in this process; -1: where this process does.
struct ChildOutput {
  int out = -1, err = -1;
};
enum class ChildLife : std::uint8_t { own, until_parent_dies };  // the latter is told to stop (SIGTERM) where this process is killed

/// Starts `command`, a program that is looked for in PATH, and its arguments. A child that cannot be started ends with exit code 127. SystemError
/// where there is no process for it. The caller waits for it.
[[nodiscard]] pid_t start_child(const std::vector<std::string>& command, ChildOutput output, ChildLife life = ChildLife::own);

}  // namespace moekv
