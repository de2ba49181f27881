// What a router chosen at run time says of itself.
#include "rules/route/catalogue.hpp"

#include <array>
#include <type_traits>

namespace moekv {
namespace {

template <class Rule>
constexpr bool reads_cache = requires { Rule::reads_cache; };
template <class Rule>
constexpr bool updates = requires { &Rule::update; };

}  // namespace

const route::Traits& traits_of(const RouteRule& router) {
  static constexpr auto table = []<class... Rule>(std::type_identity<std::variant<Rule...>>) {
    return std::array{route::Traits{.name = Rule::name,
                                    .needs_logits = Rule::needs_logits,
                                    .reads_cache = reads_cache<Rule>,
                                    .updates = updates<Rule>,
                                    .by_group = route::ChoosesByGroup<Rule>}...};
  }(std::type_identity<RouteRule>{});
  return table[router.index()];
}

const char* refusal(const RouteRule& router, const route::Geometry& geometry) {
  return std::visit(
      [&](const auto& rule) -> const char* {
        if constexpr (requires { rule.refuse(geometry); }) return rule.refuse(geometry);
        return nullptr;
      },
      router);
}

}  // namespace moekv
