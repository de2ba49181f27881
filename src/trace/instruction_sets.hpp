// What loops share that have one body for several instruction sets: vectors as wide as each, and the choice between them. No target fuses products
// and sums (-ffp-contract=off), so all give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moekv {

/// Vectors as wide as the instruction set's: of wider ones the compiler keeps no sums in registers.
template <class Element, std::size_t Bytes>
struct Vector {
  using Type [[gnu::vector_size(Bytes), gnu::aligned(alignof(Element)), gnu::may_alias]] = Element;
  static constexpr std::uint32_t lanes = Bytes / sizeof(Element);
};

#if defined(__x86_64__)
/// Of a set of loops for each instruction set the one for this processor.
template <class Loops>
[[nodiscard]] const Loops& pick_loops(const Loops& baseline, const Loops& avx2, const Loops& avx512) {
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
  return has_avx512 ? avx512 : __builtin_cpu_supports("avx2") ? avx2 : baseline;
}
#endif

}  // namespace moekv
