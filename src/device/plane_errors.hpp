// Errors of stored rows: of the values, of logits and of attention (compression.md section 9), in double precision and row order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace moekv {

/// Norm of an error over a norm; what has neither has no error.
[[nodiscard]] inline double relative_norm(double error, double size) { return error == 0 ? 0.0 : std::sqrt(error / size); }

/// Sums of squares of the rows of one plane.
class PlaneErrors {
 public:
  /// Rows [n][d]; their mean is the mean of what one call brings.
  void add(const std::vector<float>& exact, const std::vector<float>& stored, std::uint32_t d) {
    const std::size_t n = exact.size() / d;
    for (std::uint32_t c = 0; c < d; ++c) {
      double sum = 0, squares = 0;
      for (std::size_t t = 0; t < n; ++t) {
        const double x = static_cast<double>(exact[t * d + c]), difference = static_cast<double>(stored[t * d + c]) - x;
        sum += x;
        squares += x * x;
        error_ += difference * difference;
      }
      size_ += squares;
      spread_ += std::max(0.0, squares - sum * sum / static_cast<double>(n));
    }
  }
  /// Norm of the error over that of the values.
  [[nodiscard]] double relative() const { return relative_norm(error_, size_); }
  /// Norm of the error over that of the values less their mean over the rows.
  [[nodiscard]] double to_spread() const { return relative_norm(error_, spread_); }

 private:
  double error_ = 0, size_ = 0, spread_ = 0;
};

/// What the errors of keys do to queries.
class QueryErrors {
 public:
  /// Query q[d] over keys [n][d]; logits are scale times q.k.
  void add(const float* q, const std::vector<float>& exact, const std::vector<float>& stored, std::uint32_t d, double scale) {
    std::vector<double> right = logits(q, exact, d, scale), wrong = logits(q, stored, d, scale);
    const double right_mean = mean(right), wrong_mean = mean(wrong);
    for (std::size_t t = 0; t < right.size(); ++t) {
      logit_ += std::pow(wrong[t] - wrong_mean - right[t] + right_mean, 2);
      spread_ += std::pow(right[t] - right_mean, 2);
    }
    softmax(right);
    softmax(wrong);
    for (std::size_t t = 0; t < right.size(); ++t) {
      attention_ += std::pow(wrong[t] - right[t], 2);
      size_ += right[t] * right[t];
    }
  }
  /// Norm of the logits' errors, each query's less its mean, over that of the logits less theirs.
  [[nodiscard]] double logit_error() const { return relative_norm(logit_, spread_); }
  /// Norm of the error of the softmax rows over theirs.
  [[nodiscard]] double attention_error() const { return relative_norm(attention_, size_); }

 private:
  [[nodiscard]] static std::vector<double> logits(const float* q, const std::vector<float>& k, std::uint32_t d, double scale) {
    std::vector<double> out(k.size() / d);
    for (std::size_t t = 0; t < out.size(); ++t) {
      for (std::uint32_t c = 0; c < d; ++c) out[t] += static_cast<double>(q[c]) * static_cast<double>(k[t * d + c]);
      out[t] *= scale;
    }
    return out;
  }
  [[nodiscard]] static double mean(const std::vector<double>& x) {
    double sum = 0;
    for (const double value : x) sum += value;
    return sum / static_cast<double>(x.size());
  }
  static void softmax(std::vector<double>& x) {
    const double top = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (double& value : x) sum += value = std::exp(value - top);
    for (double& value : x) value /= sum;
  }

  double logit_ = 0, spread_ = 0, attention_ = 0, size_ = 0;
};

}  // namespace moekv
