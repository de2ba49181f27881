// RuleWeights: the perceptron of an eviction rule that loads weights from a file.
#pragma once

#include <string>
#include <vector>

#include "core/model_shape.hpp"
#include "rules/evict/rule.hpp"

namespace moekv {

class RuleWeights {
 public:
  /// An empty path: none, and the rule draws its own.
  RuleWeights() = default;
  /// Datasets `hidden` [n, d_k + d_v] and `out` [n], and where they are given `hidden_bias` [n] and `out_bias` [1]. Throws UserError where they do not fit.
  RuleWeights(const std::string& path, const ModelShape& model);
  [[nodiscard]] evict::Perceptron view() const;

 private:
  std::vector<float> hidden_, hidden_bias_, out_;
  float out_bias_ = 0;
};

}  // namespace moekv
