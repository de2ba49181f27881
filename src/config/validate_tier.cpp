// Combinations of eviction.action with what is evicted, when, and by what accesses.
#include <fmt/format.h>

#include "config/rule_keys.hpp"
#include "config/validate.hpp"

namespace moekv {

void check_action(Checks& c) {
  const EvictionSpec& e = c.spec().eviction;
  const evict::Traits& rule = traits_of(e.rule);
  const std::string policy = rule_name(e.rule);
  if (e.action == EvictAction::drop) {
    if (rule.needs_return)
      c.refuse({"eviction.policy", "eviction.action"},
               fmt::format("policy {} learns from units that come back, and after action drop none does", policy),
               "set eviction.action: demote, or use lru, sieve, clock or slru; moekv policy evict runs this rule on an access sequence");
    if (rule.places)
      c.refuse({"eviction.policy", "eviction.action"},
               fmt::format("policy {} plans which tier holds a page, and under action drop there is one tier", policy),
               "set eviction.action: demote");
    return;
  }
  if (std::holds_alternative<evict::Full>(e.rule))
    c.refuse({"eviction.action", "eviction.policy"}, "policy full never evicts, so nothing is demoted", "choose a policy and a budget");
  if (e.access == AccessSource::dense)
    c.refuse({"eviction.access", "eviction.action"}, "dense access wants every page at every step, so whatever is demoted comes back at once",
             "use access: routed");
  if (e.access == AccessSource::mass)
    c.refuse({"eviction.access", "eviction.action"}, "the attention on a page is known only after it was read, so no page would ever be recalled by it",
             "use access: routed");
  if (e.unit == EvictUnit::token)
    c.refuse({"eviction.unit", "eviction.action"}, "a page changes tiers as a whole, so single tokens cannot be demoted", "use unit: page, or leave it out");
  if (e.trigger == Trigger::prefill_end)
    c.refuse({"eviction.trigger", "eviction.action"}, "trigger prefill_end evicts once, so pages that are recalled later would never leave again",
             "use trigger: on_full, watermark or every");
  if (rule.scores_groups)
    c.refuse({"eviction.policy", "eviction.action"},
             fmt::format("policy {} scores the entries of a group together, which would have to come back for it", policy),
             "use action: drop, or a policy that scores entries or pages alone");
  if (c.spec().step_order == StepOrder::pikv)
    c.refuse({"step_order", "eviction.action"}, "step_order pikv evicts what the step is about to read", "use step_order: standard");
  if (std::visit([](const auto& allocator) { return allocator.when != allocate::When::start; }, e.allocator))
    c.refuse({"eviction.allocator.name", "eviction.allocator", "eviction.action"},
             "an allocator that looks at a run looks at what is resident, and pages come and go", "use allocator uniform, pyramid, duo or file");
  if (classes_of(c.spec().compression.k) > 1 || classes_of(c.spec().compression.v) > 1)
    c.refuse({"compression.codec", "eviction.action"}, "a codec that chooses classes looks at all pages of a request, and some lie in the host tier",
             "use a codec of one class");
}

}  // namespace moekv
