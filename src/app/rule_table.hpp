// The rules of a catalogue as rows for people: what each does, looks at and takes, and where it comes from.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "config/rule_keys.hpp"

namespace moekv {

/// What a rule looks at.
struct RuleUse {
  std::string reads;  // "attention mass and accesses"
  std::string unit;   // what one decision is about
  std::string note;
};
[[nodiscard]] RuleUse use_of(const EvictRule& rule);
[[nodiscard]] RuleUse use_of(const RouteRule& router);
[[nodiscard]] RuleUse use_of(const Allocator& allocator);
[[nodiscard]] RuleUse use_of(const SelectRule& rule);
[[nodiscard]] RuleUse use_of(const Codec& codec);

/// What a rule says of itself; `source` is empty where it has none.
struct RuleText {
  std::string_view name, doc, source;
};
template <class... Rule>
[[nodiscard]] RuleText rule_text(const std::variant<Rule...>& variant) {
  static constexpr auto text_of = []<class R>(std::type_identity<R>) {
    if constexpr (requires { R::source; }) return RuleText{R::name, R::doc, R::source};
    return RuleText{R::name, R::doc, {}};
  };
  static constexpr RuleText texts[] = {text_of(std::type_identity<Rule>{})...};
  return texts[variant.index()];
}

struct RuleRow {
  RuleText text;
  RuleUse use;
  std::vector<const Key*> parameters;
};

/// Parameters of a rule as keys of configuration section `section`.
[[nodiscard]] std::vector<const Key*> parameter_keys(std::string_view rule, const std::string& section);

/// Rows of a catalogue whose rules are chosen in configuration section `section`.
template <class Variant>
[[nodiscard]] std::vector<RuleRow> rule_rows(const std::string& section) {
  std::vector<RuleRow> rows;
  for (const Variant& rule : default_rules<Variant>()) {
    const RuleText text = rule_text(rule);
    rows.push_back({text, use_of(rule), parameter_keys(text.name, section)});
  }
  return rows;
}

/// Name of a parameter's key within its section, and its default.
[[nodiscard]] std::string parameter_default(const Key& key);

}  // namespace moekv
