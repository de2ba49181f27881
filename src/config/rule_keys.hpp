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

/// The rules with the defaults of their parameters, in order.
template <class Variant>
[[nodiscard]] const std::vector<Variant>& default_rules() {
  static const auto rules = []<std::size_t... i>(std::index_sequence<i...>) {
    return std::vector<Variant>{Variant(std::in_place_index<i>)...};
  }(std::make_index_sequence<std::variant_size_v<Variant>>{});
  return rules;
}

/// Other names of a catalogue's rules. A configuration may use them; what is written and stored is the rule's own
/// name, with a note.
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

template <class... Rule>
[[nodiscard]] std::string rule_name(const std::variant<Rule...>& variant) {
  static constexpr std::string_view names[] = {Rule::name...};
  return std::string(names[variant.index()]);
}

/// Where the rule of a row lives; a short form such as `compression.codec` sets several at once. The first is what is written.
template <class Variant>
using RuleTargets = std::function<std::vector<Variant*>(RunSpec&)>;

template <class Variant>
[[nodiscard]] const Variant& first_target(const RuleTargets<Variant>& targets, const RunSpec& spec) {
  return *targets(const_cast<RunSpec&>(spec)).front();
}

/// One parameter of one rule, known by address.
struct RuleParameter {
  std::string_view rule, name, unit, doc;
  Limits limits;
  const ValueType* type;
  void* (*field)(void* rule);
  const void* untouched;  // the rule with the defaults of its parameters
};
template <class Rule>
[[nodiscard]] std::vector<RuleParameter> parameters_of() {
  static const Rule untouched{};
  return []<std::size_t... i>(std::index_sequence<i...>) {
    return std::vector<RuleParameter>{[] {
      constexpr auto param = std::get<i>(Rule::params);
      using T = std::remove_cvref_t<decltype(untouched.*param.member)>;
      return RuleParameter{Rule::name,
                           param.name,
                           param.unit,
                           param.doc,
                           {param.min, param.max},
                           &value_type<T>(),
                           [](void* rule) -> void* { return &(static_cast<Rule*>(rule)->*std::get<i>(Rule::params).member); },
                           &untouched};
    }()...};
  }(std::make_index_sequence<std::tuple_size_v<std::remove_cvref_t<decltype(Rule::params)>>>{});
}

/// Parameters of every rule, in order.
template <class Variant>
[[nodiscard]] const std::vector<std::vector<RuleParameter>>& rule_parameters() {
  static const auto parameters = []<std::size_t... i>(std::index_sequence<i...>) {
    return std::vector<std::vector<RuleParameter>>{parameters_of<std::variant_alternative_t<i, Variant>>()...};
  }(std::make_index_sequence<std::variant_size_v<Variant>>{});
  return parameters;
}

/// Where the rule that a variant holds lies.
template <class... Rule>
[[nodiscard]] void* rule_address(std::variant<Rule...>& variant) {
  void* at = nullptr;
  ((at = at == nullptr ? std::get_if<Rule>(&variant) : at), ...);
  return at;
}

/// Row of a parameter of the rule that is alternative `index` of `Variant`.
template <class Variant>
[[nodiscard]] Key parameter_key(const std::string& section, const std::string& selector, std::size_t index, const RuleParameter& p,
                                const RuleTargets<Variant>& targets) {
  Key key = typed_key(section + "." + std::string(p.name), p.unit, p.doc, *p.type, p.limits);
  key.rule = std::string(p.rule);
  key.selector = selector;
  key.active = [=](const RunSpec& spec) { return first_target(targets, spec).index() == index; };
  key.read = [=](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    const std::vector<Variant*> all = targets(spec);
    if (all.front()->index() != index) throw std::bad_variant_access();
    p.type->read(node, p.field(rule_address(*all.front())), p.unit, p.limits, complain);
    for (Variant* target : all) *target = *all.front();
  };
  key.write = [=](const RunSpec& spec) {
    const Variant& first = first_target(targets, spec);
    return p.type->write(p.field(first.index() == index ? rule_address(const_cast<Variant&>(first)) : const_cast<void*>(p.untouched)));
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
  selector.read = [=, names = selector.values](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    std::size_t index = 0;
    if (!expect_scalar(node, "a name", complain)) return;
    YamlNode own = node;
    own.text = resolve_alias<Variant>(node.text);
    if (!read_choice(own, names, index, complain)) return;
    for (Variant* target : targets(spec)) *target = default_rules<Variant>()[index];
    if (own.text != node.text) spec.notes.push_back(section + "." + choice + " " + node.text + " stands for " + own.text);
  };
  selector.write = [=](const RunSpec& spec) { return quote(rule_name(first_target(targets, spec))); };
  keys.push_back(selector);
  for (std::size_t index = 0; index < std::variant_size_v<Variant>; ++index) {
    for (const RuleParameter& p : rule_parameters<Variant>()[index]) {
      keys.push_back(parameter_key<Variant>(section, selector.path, index, p, targets));
      keys.back().written = written;
    }
  }
}

}  // namespace moekv
