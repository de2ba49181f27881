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

  [[nodiscard]] static constexpr unsigned n_threads() { return 128; }
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
    fold(v, 1, width, [](float a, float b) { return a > b ? a : b; });
  }
  void sum(Lanes<float>& v, unsigned width) {
    fold(v, 1, width, [](float a, float b) { return a + b; });
  }

  void largest_of_column(Lanes<float>& v) {
    fold(v, 4, 32, [](float a, float b) { return a > b ? a : b; });
  }
  void sum_of_column(Lanes<float>& v) {
    fold(v, 4, 32, [](float a, float b) { return a + b; });
  }
  void sum_of_warp(Lanes<std::uint32_t>& v) {
    fold(v, 1, 32, [](std::uint32_t a, std::uint32_t b) { return a + b; });
  }
  void largest_of_warp(Lanes<std::uint32_t>& v) {
    fold(v, 1, 32, [](std::uint32_t a, std::uint32_t b) { return a > b ? a : b; });
  }
  void smallest_of_warp(Lanes<std::uint32_t>& v) {
    fold(v, 1, 32, [](std::uint32_t a, std::uint32_t b) { return a < b ? a : b; });
  }
  void any_of_warp(Lanes<bool>& v) {
    fold(v, 1, 32, [](bool a, bool b) { return a || b; });
  }
  void sync_warps() {}

  static std::uint32_t select_bytes(std::uint32_t x, std::uint32_t y, std::uint32_t selector) {
    const std::uint64_t both = std::uint64_t{y} << 32 | x;
    std::uint32_t out = 0;
    for (unsigned i = 0; i < 4; ++i) out |= static_cast<std::uint32_t>(both >> (8 * (selector >> (4 * i) & 7U)) & 0xFFU) << (8 * i);
    return out;
  }
  template <ElementFormat element>
  static std::uint32_t multiply_add(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    const auto half = [&](unsigned shift) { return value<element>(a >> shift) * value<element>(b >> shift) + value<element>(c >> shift); };
    return round_pair<element>(half(0), half(16));
  }
  template <ElementFormat element>
  static std::uint32_t round_pair(float low, float high) {
    const auto bits = [](float x) { return element == ElementFormat::bf16 ? bf16_from_float(x) : fp16_from_float(x); };
    return std::uint32_t{bits(low)} | std::uint32_t{bits(high)} << 16;
  }
  static float larger(float a, float b) { return a > b ? a : b; }
  static float smaller(float a, float b) { return a < b ? a : b; }
  static float divide(float x, float s, float) { return x / s; }
  static std::uint32_t e4m3_pair(float low, float high) { return e4m3_from_float(low) | static_cast<std::uint32_t>(e4m3_from_float(high)) << 8; }
  static void load_wide(const void* from, std::uint32_t* words) {
    require_aligned(from);
    std::memcpy(words, from, 16);
  }
  static float exp(float x) { return exp_fixed(x); }
  template <class Word>
  void transpose(Word&& word) {
    for (unsigned warp = 0; warp < n_threads(); warp += 32) {
      std::uint16_t m[8][8];
      for (unsigned l = 0; l < 32; ++l) {
        for (unsigned half = 0; half < 2; ++half) m[l / 4][2 * (l % 4) + half] = static_cast<std::uint16_t>(word(warp + l) >> (16 * half));
      }
      for (unsigned l = 0; l < 32; ++l) word(warp + l) = m[2 * (l % 4)][l / 4] | std::uint32_t{m[2 * (l % 4) + 1][l / 4]} << 16;
    }
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
    copy_later(to, from, copies, 16);
  }
  void copy_word_later(void* to, const void* from, bool copies) {
    require_aligned(to, 4);
    require_aligned(from, 4);
    copy_later(static_cast<std::byte*>(to), static_cast<const std::byte*>(from), copies, 4);
  }
  void end_group() {
    groups_.push_back(pending_);
    pending_.clear();
  }
  /// Lets at most `newest` groups be under way.
  void wait_groups(std::size_t newest) {
    while (groups_.size() > newest) {
      for (const Copy& copy : groups_.front()) {
        if (copy.from != nullptr) std::memcpy(copy.to, copy.from, copy.bytes);
        if (copy.from == nullptr) std::memset(copy.to, 0, copy.bytes);
      }
      groups_.erase(groups_.begin());
    }
  }

 private:
  /// A GPU traps where 16 bytes do not lie at a multiple of 16.
  static void require_aligned(const void* p, std::uintptr_t bytes = 16) {
    if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0) throw std::logic_error("bytes that are not aligned");
  }
  void copy_later(std::byte* to, const std::byte* from, bool copies, std::size_t bytes) {
    std::memset(to, 0xFF, bytes);
    pending_.push_back({to, copies ? from : nullptr, bytes});
  }

  struct Copy {
    std::byte* to;
    const std::byte* from;
    std::size_t bytes;
  };

  template <ElementFormat element>
  static float value(std::uint32_t bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    return element == ElementFormat::bf16 ? float_from_bf16(half) : float_from_fp16(half);
  }

  template <class T, class F>
  void fold(Lanes<T>& v, unsigned first, unsigned end, F&& f) {
    for (unsigned distance = end / 2; distance >= first; distance /= 2) {
      Lanes<T> before = v;
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
