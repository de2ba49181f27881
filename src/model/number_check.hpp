// NumberCheck: notes where what a model computes is no finite number any more, or one that attention cannot work with, and tells it as a broken law.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "comm/transport.hpp"
#include "core/id.hpp"
#include "engine/records.hpp"
#include "engine/step_batch.hpp"
#include "rules/codec/format.hpp"

namespace moekv {

/// Each weight of a file may be finite and products of them not. A step goes on with what it has: all processes take part in its exchanges.
class NumberCheck {
 public:
  enum class Stage : std::uint32_t { inputs, gate, residual, prediction };

  explicit NumberCheck(ElementFormat payload);

  void begin_step(std::uint64_t step) { step_ = step; }
  /// Values of `tokens`, token-major.
  void values(Stage stage, LayerId layer, std::span<const HomeToken> tokens, std::span<const float> values) {
    within(stage, layer, tokens, values, infinity_);
  }
  /// q and k must also give finite dot products, and all must be in the range of the payload type.
  void attention_inputs(LayerId layer, std::span<const HomeToken> tokens, std::span<const float> q, std::span<const float> k,
                        std::span<const float> v);
  void note(Stage stage, LayerId layer, const HomeToken& token);
  /// Collective. Adds a sentence to out.violations on process 0 where something was noted: how often, and where first; `whose` follows what it was.
  void collect(const std::string& whose, Transport& transport, RunOutcome& out) const;

 private:
  struct Place {
    std::uint64_t step = 0;
    std::uint32_t layer = 0, stage = 0, request = 0, position = 0;
    auto operator<=>(const Place&) const = default;
  };
  struct Notes {
    std::uint64_t n = 0;
    Place first;
  };
  void within(Stage stage, LayerId layer, std::span<const HomeToken> tokens, std::span<const float> values, float limit);

  float infinity_, limit_qk_, limit_v_;  // exclusive
  std::uint64_t step_ = 0;
  Notes notes_;
};

}  // namespace moekv
