// Facts: named values about a run in the order they were set; what becomes the attributes of a result file, and is read back from them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/hdf5.hpp"

namespace moekv {

using FactValue = std::variant<std::int64_t, double, std::string, std::vector<std::string>>;

struct Fact {
  std::string name;
  FactValue value;
};

class Facts {
 public:
  /// Adds a fact, or replaces the one of that name.
  void set(std::string name, FactValue value);
  [[nodiscard]] const FactValue* find(std::string_view name) const;
  /// A fact as text: numbers printed, lists joined by blanks; empty where there is none.
  [[nodiscard]] std::string text(std::string_view name) const;
  /// An integer fact; `otherwise` where there is none.
  [[nodiscard]] std::int64_t integer(std::string_view name, std::int64_t otherwise = 0) const;
  [[nodiscard]] const std::vector<Fact>& list() const { return list_; }

 private:
  std::vector<Fact> list_;
};

/// One attribute per fact; empty lists are left out. Text that is not UTF-8 is made so: bytes that are not become '?'.
void write_attributes(h5::Object& object, const Facts& facts);
/// Every attribute that has one of the fact types.
[[nodiscard]] Facts read_attributes(const h5::Object& object);

/// The text with every byte that is no part of valid UTF-8, and every zero byte, replaced by '?'.
[[nodiscard]] std::string valid_utf8(std::string_view text);

}  // namespace moekv
