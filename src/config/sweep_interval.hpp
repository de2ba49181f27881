// Numbers between two ends: what a range of an axis lists, and what a sample draws from.
#pragma once

#include <string>
#include <vector>

#include "config/document.hpp"

namespace moekv {

inline constexpr std::size_t most_values = 100000;  // of an axis

/// An interval of a range or of a sample.
struct Interval {
  double from = 0, to = 0;
  bool log = false;
  bool whole = false;  // values are rounded; then both ends are whole
  bool sure = false;   // `whole` is said by the file or by the type of the key, not guessed from the ends
  std::string unit;    // follows the number: "%", "GiB"
  /// The value at a share in [0, 1].
  [[nodiscard]] double at(double share) const;
};

/// Reads from, to, scale, unit and whole for the key `key`. Where `whole` is absent, a key of whole numbers (without a unit) takes whole values, a
/// key of numbers any, and another one, such as a budget, whole values where both ends are whole.
[[nodiscard]] Interval read_interval(const YamlNode& node, const std::string& key, std::vector<Problem>& problems);
/// The values of `{from, to, step | factor | count}` for the key `key`; equal values are a problem.
[[nodiscard]] std::vector<YamlNode> range_values(const YamlNode& node, const std::string& key, std::vector<Problem>& problems);

/// A number of the mapping `map`; `otherwise` where it is absent.
[[nodiscard]] double number_of(const YamlNode& map, std::string_view name, double otherwise, std::vector<Problem>& problems);
[[nodiscard]] bool is_whole(double value);
[[nodiscard]] YamlNode number_node(double value, bool whole, const std::string& unit, const Place& at);

}  // namespace moekv
