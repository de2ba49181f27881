// FrameEncoder, FrameDecoder: the values of a bundle's frame as bytes and back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "core/error.hpp"

namespace moekv {

/// Appends numbers as they are, but counters, which are most of a run and small or 0, as groups of seven bits, the sign lowest, the last group below
/// 128; texts after their length.
class FrameEncoder {
 public:
  /// `before`: bytes before all values, which the caller fills.
  explicit FrameEncoder(std::size_t before) { append(std::string(before, '\0').data(), before); }
  template <class T>
    requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void value(const T& number) {
    append(reinterpret_cast<const char*>(&number), sizeof(T));
  }
  void value(const std::int64_t& number) {
    char* const begin = room(most_groups);
    char* at = begin;
    std::uint64_t left = static_cast<std::uint64_t>(number) << 1 ^ static_cast<std::uint64_t>(number >> 63);
    for (; left >= 128; left >>= 7) *at++ = static_cast<char>(left | 128);
    *at++ = static_cast<char>(left);
    size_ += static_cast<std::size_t>(at - begin);
  }
  void value(const std::string& text) {
    size(text.size());
    append(text.data(), text.size());
  }
  std::size_t size(std::size_t n) {
    value(static_cast<std::uint64_t>(n));
    return n;
  }
  [[nodiscard]] std::span<char> bytes() { return {out_.get(), size_}; }

 private:
  static constexpr std::size_t most_groups = 10;

  void append(const char* from, std::size_t n) {
    if (n > 0) std::memcpy(room(n), from, n);
    size_ += n;
  }
  /// Where the next n bytes go.
  char* room(std::size_t n) {
    if (n > capacity_ - size_) grow(n);
    return out_.get() + size_;
  }
  void grow(std::size_t n) {
    capacity_ = std::max(2 * capacity_, size_ + n);
    auto larger = std::make_unique_for_overwrite<char[]>(capacity_);
    std::copy_n(out_.get(), size_, larger.get());
    out_ = std::move(larger);
  }

  std::size_t size_ = 0, capacity_ = std::size_t{1} << 16;
  std::unique_ptr<char[]> out_ = std::make_unique_for_overwrite<char[]>(capacity_);
};

/// The other way; every length is checked against what is left.
class FrameDecoder {
 public:
  FrameDecoder(std::string bytes, std::string where) : bytes_(std::move(bytes)), where_(std::move(where)) {}
  template <class T>
    requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void value(T& number) {
    std::memcpy(&number, take(sizeof(T)), sizeof(T));
  }
  void value(std::int64_t& number) {
    std::uint64_t all = 0;
    for (unsigned shift = 0;; shift += 7) {
      if (shift >= 70) fail();
      const auto group = static_cast<unsigned char>(*take(1));
      all |= std::uint64_t{group & 127U} << shift;
      if (group < 128) break;
    }
    number = static_cast<std::int64_t>(all >> 1 ^ (0 - (all & 1)));
  }
  void value(std::string& text) {
    const std::size_t n = size(0);
    text.assign(take(n), n);
  }
  /// Refuses a count that cannot be: each item takes a byte at least.
  std::size_t size(std::size_t) {
    std::uint64_t n = 0;
    value(n);
    if (n > bytes_.size() - at_) fail();
    return n;
  }
  [[noreturn]] void fail() const { throw UserError(where_, "a frame is damaged", "remove the file and run its points again"); }

 private:
  const char* take(std::uint64_t n) {
    if (n > bytes_.size() - at_) fail();
    at_ += n;
    return bytes_.data() + (at_ - n);
  }

  std::string bytes_, where_;
  std::size_t at_ = 0;
};

}  // namespace moekv
