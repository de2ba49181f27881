// What a model predicts after its last layer: loss of the true token and distance of its distribution from the reference's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/decoder.hpp"

namespace moekv {

struct Prediction {
  double nll = 0;                                   // -ln p(target)
  double nll_reference = 0, kl = 0, same_top1 = 0;  // NaN without a reference; kl is KL(reference || own)
};

/// Of residual streams [tokens][hidden] after the last layer; `reference` is empty or those of the reference, `targets` the true tokens.
[[nodiscard]] std::vector<Prediction> predict(const Decoder& decoder, std::span<const float> x, std::span<const float> reference,
                                              std::span<const std::uint32_t> targets);

}  // namespace moekv
