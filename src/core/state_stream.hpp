// StateStream: one walk over the fields of an object that writes what changed during a run, or reads it back into an equal object made anew.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/error.hpp"

namespace moekv {

/// A class takes part by `void transfer(StateStream&)`, which names its fields once for both directions. What follows from the configuration is left
/// out: the constructor makes it. Streams are read by the build that wrote them.
class StateStream {
 public:
  StateStream() = default;
  virtual ~StateStream() = default;
  StateStream(const StateStream&) = delete;
  StateStream& operator=(const StateStream&) = delete;

  [[nodiscard]] virtual bool reads() const = 0;
  /// Writes n bytes, or replaces them by the next n of the stream. Throws SystemError where that is not possible.
  virtual void bytes(void* data, std::size_t n) = 0;

  template <class... T>
  void operator()(T&... fields) {
    (field(fields), ...);
  }
  /// A word between parts, equal in both directions. Throws SystemError where what is read is another one: the walks differ.
  void mark(std::uint32_t word) {
    std::uint32_t found = word;
    field(found);
    if (found != word) throw SystemError("a saved state does not match the program that reads it");
  }

 private:
  template <class T>
  static constexpr bool has_transfer = requires(T& object, StateStream& stream) { object.transfer(stream); };
  /// Values that are their bytes: no pointers, and no views, which are pointers.
  template <class T>
  static constexpr bool is_plain =
      std::is_trivially_copyable_v<T> && !std::is_pointer_v<T> && !requires { typename T::element_type; } && !has_transfer<T>;

  template <class T>
  void field(T& value) {
    if constexpr (has_transfer<T>) {
      value.transfer(*this);
    } else {
      static_assert(is_plain<T>, "needs a transfer member");
      bytes(&value, sizeof(T));
    }
  }
  template <class T>
  void items(T* first, std::size_t n) {
    if constexpr (is_plain<T>) {
      if (n > 0) bytes(first, n * sizeof(T));
    } else {
      for (std::size_t i = 0; i < n; ++i) field(first[i]);
    }
  }
  [[nodiscard]] std::size_t count(std::size_t n) {
    std::uint64_t stored = n;
    field(stored);
    return static_cast<std::size_t>(stored);
  }

  /// Capacities come along: what a run reports of its memory does not tell that it was saved.
  template <class T, class Allocator>
  void field(std::vector<T, Allocator>& list) {
    static_assert(!std::is_same_v<T, bool>);
    const std::size_t capacity = count(list.capacity()), n = count(list.size());
    if (reads()) {
      std::vector<T, Allocator> fresh;
      fresh.reserve(capacity);
      fresh.resize(n);
      list.swap(fresh);
    }
    items(list.data(), n);
  }
  template <class T, std::size_t N>
    requires(!is_plain<std::array<T, N>>)
  void field(std::array<T, N>& list) {
    items(list.data(), N);
  }
  template <class T>
  void field(std::deque<T>& list) {
    const std::size_t n = count(list.size());
    if (reads()) list = std::deque<T>(n);
    for (T& item : list) field(item);
  }
  void field(std::string& text) {
    const std::size_t n = count(text.size());
    text.resize(n);
    if (n > 0) bytes(text.data(), n);
  }
  template <class A, class B>
  void field(std::pair<A, B>& both) {
    field(both.first);
    field(both.second);
  }
  template <class Key, class Value>
  void field(std::map<Key, Value>& map) {
    const std::size_t n = count(map.size());
    if (!reads()) {
      for (auto& [key, value] : map) entry(key, value);
      return;
    }
    map.clear();
    for (std::size_t i = 0; i < n; ++i) {
      std::pair<Key, Value> read{};
      field(read);
      map.insert(map.end(), std::move(read));
    }
  }
  /// In the order of the keys, so that equal maps are equal bytes.
  template <class Key, class Value>
  void field(std::unordered_map<Key, Value>& map) {
    const std::size_t n = count(map.size());
    if (!reads()) {
      std::vector<Key> keys;
      for (const auto& both : map) keys.push_back(both.first);
      std::sort(keys.begin(), keys.end());
      for (const Key& key : keys) entry(key, map.at(key));
      return;
    }
    map.clear();
    for (std::size_t i = 0; i < n; ++i) {
      std::pair<Key, Value> read{};
      field(read);
      map.insert(std::move(read));
    }
  }
  template <class Key, class Value>
  void entry(const Key& key, Value& value) {
    Key copy = key;
    field(copy);
    field(value);
  }
};

/// A state in memory.
class StateBuffer final : public StateStream {
 public:
  /// Writes, until `rewind`; then reads from the beginning.
  void rewind() {
    reads_ = true;
    at_ = 0;
  }
  [[nodiscard]] bool reads() const override { return reads_; }
  void bytes(void* data, std::size_t n) override {
    auto* const raw = static_cast<std::byte*>(data);
    if (!reads_) {
      bytes_.insert(bytes_.end(), raw, raw + n);
      return;
    }
    if (n > bytes_.size() - at_) throw SystemError("a saved state ends early");
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(at_), n, raw);
    at_ += n;
  }
  /// Whether everything was read.
  [[nodiscard]] bool done() const { return at_ == bytes_.size(); }
  [[nodiscard]] const std::vector<std::byte>& content() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
  std::size_t at_ = 0;
  bool reads_ = false;
};

}  // namespace moekv
