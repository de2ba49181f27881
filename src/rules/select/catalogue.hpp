// The rules of `read.select`: which resident pages of its scope a query reads. One line here makes a rule known to YAML, help, host loops and tests.
#pragma once

#include <cstdint>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <variant>

#include "rules/select/quest.hpp"
#include "rules/select/rule.hpp"

namespace moekv {

namespace select {

/// No selection.
struct All {
  static constexpr std::string_view name = "all";
  static constexpr std::string_view source = "plain attention";
  static constexpr std::string_view doc = "every page of the scope";
  static constexpr auto params = std::tuple{};
  friend bool operator==(const All&, const All&) = default;
};

}  // namespace select

using SelectRule = std::variant<select::All, select::Quest>;

/// Whether a rule ever leaves a page unread.
[[nodiscard]] inline bool selects(const SelectRule& rule) { return !std::holds_alternative<select::All>(rule); }
[[nodiscard]] inline bool needs_bounds(const SelectRule& rule) {
  return std::visit([](const auto& r) { return select::needs_bounds<std::decay_t<decltype(r)>>; }, rule);
}
/// How many pages a rule that selects reads.
[[nodiscard]] inline select::Pick pick_of(const SelectRule& rule) {
  return std::visit([](const auto& r) {
    if constexpr (requires { r.pick(); })
      return r.pick();
    else
      return select::Pick{};
  }, rule);
}
/// Whether queries of a layer, of prompt or output tokens, choose among pages.
[[nodiscard]] inline bool selects_at(const SelectRule& rule, std::uint32_t model_layer, bool of_prompt) {
  return std::visit([&](const auto& r) {
    if constexpr (requires { r.pick(); })
      return model_layer >= r.dense_layers && (!of_prompt || r.prompt == select::PromptReads::selected);
    else
      return false;
  }, rule);
}

}  // namespace moekv
