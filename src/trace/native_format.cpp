// The sum rule of weight_kind.
#include "trace/native_format.hpp"

#include <algorithm>
#include <cmath>

#include "core/id.hpp"

namespace moekv::native {
namespace {

constexpr float tolerance = 0.01F;  // four printed decimals and binary16 rounding stay far below

}  // namespace

bool weights_fit(WeightKind kind, float scale, std::span<const std::uint16_t> ids, std::span<const float> weights) {
  const float most = (1.0F + tolerance) * std::max(1.0F, scale);
  float sum = 0.0F;
  float largest = 0.0F;
  for (const float w : weights) {
    sum += w;
    largest = std::max(largest, w);
  }
  switch (kind) {
    case WeightKind::raw_softmax:
      return sum <= most;
    case WeightKind::sigmoid:
      return largest <= most;
    case WeightKind::renorm:
      break;
    case WeightKind::none:
      return true;
  }
  if (std::abs(sum - 1.0F) <= tolerance || std::abs(sum - scale) <= tolerance * scale) return true;
  const bool whole = !is_zero_fill(ids) && std::find(ids.begin(), ids.end(), ExpertId::invalid) == ids.end();
  return !whole && sum <= most;
}

}  // namespace moekv::native
