// Names and rules of the native trace format that its writer, reader and validation share.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/error.hpp"
#include "trace/source.hpp"
#include "trace/writer.hpp"

namespace moekv::native {

inline constexpr std::string_view format_name = "moekv-trace";
inline constexpr int format_major = 1;
inline constexpr int format_minor = 0;

inline constexpr std::uint32_t most_top_k = 22;
inline constexpr std::uint32_t most_layers = 1024;
inline constexpr std::uint64_t most_requests = std::uint64_t{1} << 26;

/// Experts are stored in one byte where the sentinel still fits.
[[nodiscard]] constexpr bool ids_fit_byte(std::uint32_t n_experts) { return n_experts <= 255; }

/// Texts of the enumerations, in their order.
inline constexpr std::array<std::string_view, 4> weight_kinds = {"none", "raw_softmax", "renorm", "sigmoid"};
inline constexpr std::array<std::string_view, 3> score_functions = {"softmax", "sigmoid", "sqrtsoftplus"};
inline constexpr std::array<std::string_view, 2> score_orders = {"pre", "post"};
inline constexpr std::array<std::string_view, 2> token_orders = {"request", "step"};
inline constexpr std::array<std::string_view, 2> attention_kinds = {"gqa", "mla"};

/// What one choice of experts (one token, one layer) has wrong; empty text when it is sound. A row of only expert 0 with k > 1 is the fill
/// that some tools write for dense layers: it stands for no experts.
enum class ChoiceFault : std::uint8_t { none, out_of_range, repeated };

template <class Id>
[[nodiscard]] bool is_zero_fill(std::span<const Id> ids) {
  return ids.size() >= 2 && std::all_of(ids.begin(), ids.end(), [](Id id) { return id == 0; });
}

template <class Id>
[[nodiscard]] ChoiceFault fault_of(std::span<const Id> ids, std::uint32_t n_experts) {
  constexpr Id absent = static_cast<Id>(~Id{0});
  bool repeated = false;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == absent) continue;
    if (ids[i] >= n_experts) return ChoiceFault::out_of_range;
    for (std::size_t j = 0; j < i; ++j) repeated = repeated || ids[j] == ids[i];
  }
  return repeated && !is_zero_fill(ids) ? ChoiceFault::repeated : ChoiceFault::none;
}

/// Whether the weights of one choice (finite, not negative) fit weight_kind: renorm sums to 1 (or to the gate's scale), raw_softmax to at
/// most 1, sigmoid weights are at most max(1, scale). A choice with absent experts may sum to less.
[[nodiscard]] bool weights_fit(WeightKind kind, float scale, std::span<const std::uint16_t> ids, std::span<const float> weights);

/// Non-finite binary16.
[[nodiscard]] constexpr bool is_infinite_or_nan(std::uint16_t half) { return (half & 0x7C00U) == 0x7C00U; }

}  // namespace moekv::native
