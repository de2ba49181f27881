// Combinations of the budget allocator with policy, scope, heads, layers and its file.
#include <fmt/format.h>

#include <algorithm>

#include "config/rule_keys.hpp"
#include "config/validate.hpp"
#include "engine/head_table.hpp"

namespace moekv {
namespace {

constexpr const char* chooses = "eviction.allocator.name";

/// Whether only head groups of one layer compete, or are told apart.
bool per_head(const Allocator& allocator) {
  return std::holds_alternative<allocate::Duo>(allocator) ||
         std::visit([](const auto& rule) { return rule.over == allocate::Over::heads; }, allocator);
}

/// Fewest head groups of a rank.
std::uint32_t least_head_groups(const RunSpec& s) {
  if (s.placement.layout != Layout::head) return s.page.head_groups;
  const std::uint32_t heads = s.model.n_kv_heads / std::max(1U, s.cluster.ranks), width = s.model.n_kv_heads / std::max(1U, s.page.head_groups);
  return (heads + width - 1) / std::max(1U, width);
}

void check_heads(Checks& c, const std::string& name) {
  const RunSpec& s = c.spec();
  const bool duo = std::holds_alternative<allocate::Duo>(s.eviction.allocator);
  if (s.model.n_kv_heads == 0 || !per_head(s.eviction.allocator)) return;
  if (s.model.mla()) {
    c.refuse({chooses, "eviction.allocator", "model"},
             fmt::format("allocator {} tells head groups apart, and MLA has one latent for all heads", name),
             "use pyramid, cake or pooled over layers");
  } else if (duo && (s.page.head_groups != s.model.n_kv_heads || s.model.n_kv_heads < 2)) {
    c.refuse({chooses, "eviction.allocator", "page.head_groups"},
             fmt::format("gates are of single KV heads, and {} KV heads are divided over {} head groups", s.model.n_kv_heads, s.page.head_groups),
             fmt::format("set page.head_groups: {}", s.model.n_kv_heads));
  } else if (!duo && s.page.head_groups < 2) {
    c.refuse({chooses, "eviction.allocator", "page.head_groups"},
             fmt::format("allocator {} divides a budget over head groups, and there is one", name),
             "set page.head_groups to 2 or more, or use pooled over layers");
  } else if (!duo && least_head_groups(s) < 2) {
    c.refuse({chooses, "eviction.allocator", "placement.layout", "cluster.ranks"},
             fmt::format("allocator {} divides the budget of a shard, and layout head leaves a rank with one head group", name),
             "use fewer ranks, another layout, or more head groups");
  }
}

void check_inputs(Checks& c, const std::string& name) {
  const RunSpec& s = c.spec();
  const EvictionSpec& e = s.eviction;
  const bool queue = traits_of(e.rule).family == evict::Family::queue;
  std::visit(
      [&](const auto& allocator) {
        using Rule = std::decay_t<decltype(allocator)>;
        if (allocate::reads_scores<Rule> && queue) {
          c.refuse({chooses, "eviction.allocator", "eviction.policy"},
                   fmt::format("allocator {} compares scores, and policy {} keeps an order without any", name, rule_name(e.rule)),
                   "use a policy with scores such as h2o.sum, snapkv or knorm, or allocator pyramid");
        }
        if (Rule::when != allocate::When::start && s.step_order == StepOrder::pikv) {
          c.refuse({chooses, "eviction.allocator", "step_order"},
                   fmt::format("allocator {} divides budgets at the end of a step, and step_order pikv evicts layer by layer", name),
                   "use step_order: standard, or allocator uniform, pyramid, duo or file");
        }
        if (!allocate::needs_mass<Rule>) return;
        if (!needs_mass(s)) {
          c.refuse({chooses, "eviction.allocator", "eviction.policy"},
                   fmt::format("allocator {} looks at attention mass, and policy {} has none made", name, rule_name(e.rule)),
                   "use a policy of attention mass (h2o.sum, tova, snapkv), or access: mass");
        } else if (s.prefill.evict == PrefillEvict::chunk) {
          c.refuse(
              {chooses, "eviction.allocator", "prefill.evict"},
              fmt::format("allocator {} looks at the attention of the last queries on the whole prompt, of which chunks would evict parts", name),
              "use prefill.evict: end");
        }
      },
      e.allocator);
}

void check_table(Checks& c, const std::string& name) {
  const RunSpec& s = c.spec();
  const std::string& path = s.eviction.allocator_path;
  const std::string_view table = std::visit(
      [](const auto& rule) -> std::string_view {
        if constexpr (requires { rule.table; })
          return rule.table;
        else
          return {};
      },
      s.eviction.allocator);
  if (table.empty() != path.empty()) {
    const std::string what = path.empty() ? fmt::format("allocator {} takes {} from a file, and none is given", name, table)
                                          : fmt::format("allocator {} reads no file", name);
    return c.refuse({"eviction.allocator.path", chooses, "eviction.allocator"}, what,
                    path.empty() ? "give eviction.allocator.path" : "remove the path");
  }
  if (table.empty() || s.model.n_kv_heads == 0 || s.page.head_groups > s.model.n_kv_heads || s.model.layers.empty()) return;
  try {
    (void)read_head_table(path, table, s.model.n_layers(), s.page.head_groups);
  } catch (const UserError& error) {
    const Problem& first = error.problems().front();
    c.refuse({"eviction.allocator.path", "page.head_groups", "model"}, fmt::format("{}: {}", first.where, first.what), first.suggestion);
  }
}

}  // namespace

void check_allocator(Checks& c) {
  const RunSpec& s = c.spec();
  const EvictionSpec& e = s.eviction;
  const std::string name = rule_name(e.allocator);
  check_table(c, name);
  if (std::holds_alternative<allocate::Uniform>(e.allocator)) return;
  if (std::holds_alternative<evict::Full>(e.rule)) {
    return c.refuse({chooses, "eviction.allocator", "eviction.policy"}, fmt::format("policy full never evicts, so allocator {} has no effect", name),
                    "choose a policy and a budget");
  }
  if (e.scope == EvictScope::shard) {
    c.refuse({chooses, "eviction.allocator", "eviction.scope"},
             fmt::format("with scope shard all entries of a shard share one budget, which allocator {} cannot divide", name),
             "use scope: request, or leave the allocator out");
  }
  check_heads(c, name);
  check_inputs(c, name);
  const bool whole_pages = e.budget.kind == BudgetKind::pages || e.budget.kind == BudgetKind::bytes;
  if (std::holds_alternative<allocate::Duo>(e.allocator) && whole_pages) {
    c.refuse({chooses, "eviction.allocator", "eviction.budget"},
             "streaming heads keep a number of tokens, which a budget of pages or bytes does not count",
             "give the budget in tokens or as a fraction");
  }
  const std::size_t n_layers = s.trace.layers.empty() ? s.model.layers.size() : s.trace.layers.size();
  const bool only_layers = std::holds_alternative<allocate::Pyramid>(e.allocator) || std::holds_alternative<allocate::Cake>(e.allocator);
  if (!per_head(e.allocator) && n_layers == 1 && (only_layers || s.page.head_groups == 1)) {
    c.refuse({chooses, "eviction.allocator", "trace.layers"}, fmt::format("allocator {} divides a budget over layers, and there is one", name),
             "replay more layers");
  }
}

}  // namespace moekv
