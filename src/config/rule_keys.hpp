// Rows of the key table made from a catalogue of rules (std::variant): the key that chooses a rule and the parameters of every rule.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "config/key.hpp"
#include "core/field.hpp"

namespace moekv {

template <class Variant>
[[nodiscard]] std::vector<std::string> rule_names() {
  return []<std::size_t... i>(std::index_sequence<i...>) {
    return std::vector<std::string>{std::string(std::variant_alternative_t<i, Variant>::name)...};
  }(std::make_index_sequence<std::variant_size_v<Variant>>{});
}

/// Calls f(rule) with a default-constructed value of every alternative, in order.
template <class Variant, class F>
void for_each_rule(F&& f) {
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    (f(std::variant_alternative_t<i, Variant>{}), ...);
  }(std::make_index_sequence<std::variant_size_v<Variant>>{});
}

/// Other names of a catalogue's rules. A configuration may use them; what is written and stored is the rule's own name.
template <class Variant>
inline constexpr std::span<const RuleAlias> rule_aliases{};
template <>
inline constexpr std::span<const RuleAlias> rule_aliases<Codec>{codec_aliases};

template <class Variant>
[[nodiscard]] std::string resolve_alias(const std::string& name) {
  for (const RuleAlias& a : rule_aliases<Variant>) {
    if (a.alias == name) return std::string(a.name);
  }
  return name;
}

[[nodiscard]] inline std::string rule_name(const auto& variant) {
  return std::visit([](const auto& rule) { return std::string(rule.name); }, variant);
}

/// Where the rule of a row lives; a short form such as `compression.codec` sets several at once. The first is what is written.
template <class Variant>
using RuleTargets = std::function<std::vector<Variant*>(RunSpec&)>;

template <class Variant>
[[nodiscard]] const Variant& first_target(const RuleTargets<Variant>& targets, const RunSpec& spec) {
  return *targets(const_cast<RunSpec&>(spec)).front();
}

/// Row of one parameter of rule `Rule`.
template <class Variant, class Rule, class T>
[[nodiscard]] Key parameter_key(const std::string& section, const std::string& selector, const Param<Rule, T>& param, RuleTargets<Variant> targets) {
  Key key;
  key.path = section + "." + std::string(param.name);
  key.type = type_name<T>();
  key.unit = std::string(param.unit);
  key.doc = std::string(param.doc);
  if constexpr (std::is_enum_v<T>) key.values = names_of<T>();
  const Limits limits{param.min, param.max};
  key.range = range_text<T>(limits);
  key.rule = std::string(Rule::name);
  key.selector = selector;
  key.active = [=](const RunSpec& spec) { return std::holds_alternative<Rule>(first_target(targets, spec)); };
  key.read = [=, unit = key.unit](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    Rule rule = std::get<Rule>(first_target(targets, spec));
    read_value<T>(node, rule.*param.member, unit, limits, complain);
    for (Variant* target : targets(spec)) *target = rule;
  };
  key.write = [=](const RunSpec& spec) {
    const Rule* rule = std::get_if<Rule>(&first_target(targets, spec));
    return write_value<T>((rule != nullptr ? *rule : Rule{}).*param.member);
  };
  return key;
}

/// Appends the row that chooses the rule (`section.choice`) and one row per parameter of every rule, all in `section`.
template <class Variant>
void add_rule_keys(std::vector<Key>& keys, const std::string& section, const std::string& choice, const std::string& doc,
                   RuleTargets<Variant> targets, bool written = true) {
  Key selector;
  selector.path = section + "." + choice;
  selector.type = "choice";
  selector.doc = doc;
  selector.values = rule_names<Variant>();
  selector.written = written;
  selector.read = [=](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    std::size_t index = 0;
    if (!expect_scalar(node, "a name", complain)) return;
    YamlNode own = node;
    own.text = resolve_alias<Variant>(node.text);
    if (!read_choice(own, rule_names<Variant>(), index, complain)) return;
    for_each_rule<Variant>([&](auto rule) {
      if (rule.name != rule_names<Variant>()[index]) return;
      for (Variant* target : targets(spec)) *target = rule;
    });
  };
  selector.write = [=](const RunSpec& spec) { return quote(rule_name(first_target(targets, spec))); };
  keys.push_back(selector);
  for_each_rule<Variant>([&](auto rule) {
    using Rule = decltype(rule);
    for_each_field(Rule::params, [&](const auto& param) {
      keys.push_back(parameter_key<Variant>(section, selector.path, param, targets));
      keys.back().written = written;
    });
  });
}

}  // namespace moekv
