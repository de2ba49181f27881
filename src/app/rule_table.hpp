// The rules of a catalogue as rows for people: what each does, looks at and takes, and where it comes from.
#pragma once

#include <fmt/format.h>

#include <array>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "config/rule_keys.hpp"
#include "config/schema.hpp"

namespace moekv {

struct RuleRow {
  std::string name, doc, source;
  std::string reads;  // "attention mass and accesses"
  std::string unit;   // what one decision is about
  std::string note;
  std::vector<const Key*> parameters;
};

namespace detail {

inline std::string listed(const std::vector<std::string>& parts) { return parts.empty() ? "nothing" : fmt::format("{}", fmt::join(parts, " and ")); }

/// Inputs of an eviction rule, and what it evicts where `eviction.unit` does not say.
template <class Rule>
  requires requires { Rule::family; }
void describe(const Rule&, RuleRow& row) {
  std::vector<std::string> in;
  if (evict::needs_mass<Rule>) in.emplace_back(evict::sums_layers<Rule> ? "attention mass of all layers" : "attention mass");
  if (evict::follows_access<Rule>) in.emplace_back("accesses");
  if (evict::needs_payload<Rule>) in.emplace_back("key and value");
  if (evict::needs_cost<Rule>) in.emplace_back("modelled time");
  if (evict::needs_error<Rule>) in.emplace_back("error of the codec");
  if constexpr (evict::reads_store<Rule>) {
    const evict::GroupReads reads = Rule{}.reads();
    in.emplace_back(reads.values ? "keys and values of the store" : "keys of the store");
    if (reads.queries > 0) in.emplace_back("recent queries");
  }
  row.reads = listed(in);
  row.unit = evict::default_unit<Rule> == evict::Unit::token ? "token" : "page";
  if (evict::needs_return<Rule> || evict::places<Rule>) row.note = "only with action demote";
}

/// Inputs of a router.
template <class Rule>
  requires requires { Rule::needs_logits; }
void describe(const Rule&, RuleRow& row) {
  std::vector<std::string> in;
  if (Rule::needs_logits) in.emplace_back("gate logits");
  if (requires { &Rule::update; }) in.emplace_back("loads of earlier steps");
  if (requires { Rule::reads_cache; }) in.emplace_back("cache misses");
  row.unit = route::ChoosesByGroup<Rule> ? "tokens of a home rank" : "token";
  if (in.empty()) in.emplace_back(row.name == "recorded" ? "trace" : "request and position");
  row.reads = listed(in);
}

/// Inputs of a budget allocator, and when it divides.
template <class Rule>
  requires requires { Rule::when; }
void describe(const Rule&, RuleRow& row) {
  std::vector<std::string> in;
  if (allocate::reads_scores<Rule>) in.emplace_back("the policy's scores");
  if (allocate::needs_mass<Rule>) in.emplace_back("attention mass");
  if (allocate::needs_table<Rule>) in.emplace_back("a file (path)");
  if (in.empty()) in.emplace_back("lengths");
  row.reads = listed(in);
  static const std::array<std::string, 3> when{"a request, at its start", "a request, with its first eviction", "an eviction"};
  row.unit = when[static_cast<std::size_t>(Rule::when)];
}

/// Inputs of a read-set rule.
template <class Rule>
  requires(select::needs_bounds<Rule> || std::is_same_v<Rule, select::All>)
void describe(const Rule&, RuleRow& row) {
  row.reads = select::needs_bounds<Rule> ? "query and key bounds of every page" : "nothing";
  row.unit = "page of a head group";
}

/// Inputs of a codec beside the entries of the page.
template <class Rule>
  requires requires(const Rule& c) { c.plane(Role::k, 128); }
void describe(const Rule& codec, RuleRow& row) {
  const PlaneFormat k = codec.plane(Role::k, 128);
  std::vector<std::string> in{"page"};
  if (k.fit == TableFit::loaded) in.emplace_back("file of maps");
  if (k.has_table() && k.scope == TableScope::sequence) in.emplace_back("first pages of the sequence");
  if (k.fit == TableFit::think || k.fit == TableFit::kq_svd || choice_of(codec).by == ChooseBy::importance) in.emplace_back("newest queries");
  row.reads = listed(in);
  row.unit = k.scale == ScaleScheme::channel_group || k.scope == TableScope::page || PagewiseCodec<Rule> ? "page" : "token";
}

}  // namespace detail

/// Rows of a catalogue whose rules are chosen in configuration section `section`.
template <class Variant>
[[nodiscard]] std::vector<RuleRow> rule_rows(const std::string& section) {
  std::vector<RuleRow> rows;
  for_each_rule<Variant>([&]<class Rule>(const Rule& rule) {
    RuleRow row{std::string(rule.name), std::string(rule.doc), {}, {}, {}, {}, {}};
    if constexpr (requires { Rule::source; }) row.source = Rule::source;
    if constexpr (requires { detail::describe(rule, row); }) detail::describe(rule, row);
    for (const Key& key : schema()) {
      if (key.rule == rule.name && key.path.starts_with(section + ".") && key.path.find('.', section.size() + 1) == std::string::npos)
        row.parameters.push_back(&key);
    }
    rows.push_back(std::move(row));
  });
  return rows;
}

/// Name of a parameter's key within its section, and its default.
[[nodiscard]] inline std::string parameter_default(const Key& key) {
  return fmt::format("{} = {}", key.path.substr(key.path.rfind('.') + 1), key.write(RunSpec{}));
}

}  // namespace moekv
