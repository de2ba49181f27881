// Compares magnitudes; gathers the notes of all processes.
#include "model/number_check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace moekv {
namespace {

constexpr float beyond_fp16 = 65520;      // what rounds to more than fp16 holds
constexpr float beyond_products = 1e16F;  // 4096 channels of a head, scaled by 100, stay below 1e38

bool all_below(std::span<const float> values, float limit) {
  bool below = true;
  for (const float x : values) below &= std::abs(x) < limit;
  return below;
}

}  // namespace

NumberCheck::NumberCheck(ElementFormat payload)
    : infinity_(std::numeric_limits<float>::infinity()),
      limit_qk_(payload == ElementFormat::fp16 ? beyond_fp16 : beyond_products),
      limit_v_(payload == ElementFormat::fp16 ? beyond_fp16 : infinity_) {}

void NumberCheck::attention_inputs(LayerId layer, std::span<const HomeToken> tokens, std::span<const float> q, std::span<const float> k,
                                   std::span<const float> v) {
  within(Stage::inputs, layer, tokens, q, limit_qk_);
  within(Stage::inputs, layer, tokens, k, limit_qk_);
  within(Stage::inputs, layer, tokens, v, limit_v_);
}

void NumberCheck::within(Stage stage, LayerId layer, std::span<const HomeToken> tokens, std::span<const float> values, float limit) {
  const std::size_t width = values.size() / std::max<std::size_t>(1, tokens.size());
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    if (!all_below(values.subspan(t * width, width), limit)) note(stage, layer, tokens[t]);
  }
}

void NumberCheck::note(Stage stage, LayerId layer, const HomeToken& token) {
  const Place place{step_, layer.value, static_cast<std::uint32_t>(stage), token.request.value, token.position};
  notes_.first = notes_.n == 0 ? place : std::min(notes_.first, place);
  notes_.n += 1;
}

void NumberCheck::collect(const std::string& whose, Transport& transport, RunOutcome& out) const {
  Notes all;
  for (const Notes& own : gather_rows(transport, std::span<const Notes>(&notes_, 1))) {
    if (own.n == 0) continue;
    all.first = all.n == 0 ? own.first : std::min(all.first, own.first);
    all.n += own.n;
  }
  if (all.n == 0) return;
  constexpr const char* names[] = {"q, k or v", "gate logits", "residual stream", "prediction"};
  const Place& p = all.first;
  out.violations.push_back(
      fmt::format("law 'what a model computes is finite and fits payload.element' does not hold: {} times, first for the {}{} of request {}, "
                  "position {}, layer {} (step {}); the weights overflow",
                  all.n, names[p.stage], whose, p.request, p.position, p.layer, p.step));
}

}  // namespace moekv
