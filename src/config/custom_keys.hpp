// Rows of the key table whose values are more than one scalar: paths, lists of layers, budgets, choices with a count.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/key.hpp"

namespace moekv {

/// A file; a relative path starts at the directory of the file that names it, or at the current directory for an override.
[[nodiscard]] Key path_key(std::string path, std::string doc, std::string& (*access)(RunSpec&));

/// Reads "[0, 4-7, 10-20/2]" or one such item: ascending, without repetition, below `limit`. Complains otherwise and returns false.
[[nodiscard]] bool read_layers(const YamlNode& node, std::uint32_t limit, std::vector<std::uint16_t>& out, Complaints& complain);
[[nodiscard]] std::string write_layers(const std::vector<std::uint16_t>& layers);

/// eviction.budget: "25%", {fraction: 1/4}, {tokens: 1024}, {pages: 64}, {bytes: 2GiB} or unlimited.
[[nodiscard]] Key budget_key();

/// A choice of which one takes a count: "last:32" or "last(32)" sets both fields; `count_path` is the key of the count.
template <class E, class Choice, class Count>
[[nodiscard]] Key counted_choice_key(std::string path, std::string doc, E counted, Choice choice, std::string count_path, Count count) {
  Key key = field_key(std::move(path), "", std::move(doc), choice);
  key.counts = std::move(count_path);
  key.read = [=](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    if (!expect_scalar(node, "a choice", complain)) return;
    YamlNode word = node;
    const std::size_t cut = node.text.find_first_of(":(");
    if (cut != std::string::npos && node.text.substr(0, cut) == enum_name(counted)) {
      YamlNode number = node;
      number.text = node.text.substr(cut + 1);
      if (node.text[cut] == '(' && !number.text.ends_with(')'))
        return complain(node.at, "a bracket is not closed", fmt::format("{}(8)", enum_name(counted)));
      if (node.text[cut] == '(') number.text.pop_back();
      read_value(number, count(spec), "", Limits{1, 1e9}, complain);
      word.text = node.text.substr(0, cut);
    }
    read_value(word, choice(spec), "", {}, complain);
  };
  return key;
}

}  // namespace moekv
