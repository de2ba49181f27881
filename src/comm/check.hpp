// Turns a failed MPI call into a SystemError that names the place, MPI's own text, the process and its host. Only for sources of src/comm.
#pragma once

#include <fmt/format.h>
#include <mpi.h>

#include <array>
#include <source_location>
#include <string>

#include "comm/host.hpp"
#include "core/error.hpp"

namespace moekv::mpi {

[[noreturn]] inline void fail(int code, const std::source_location& where) {
  std::array<char, MPI_MAX_ERROR_STRING + 1> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) text[0] = '\0';
  int initialised = 0, process = -1;
  MPI_Initialized(&initialised);
  if (initialised != 0) MPI_Comm_rank(MPI_COMM_WORLD, &process);
  throw SystemError(fmt::format("MPI: {} (code {}; process {} on {}; {}:{} {})", text.data(), code, process, host_name(), where.file_name(),
                                where.line(), where.function_name()));
}

/// mpi::check(MPI_Call(...)): throws SystemError unless the call succeeded. The communicator's error handler must be MPI_ERRORS_RETURN.
inline void check(int code, const std::source_location& where = std::source_location::current()) {
  if (code != MPI_SUCCESS) fail(code, where);
}

}  // namespace moekv::mpi
