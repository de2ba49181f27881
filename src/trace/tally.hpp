// Tally: counts the rows that break one rule and remembers the first, so that a bad trace yields one message per rule.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/error.hpp"

namespace moekv::native {

class Tally {
 public:
  Tally(std::string where, std::string rule, std::string suggestion) : problem_{std::move(where), std::move(rule), std::move(suggestion)} {}

  /// `describe` makes the text of the first case only.
  template <class Describe>
  void add(Describe&& describe) {
    if (count_++ == 0) first_ = describe();
  }
  [[nodiscard]] std::uint64_t count() const { return count_; }
  /// "rule: first case (and n more)"; nothing where the rule held.
  void report(std::vector<Problem>& problems) const {
    if (count_ == 0) return;
    Problem p = problem_;
    p.what += ": " + first_;
    if (count_ > 1) p.what += ", and " + std::to_string(count_ - 1) + " more";
    problems.push_back(std::move(p));
  }

 private:
  Problem problem_;
  std::string first_;
  std::uint64_t count_ = 0;
};

}  // namespace moekv::native
