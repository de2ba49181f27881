// Host name and place of this process.
#include "comm/host.hpp"

#include <unistd.h>

#include <array>

namespace moekv {
namespace {

LocalProcess& this_process() {
  static LocalProcess process;
  return process;
}

}  // namespace

LocalProcess local_process() { return this_process(); }
void set_local_process(const LocalProcess& process) { this_process() = process; }

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

}  // namespace moekv
