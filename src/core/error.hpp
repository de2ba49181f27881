// The three kinds of failure: the user's (exit 2, all problems at once), the system's (API, text, rank, host), and a bug (MOEKV_EXPECT).
#pragma once

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "core/hd.hpp"

namespace moekv {

/// Exit codes of the program (ARCHITECTURE, Errors).
enum class ExitCode : int { ok = 0, points_failed = 1, usage = 2, no_device = 3, internal = 70, interrupted = 75 };

/// One mistake in a configuration, trace or command line. `where` is "file:line:column", "file" or "<command line>:n".
struct Problem {
  std::string where;
  std::string what;        // what is wrong, naming the key or field
  std::string suggestion;  // what to do; may be empty
  std::string excerpt{};   // the source line and a caret, printed beneath; may be empty
};

/// Formats problems one per line as "where: error: what (suggestion)", each followed by its excerpt.
[[nodiscard]] std::string format_problems(const std::vector<Problem>& problems);

/// Bad input. Collected, printed once on rank 0, exit code 2, nothing written.
class UserError : public std::runtime_error {
 public:
  explicit UserError(std::vector<Problem> problems);
  UserError(std::string where, std::string what, std::string suggestion = {});
  [[nodiscard]] const std::vector<Problem>& problems() const { return problems_; }

 private:
  std::vector<Problem> problems_;
};

/// A sweep point that cannot run here (out of memory, a request that can never fit): recorded, the program goes on.
class PointFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A failed system call or library call; the text names the API, its message and the source location.
class SystemError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The asked-for device or library is missing: exit code 3.
class DeviceMissing : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Nearest of `known` to `word` by Damerau-Levenshtein distance <= max(1, len/3), small and capital letters being equal; where none is near, the
/// first "word.variant"; else empty.
[[nodiscard]] std::string_view nearest_name(std::string_view word, const std::vector<std::string_view>& known);

/// "did you mean 'x'? known: a, b, c" for an unknown name.
[[nodiscard]] std::string suggest_name(std::string_view word, const std::vector<std::string_view>& known);

}  // namespace moekv

namespace moekv::detail {
#if defined(__CUDA_ARCH__)
__device__ inline void trap() { asm("trap;"); }
#else
[[noreturn]] inline void trap() { std::abort(); }
#endif
}  // namespace moekv::detail

#if !defined(NDEBUG) || defined(MOEKV_CHECKED)
#define MOEKV_EXPECT(condition)                                                     \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::printf("%s:%d: broken invariant: %s\n", __FILE__, __LINE__, #condition); \
      moekv::detail::trap();                                                        \
    }                                                                               \
  } while (false)
#else
#define MOEKV_EXPECT(condition) ((void)0)
#endif
