// What an eviction rule chosen at run time says of itself.
#include "rules/evict/catalogue.hpp"

#include <array>
#include <type_traits>

namespace moekv {

const evict::Traits& traits_of(const EvictRule& rule) {
  static constexpr auto table = []<class... Rule>(std::type_identity<std::variant<Rule...>>) {
    return std::array{evict::Traits{.family = Rule::family,
                                    .default_unit = evict::default_unit<Rule>,
                                    .needs_mass = evict::needs_mass<Rule>,
                                    .needs_access = evict::needs_access<Rule>,
                                    .needs_payload = evict::needs_payload<Rule>,
                                    .needs_error = evict::needs_error<Rule>,
                                    .needs_return = evict::needs_return<Rule>,
                                    .needs_cost = evict::needs_cost<Rule>,
                                    .loads_weights = evict::loads_weights<Rule>,
                                    .places = evict::places<Rule>,
                                    .chooses_once = evict::chooses_once<Rule>,
                                    .sums_layers = evict::sums_layers<Rule>,
                                    .follows_access = evict::follows_access<Rule>,
                                    .scores_groups = evict::scores_groups<Rule>,
                                    .reads_store = evict::reads_store<Rule>,
                                    .has_tokens = evict::has_tokens<Rule>,
                                    .adapts = evict::adapts<Rule>}...};
  }(std::type_identity<EvictRule>{});
  return table[rule.index()];
}

evict::GroupReads reads_of(const EvictRule& rule) {
  return std::visit(
      []<class Rule>(const Rule& r) {
        if constexpr (evict::reads_store<Rule>) return r.reads();
        return evict::GroupReads{};
      },
      rule);
}

}  // namespace moekv
