// Where problems of combinations are placed, and the combinations of model and pages.
#include "config/validate.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "config/names.hpp"
#include "config/rule_keys.hpp"

namespace moekv {

bool Checks::failed(const std::string& key) const {
  if (input_.tree.failed.contains(key)) return true;
  for (std::size_t dot = key.find('.'); dot != std::string::npos; dot = key.find('.', dot + 1)) {
    if (input_.tree.failed.contains(key.substr(0, dot))) return true;
  }
  return false;
}

void Checks::refuse(std::initializer_list<const char*> keys, const std::string& what, std::string suggestion) {
  if (std::any_of(keys.begin(), keys.end(), [&](const char* key) { return failed(key); })) return;
  Problem problem{input_.path, {}, {}};
  for (const char* key : keys) {
    const auto it = input_.tree.given.find(key);
    if (it == input_.tree.given.end()) continue;
    problem = problem_at(it->second->at, {}, {});
    break;
  }
  problem.what = fmt::format("{}: {}", *keys.begin(), what);
  problem.suggestion = std::move(suggestion);
  problems_.push_back(std::move(problem));
}

bool needs_mass(const RunSpec& spec) { return spec.eviction.access == AccessSource::mass || traits_of(spec.eviction.rule).needs_mass; }

bool needs_logits(const RunSpec& spec) { return traits_of(spec.routing.rule).needs_logits; }

std::uint32_t page_slots(const RunSpec& spec) {
  if (spec.page.slots > 0) return spec.page.slots;
  const bool by_expert = spec.page.key == PageKey::expert ||
                         (spec.page.key == PageKey::automatic && spec.placement.layout == Layout::expert && spec.placement.dedup == Dedup::none);
  return by_expert ? 16 : 64;
}

namespace {

void check_gate(Checks& c) {
  const GateShape& gate = c.spec().model.gate;
  if (gate.n_experts == 0)
    c.refuse({"model.gate.n_experts", "model"}, "missing required key", fmt::format("number of routed experts of a MoE layer, 1..{}", most_experts));
  if (gate.top_k == 0) c.refuse({"model.gate.top_k", "model"}, "missing required key", "experts chosen per token, 1..22");
  if (gate.n_experts == 0 || gate.top_k == 0) return;
  if (gate.top_k > gate.n_experts) {
    return c.refuse({"model.gate.top_k", "model.gate.n_experts"}, fmt::format("a token cannot choose {} of {} experts", gate.top_k, gate.n_experts),
                    "top_k is at most n_experts");
  }
  if (gate.n_experts % gate.n_group != 0)
    c.refuse({"model.gate.n_group", "model.gate.n_experts"}, fmt::format("{} groups do not divide {} experts", gate.n_group, gate.n_experts),
             "use a divisor of n_experts");
  if (gate.topk_group > gate.n_group)
    c.refuse({"model.gate.topk_group", "model.gate.n_group"}, fmt::format("cannot keep {} of {} groups", gate.topk_group, gate.n_group),
             "topk_group is at most n_group");
  else if (gate.topk_group * (gate.n_experts / gate.n_group) < gate.top_k) {
    c.refuse({"model.gate.topk_group", "model.gate.top_k"},
             fmt::format("{} groups of {} experts hold fewer than top_k = {}", gate.topk_group, gate.n_experts / gate.n_group, gate.top_k),
             "keep more groups");
  }
}

void check_heads(Checks& c) {
  const ModelShape& m = c.spec().model;
  if (m.hidden == 0) c.refuse({"model.hidden", "model"}, "missing required key", "width of the residual stream");
  if (m.n_heads == 0) c.refuse({"model.n_heads", "model"}, "missing required key", "number of query heads");
  if (m.n_kv_heads == 0) c.refuse({"model.n_kv_heads", "model"}, "missing required key", "number of KV heads (MLA needs none)");
  if (m.d_k == 0 || m.d_v == 0) c.refuse({"model.head_dim", "model"}, "missing required key", "give head_dim, d_k and d_v, or latent for MLA");
  if (m.n_heads > 0 && m.n_kv_heads > 0 && m.n_heads % m.n_kv_heads != 0) {
    c.refuse({"model.n_kv_heads", "model.n_heads"}, fmt::format("{} KV heads do not divide {} query heads", m.n_kv_heads, m.n_heads),
             "grouped-query attention shares a KV head between equally many query heads");
  }
  if (!m.mla()) return;
  if (m.n_kv_heads != 1)
    c.refuse({"model.n_kv_heads", "model.latent.d_c"}, fmt::format("MLA has one latent for all heads, not {} KV heads", m.n_kv_heads),
             "remove n_kv_heads");
  if (m.d_k != m.latent.d_c + m.latent.d_rope || m.d_v != m.latent.d_c) {
    c.refuse({"model.d_k", "model.d_v", "model.head_dim", "model.latent.d_c"},
             fmt::format("MLA stores d_k = d_c + d_rope = {} and reads d_v = d_c = {}", m.latent.d_c + m.latent.d_rope, m.latent.d_c),
             "remove d_k, d_v and head_dim; latent gives them");
  }
}

}  // namespace

void check_model(Checks& c) {
  const ModelShape& m = c.spec().model;
  if (!c.given("model"))
    return c.refuse({"model.name"}, "missing required key", "name a file of configs/models (moekv list models) or give the shape in place");
  if (m.layers.empty() && c.given("model.path")) return;  // the file was refused, and that was told when the key was read
  if (m.layers.empty())
    return c.refuse({"model.layers.count", "model"}, "missing required key", "give model.layers.count, or a model.name of configs/models");
  if (std::all_of(m.layers.begin(), m.layers.end(), [](const LayerShape& l) { return l.attention == AttentionKind::none; })) {
    c.refuse({"model.layers.pattern", "model"}, "no layer has attention, so there is no KV to hold", "name at least one layer full or window(n)");
  }
  check_heads(c);
  check_gate(c);
}

void check_pages(Checks& c) {
  const RunSpec& s = c.spec();
  if (s.page.slots != 0 && (s.page.slots < 8 || s.page.slots > 256))
    c.refuse({"page.slots"}, fmt::format("{} slots are out of range", s.page.slots), "allowed: 8..256, or 0 for the default");
  if (s.page.key == PageKey::expert && s.placement.layout != Layout::expert) {
    c.refuse({"page.key", "placement.layout"},
             fmt::format("pages of one expert need layout expert; layout {} stores one copy for all experts", enum_name(s.placement.layout)),
             "use page.key: shard or layout: expert");
  }
  if (s.page.key == PageKey::expert && s.placement.layout == Layout::expert && s.placement.dedup != Dedup::none) {
    c.refuse({"page.key", "placement.dedup"}, "with dedup one entry stands for several experts, so a page cannot be of one",
             "use page.key: shard or dedup: none");
  }
  if (s.page.head_groups > 1 && s.model.mla()) {
    c.refuse({"page.head_groups", "model"}, "MLA has one latent for all heads: there is one head group", "remove head_groups");
  } else if (s.model.n_kv_heads > 0 && s.model.n_kv_heads % s.page.head_groups != 0) {
    c.refuse({"page.head_groups", "model.n_kv_heads"}, fmt::format("{} groups do not divide {} KV heads", s.page.head_groups, s.model.n_kv_heads),
             "use a divisor of the number of KV heads");
  }
}

void check_select(Checks& c) {
  const RunSpec& s = c.spec();
  if (!selects(s.read.select)) {
    if (s.eviction.access == AccessSource::selected)
      c.refuse({"eviction.access", "read.select"}, "select all reads every page of the scope, so access selected is access dense",
               "choose a rule of read.select (moekv list selects), or another access");
    return;
  }
  if (s.backend == "count")
    c.refuse({"read.select", "backend"}, fmt::format("select {} scores pages by their keys, and backend count has no payload", rule_name(s.read.select)),
             "use backend: host, or select: all");
  bool any = false;
  for (std::uint32_t l = 0; l < s.model.n_layers(); ++l) {
    const auto& wanted = s.trace.layers;
    const bool replayed = wanted.empty() || std::find(wanted.begin(), wanted.end(), l) != wanted.end();
    any = any || (replayed && s.model.layers[l].attention != AttentionKind::none && selects_at(s.read.select, l, false));
  }
  if (!any && !s.model.layers.empty())
    c.refuse({"read.dense_layers", "read.select", "trace.layers"}, "every replayed layer reads all its pages, so nothing is ever selected",
             "lower read.dense_layers, or replay later layers");
}

void validate(const ValidateInput& input, std::vector<Problem>& problems) {
  Checks checks(input, problems);
  check_model(checks);
  check_trace(checks);
  check_score(checks);
  check_placement(checks);
  check_pages(checks);
  check_select(checks);
  check_routing(checks);
  check_eviction(checks);
  check_allocator(checks);
  check_compression(checks);
  check_load(checks);
  check_backend(checks);
}

}  // namespace moekv
