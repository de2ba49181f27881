// The catalogue of eviction rules as values.
#include "support/evict_world.hpp"

namespace moekv::testing {
namespace {

template <class Rule>
Rule small_rule() {
  Rule rule;
  if constexpr (requires { rule.lag; }) rule.lag = 4;
  if constexpr (requires { rule.skip; }) rule.skip = 1;
  if constexpr (requires { rule.future; }) rule.future = 21;
  if constexpr (requires { rule.queries; }) rule.queries = 6;
  if constexpr (requires { rule.window; }) rule.window = 4;
  return rule;
}

}  // namespace

const std::vector<CatalogueRule>& evict_rules() {
  static const std::vector<CatalogueRule> rules = []<class... Rules>(std::variant<Rules...>*) {
    return std::vector<CatalogueRule>{{Rules::name, Rules::family != evict::Family::none, evict::has_tokens<Rules>,
                                       Rules::family == evict::Family::queue && evict::follows_access<Rules>, evict::needs_mass<Rules>,
                                       evict::scores_groups<Rules>, Rules{}, small_rule<Rules>()}...};
  }(static_cast<EvictRule*>(nullptr));
  return rules;
}

}  // namespace moekv::testing
