// EmulatedBlock: runs the body of a kernel for one thread block on the host, phase by phase, with warps, tensor-core products and asynchronous
// copies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "rules/codec/element.hpp"

namespace moekv::test {

/// Threads of a phase run one after another, forwards or backwards: what depends on their order differs between the two. Shared memory begins
/// poisoned.
class EmulatedBlock {
 public:
  struct Wide {
    std::uint64_t low, high;
  };
  template <class T>
  class Lanes {
   public:
    T& operator[](unsigned t) { return values_[t]; }

   private:
    T values_[128];
  };

  /// `memory` is kept from block to block.
  EmulatedBlock(std::uint32_t index, std::uint64_t shared_bytes, std::vector<std::byte>& memory, bool backwards)
      : index_(index), backwards_(backwards) {
    memory.assign(shared_bytes + 16, std::byte{0xFF});
    shared_ = memory.data() + (16 - reinterpret_cast<std::uintptr_t>(memory.data()) % 16) % 16;
  }

  [[nodiscard]] unsigned n_threads() const { return 128; }
  [[nodiscard]] std::uint32_t index() const { return index_; }
  [[nodiscard]] std::byte* shared() const { return shared_; }

  static void store_wide(void* to, const std::uint32_t* words) {
    require_aligned(to);
    std::memcpy(to, words, 16);
  }

  template <class F>
  void free_each(F&& f) {
    for (unsigned t = 0; t < n_threads(); ++t) f(backwards_ ? n_threads() - 1 - t : t);
  }
  template <class F>
  void each(F&& f) {
    free_each(f);
  }

  /// v[t] becomes the largest (the sum) of its run of `width` lanes.
  void largest(Lanes<float>& v, unsigned width) {
    fold(v, width, [](float a, float b) { return a > b ? a : b; });
  }
  void sum(Lanes<float>& v, unsigned width) {
    fold(v, width, [](float a, float b) { return a + b; });
  }

  /// Four 8x8 matrices of 16-bit values for every warp: lanes 8 i .. 8 i + 7 name the rows of matrix i, 16 bytes each. Lane l gets of matrix i the
  /// pair (l / 4; 2 (l % 4), + 1), of the transposed one where asked.
  template <class Row, class Out>
  void load_matrices(bool transposed, Row&& row, Out&& out) {
    for (unsigned warp = 0; warp < n_threads(); warp += 32) {
      std::uint16_t m[4][8][8];
      for (unsigned l = 0; l < 32; ++l) {
        require_aligned(row(warp + l));
        std::memcpy(m[l / 8][l % 8], row(warp + l), 16);
      }
      for (unsigned l = 0; l < 32; ++l) {
        for (unsigned i = 0; i < 4; ++i) {
          const unsigned r = l / 4, c = 2 * (l % 4);
          const std::uint32_t low = transposed ? m[i][c][r] : m[i][r][c], high = transposed ? m[i][c + 1][r] : m[i][r][c + 1];
          out(warp + l)[i] = low | high << 16;
        }
      }
    }
  }

  /// c += a b with a 16x16 (rows l / 4 and + 8; columns 2 (l % 4) and + 8), b 16x8, c 16x8.
  template <ElementFormat element, class C, class A, class B>
  void multiply(C&& c, A&& a, B&& b) {
    for (unsigned warp = 0; warp < n_threads(); warp += 32) {
      float am[16][16], bm[16][8];
      for (unsigned l = 0; l < 32; ++l) {
        for (unsigned i = 0; i < 4; ++i) {
          for (unsigned half = 0; half < 2; ++half)
            am[l / 4 + i % 2 * 8][2 * (l % 4) + i / 2 * 8 + half] = value<element>(a(warp + l)[i] >> (16 * half));
        }
        for (unsigned i = 0; i < 2; ++i) {
          for (unsigned half = 0; half < 2; ++half) bm[2 * (l % 4) + 8 * i + half][l / 4] = value<element>(b(warp + l)[i] >> (16 * half));
        }
      }
      for (unsigned l = 0; l < 32; ++l) {
        for (unsigned i = 0; i < 4; ++i) {
          float sum = c(warp + l)[i];
          for (unsigned k = 0; k < 16; ++k) sum += am[l / 4 + i / 2 * 8][k] * bm[k][2 * (l % 4) + i % 2];
          c(warp + l)[i] = sum;
        }
      }
    }
  }

  /// 16 bytes, or zeros, that are there after the wait for their group. Until then the target is poisoned.
  void copy_later(std::byte* to, const std::byte* from, bool copies) {
    require_aligned(to);
    require_aligned(from);
    std::memset(to, 0xFF, 16);
    pending_.push_back({to, copies ? from : nullptr});
  }
  void end_group() {
    groups_.push_back(pending_);
    pending_.clear();
  }
  /// Lets at most `newest` groups be under way.
  void wait_groups(std::size_t newest) {
    while (groups_.size() > newest) {
      for (const Copy& copy : groups_.front()) {
        if (copy.from != nullptr) std::memcpy(copy.to, copy.from, 16);
        if (copy.from == nullptr) std::memset(copy.to, 0, 16);
      }
      groups_.erase(groups_.begin());
    }
  }

 private:
  /// A GPU traps where 16 bytes do not lie at a multiple of 16.
  static void require_aligned(const void* p) {
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) throw std::logic_error("16 bytes that are not aligned");
  }

  struct Copy {
    std::byte* to;
    const std::byte* from;
  };

  template <ElementFormat element>
  static float value(std::uint32_t bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    return element == ElementFormat::bf16 ? float_from_bf16(half) : float_from_fp16(half);
  }

  template <class F>
  void fold(Lanes<float>& v, unsigned width, F&& f) {
    for (unsigned distance = width / 2; distance > 0; distance /= 2) {
      Lanes<float> before = v;
      for (unsigned t = 0; t < n_threads(); ++t) v[t] = f(before[t], before[t ^ distance]);
    }
  }

  std::uint32_t index_;
  std::byte* shared_;
  bool backwards_;
  std::vector<Copy> pending_;
  std::vector<std::vector<Copy>> groups_;
};

}  // namespace moekv::test
