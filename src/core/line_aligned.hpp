// LineAligned: an allocator for arrays that begin at a cache line.
#pragma once

#include <cstddef>
#include <new>

namespace moekv {

template <class T>
struct LineAligned {
  using value_type = T;
  static constexpr std::align_val_t line{64};
  LineAligned() = default;
  template <class U>
  explicit LineAligned(const LineAligned<U>&) {}
  [[nodiscard]] T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), line)); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, line); }
  bool operator==(const LineAligned&) const = default;
};

}  // namespace moekv
