// Combinations of eviction, compression, load and backend.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "config/names.hpp"
#include "config/rule_keys.hpp"
#include "config/validate.hpp"

namespace moekv {
namespace {

/// Tokens that a budget keeps of a request per layer at most, or 0 where that is not known before the run.
std::uint64_t budget_tokens(const RunSpec& s) {
  const BudgetSpec& b = s.eviction.budget;
  const SyntheticSpec& t = s.trace.synthetic;
  switch (b.kind) {
    case BudgetKind::tokens:
      return b.amount;
    case BudgetKind::pages:
      return b.amount * page_slots(s);
    case BudgetKind::fraction:
      if (!s.trace.path.empty() || t.length_sigma > 0) return 0;
      return std::max<std::uint64_t>(1, (t.prompt_tokens + std::uint64_t{t.output_tokens}) * b.numerator / b.denominator);
    case BudgetKind::bytes: {
      const std::uint64_t entry = std::uint64_t{s.model.n_kv_heads} * s.model.values_per_entry_head() * element_bits(s.payload.element) / 8;
      const bool raw = plane_of(s.compression.k, Role::k, 128).raw();
      return raw && entry > 0 ? std::max<std::uint64_t>(1, b.amount / entry) : 0;
    }
    default:
      return 0;
  }
}

void check_budget(Checks& c) {
  const RunSpec& s = c.spec();
  const EvictionSpec& e = s.eviction;
  const bool full = std::holds_alternative<evict::Full>(e.rule), limited = e.budget.kind != BudgetKind::unlimited;
  const bool planned = traits_of(e.rule).places;
  if (planned && limited)
    return c.refuse({"eviction.budget", "eviction.policy"}, fmt::format("policy {} keeps a planned share, so a budget has no effect", rule_name(e.rule)),
                    "remove the budget; eviction.percent is the share");
  if (full && limited)
    return c.refuse({"eviction.budget", "eviction.policy"}, "policy full never evicts, so a budget has no effect",
                    "remove the budget, or choose a policy (moekv list policies)");
  if (!full && !limited && !planned)
    return c.refuse({"eviction.policy", "eviction.budget"},
                    fmt::format("policy {} needs a budget; without one nothing is ever evicted", rule_name(e.rule)),
                    "give eviction.budget, for example 25% or {tokens: 1024}");
  if (!limited) return;
  if (e.scope == EvictScope::shard && e.budget.kind == BudgetKind::fraction) {
    c.refuse({"eviction.budget", "eviction.scope"}, "a fraction is of a request's tokens; a shard holds many requests",
             "give {tokens: N}, {pages: N} or {bytes: N} of the shard, or scope: request");
  }
  const std::uint64_t kept = budget_tokens(s), guarded = std::uint64_t{e.protect.sinks} + e.protect.recent;
  if (e.scope == EvictScope::request && kept > 0 && guarded >= kept) {
    c.refuse({"eviction.protect.recent", "eviction.protect.sinks", "eviction.protect", "eviction.budget"},
             fmt::format("{} protected tokens fill the budget of {} tokens, so nothing can be evicted", guarded, kept),
             "protection is inside the budget: protect less or raise the budget");
  }
}

}  // namespace

void check_routing(Checks& c) {
  const RunSpec& s = c.spec();
  const std::string name = rule_name(s.routing.rule);
  const GateShape& gate = s.model.gate;
  if (gate.n_experts > 0 && gate.top_k > 0 && gate.top_k <= gate.n_experts) {
    if (const char* why = refusal(s.routing.rule, {gate.n_experts, gate.top_k, s.seed, gate}); why != nullptr)
      c.refuse({"routing.router", "model.gate.top_k", "model"}, fmt::format("router {}: {}", name, why), "see moekv list routers");
  }
  if (!traits_of(s.routing.rule).reads_cache) return;
  const auto refuse = [&](const char* key, const std::string& what, const std::string& suggestion) {
    c.refuse({"routing.router", key}, fmt::format("router {} listens to missed lookups, and {}", name, what), suggestion);
  };
  const bool by_expert = s.placement.layout == Layout::expert && s.placement.dedup == Dedup::none && s.page.key != PageKey::shard;
  if (std::holds_alternative<evict::Full>(s.eviction.rule)) refuse("eviction.policy", "policy full never evicts", "choose a policy and a budget");
  if (s.routing.key == RoutingKey::query_router)
    refuse("routing.key", "with key query_router its choices do not name what is looked up", "use another routing.key");
  if (s.eviction.access == AccessSource::mass || s.eviction.access == AccessSource::selected) {
    refuse("eviction.access", fmt::format("access {} looks up resident pages only", enum_name(s.eviction.access)), "use access: routed");
  } else if (s.eviction.access == AccessSource::dense && !by_expert) {
    refuse("eviction.access", "dense lookups of pages that belong to no expert say nothing about experts", "use access: routed, or pages by expert");
  }
}

namespace {

void check_weights(Checks& c) {
  const EvictionSpec& e = c.spec().eviction;
  if (e.weights_path.empty()) return;
  if (!traits_of(e.rule).loads_weights) {
    c.refuse({"eviction.weights_path", "eviction.policy"}, fmt::format("policy {} loads no weights", rule_name(e.rule)), "remove it");
  } else if (std::error_code ec; !std::filesystem::is_regular_file(e.weights_path, ec)) {
    c.refuse({"eviction.weights_path"}, fmt::format("no such file: {}", e.weights_path), "check the path");
  }
}

}  // namespace

void check_eviction(Checks& c) {
  const RunSpec& s = c.spec();
  const EvictionSpec& e = s.eviction;
  check_budget(c);
  check_action(c);
  const bool whole_pages = e.budget.kind == BudgetKind::pages || e.budget.kind == BudgetKind::bytes;
  if (e.unit == EvictUnit::token && whole_pages) {
    c.refuse({"eviction.unit", "eviction.budget"},
             "a page is freed only when all its entries are dead, so single tokens do not meet a budget of pages or bytes",
             "use unit: page, or a budget of tokens or a fraction");
  }
  if (e.trigger == Trigger::watermark && e.low_watermark >= e.high_watermark) {
    c.refuse({"eviction.low_watermark", "eviction.high_watermark", "eviction.trigger"},
             fmt::format("evictions start at {} of the budget and would stop at {}", e.high_watermark, e.low_watermark),
             "low_watermark lies below high_watermark");
  }
  if (e.trigger == Trigger::prefill_end && s.prefill.evict == PrefillEvict::chunk) {
    c.refuse({"eviction.trigger", "prefill.evict"}, "trigger prefill_end evicts once after the prompt, prefill.evict: chunk after every chunk",
             "choose one");
  }
  const evict::Traits& rule = traits_of(e.rule);
  if (!rule.has_tokens && e.unit == EvictUnit::token) {
    const char* why = rule.follows_access ? "follows accesses, and an access is of a page" : "scores pages";
    c.refuse({"eviction.unit", "eviction.policy"}, fmt::format("policy {} {}", rule_name(e.rule), why), "use unit: page, or leave it out");
  }
  if (rule.chooses_once && e.action == EvictAction::drop && e.trigger != Trigger::prefill_end)
    c.refuse({"eviction.trigger", "eviction.policy"}, fmt::format("policy {} chooses once, when the prompt ends", rule_name(e.rule)),
             "set eviction.trigger: prefill_end and prefill.queries: last:32");
  check_weights(c);
  if (!needs_mass(s) && reads_of(e.rule).queries > 0 && s.prefill.queries == PrefillQueries::none) {
    c.refuse({"prefill.queries", "eviction.policy"}, fmt::format("policy {} scores keys by recent queries, and the prompt makes none", rule_name(e.rule)),
             "use queries: auto, all or last:N");
  }
  if (needs_mass(s) && s.prefill.queries == PrefillQueries::none) {
    const std::string who = e.access == AccessSource::mass ? "access mass" : "policy " + rule_name(e.rule);
    c.refuse({"prefill.queries", "eviction.policy"}, fmt::format("{} scores tokens by the attention of prompt queries, and none are made", who),
             "use queries: auto, all or last:N");
  }
}

void check_load(Checks& c) {
  const RunSpec& s = c.spec();
  const BatchSpec& b = s.batch;
  if (b.max_num_batched_tokens < s.prefill.chunk_tokens) {
    c.refuse({"prefill.chunk_tokens", "batch.max_num_batched_tokens"},
             fmt::format("a chunk of {} tokens never fits a step of {}", s.prefill.chunk_tokens, b.max_num_batched_tokens),
             "lower chunk_tokens or raise batch.max_num_batched_tokens");
  }
  if (b.max_num_batched_tokens < b.max_num_seqs) {
    c.refuse({"batch.max_num_seqs", "batch.max_num_batched_tokens"},
             fmt::format("{} decoding requests need {} tokens a step, only {} are allowed", b.max_num_seqs, b.max_num_seqs, b.max_num_batched_tokens),
             "lower max_num_seqs or raise max_num_batched_tokens");
  }
  if (b.load == LoadKind::concurrency && b.concurrency > b.max_num_seqs) {
    c.refuse({"batch.concurrency", "batch.load", "batch.max_num_seqs"},
             fmt::format("{} requests in flight are never reached with max_num_seqs {}", b.concurrency, b.max_num_seqs),
             "raise max_num_seqs or lower concurrency");
  }
  if (s.memory.shard_bytes == 0) return;
  const auto plane = PlaneFormat{s.payload.element};
  const BlockFormat page{plane, plane, page_slots(s), s.model.n_kv_heads, s.model.d_k, s.model.d_v, s.model.mla()};
  if (s.memory.shard_bytes < page.block_bytes()) {
    c.refuse({"memory.shard_bytes", "page.slots"},
             fmt::format("a shard of {} bytes does not hold one page of {}", s.memory.shard_bytes, page.block_bytes()), "raise memory.shard_bytes");
  }
}

void check_backend(Checks& c) {
  const RunSpec& s = c.spec();
  if (s.transport == "local" && c.n_processes() > 1) {
    c.refuse({"transport"}, fmt::format("transport local is one process, and there are {}", c.n_processes()), "use transport: auto or mpi");
  }
  if ((s.transport == "nccl" || s.transport == "ipc") && s.backend != "cuda") {
    c.refuse({"transport", "backend"}, fmt::format("transport {} sends from GPU to GPU, and backend {} uses none", s.transport, s.backend),
             "use transport: auto, or backend: cuda");
  }
  if (s.backend != "count") return;
  if (needs_mass(s)) {
    const bool access = s.eviction.access == AccessSource::mass;
    c.refuse(
        {access ? "eviction.access" : "eviction.policy", "backend"},
        fmt::format("{} needs attention weights, and backend count has no payload", access ? "access mass" : "policy " + rule_name(s.eviction.rule)),
        "use backend: host, or a policy without attention mass");
  }
  const bool compressed = !plane_of(s.compression.k, Role::k, 128).raw() || !plane_of(s.compression.k, Role::v, 128).raw();
  const evict::Traits& rule = traits_of(s.eviction.rule);
  if (rule.needs_payload || rule.reads_store || (rule.needs_error && compressed)) {
    c.refuse({"eviction.policy", "backend"},
             fmt::format("policy {} scores keys and values, and backend count has no payload", rule_name(s.eviction.rule)),
             "use backend: host, or a policy that needs no payload");
  }
  for (const auto& [key, codec] : {std::pair{"compression.k.codec", &s.compression.k}, {"compression.v.codec", &s.compression.v}}) {
    if (classes_of(*codec) == 1) continue;
    c.refuse({key, "compression.codec", "backend"},
             fmt::format("codec {} chooses by keys, values and queries, and backend count has no payload", rule_name(*codec)),
             "use backend: host, or a codec that stores every page alike");
    break;
  }
  if (s.probe.samples > 0)
    c.refuse({"probe.samples", "backend"}, "probes compare attention outputs, and backend count has no payload",
             "set probe.samples: 0 or use backend: host");
  if (s.payload.qkv == QkvKind::recorded)
    c.refuse({"payload.qkv", "backend"}, "backend count has no payload, so recorded q, k, v are never read", "remove qkv or use backend: host");
}

}  // namespace moekv
