// What rules look at, in words: from what they declare of themselves.
#include "app/rule_table.hpp"

#include <fmt/format.h>

#include <array>

#include "config/schema.hpp"

namespace moekv {
namespace {

std::string listed(const std::vector<std::string>& parts) { return parts.empty() ? "nothing" : fmt::format("{}", fmt::join(parts, " and ")); }

}  // namespace

/// The unit is what it evicts where `eviction.unit` does not say.
RuleUse use_of(const EvictRule& rule) {
  const evict::Traits& traits = traits_of(rule);
  std::vector<std::string> in;
  if (traits.needs_mass) in.emplace_back(traits.sums_layers ? "attention mass of all layers" : "attention mass");
  if (traits.follows_access) in.emplace_back("accesses");
  if (traits.needs_payload) in.emplace_back("key and value");
  if (traits.needs_cost) in.emplace_back("modelled time");
  if (traits.needs_error) in.emplace_back("error of the codec");
  if (traits.reads_store) {
    const evict::GroupReads reads = reads_of(rule);
    in.emplace_back(reads.values ? "keys and values of the store" : "keys of the store");
    if (reads.queries > 0) in.emplace_back("recent queries");
  }
  return {listed(in), traits.default_unit == evict::Unit::token ? "token" : "page",
          traits.needs_return || traits.places ? "only with action demote" : ""};
}

RuleUse use_of(const RouteRule& router) {
  const route::Traits& traits = traits_of(router);
  std::vector<std::string> in;
  if (traits.needs_logits) in.emplace_back("gate logits");
  if (traits.updates) in.emplace_back("loads of earlier steps");
  if (traits.reads_cache) in.emplace_back("cache misses");
  if (in.empty()) in.emplace_back(std::holds_alternative<route::Recorded>(router) ? "trace" : "request and position");
  return {listed(in), traits.by_group ? "tokens of a home rank" : "token", {}};
}

/// The unit is when it divides.
RuleUse use_of(const Allocator& allocator) {
  return std::visit(
      []<class Rule>(const Rule&) {
        std::vector<std::string> in;
        if (allocate::reads_scores<Rule>) in.emplace_back("the policy's scores");
        if (allocate::needs_mass<Rule>) in.emplace_back("attention mass");
        if (allocate::needs_table<Rule>) in.emplace_back("a file (path)");
        if (in.empty()) in.emplace_back("lengths");
        static const std::array<std::string, 3> when{"a request, at its start", "a request, with its first eviction", "an eviction"};
        return RuleUse{listed(in), when[static_cast<std::size_t>(Rule::when)], {}};
      },
      allocator);
}

RuleUse use_of(const SelectRule& rule) { return {needs_bounds(rule) ? "query and key bounds of every page" : "nothing", "page of a head group", {}}; }

RuleUse use_of(const Codec& codec) {
  const PlaneFormat k = plane_of(codec, Role::k, 128);
  std::vector<std::string> in{"page"};
  if (k.fit == TableFit::loaded) in.emplace_back("file of maps");
  if (k.has_table() && k.scope == TableScope::sequence) in.emplace_back("first pages of the sequence");
  if (k.fit == TableFit::think || k.fit == TableFit::kq_svd || choice_of(codec).by == ChooseBy::importance) in.emplace_back("newest queries");
  const bool whole = k.scale == ScaleScheme::channel_group || k.scope == TableScope::page || classes_of(codec) > 1;
  return {listed(in), whole ? "page" : "token", {}};
}

std::vector<const Key*> parameter_keys(std::string_view rule, const std::string& section) {
  std::vector<const Key*> keys;
  for (const Key& key : schema()) {
    if (key.rule == rule && key.path.starts_with(section + ".") && key.path.find('.', section.size() + 1) == std::string::npos) keys.push_back(&key);
  }
  return keys;
}

std::string parameter_default(const Key& key) { return fmt::format("{} = {}", key.path.substr(key.path.rfind('.') + 1), key.write(RunSpec{})); }

}  // namespace moekv
