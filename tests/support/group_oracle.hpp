// Scores of rules that look at a whole group, by their definitions in double precision, from the rows of evict_world.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>

#include "support/evict_world.hpp"

namespace moekv::testing {

using Row = std::vector<double>;
using Scores = std::map<std::uint32_t, double>;

struct GroupOracle {
  Set residents;
  std::uint32_t length;
  std::map<std::uint32_t, double> sums;  // attention over all queries

  static constexpr double last = 1e30;
  static Row row(std::uint32_t kind, std::uint32_t p, std::uint32_t h) {
    Row out;
    for (std::uint32_t c = 0; c < World::model().d_k; ++c) out.push_back(static_cast<double>(World::value(kind, p, h, c)));
    return out;
  }
  static double dot(const Row& a, const Row& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }
  static double norm(const Row& a) { return std::sqrt(dot(a, a)); }
  static Scores softmax(Scores x) {
    double sum = 0;
    for (const auto& [p, v] : x) sum += std::exp(v);
    for (auto& [p, v] : x) v = std::exp(v) / sum;
    return x;
  }
  [[nodiscard]] std::vector<std::uint32_t> in_order() const { return {residents.begin(), residents.end()}; }
  [[nodiscard]] Set prefix(std::uint32_t window) const {
    Set out;
    for (const std::uint32_t p : residents) {
      if (p + window < length) out.insert(p);
    }
    return out;
  }
  [[nodiscard]] std::vector<std::uint32_t> recent(std::uint32_t n) const {
    std::vector<std::uint32_t> out;
    for (std::uint32_t p = length > n ? length - n : 0; p < length; ++p) out.push_back(p);
    return out;
  }
  static double logit(std::uint32_t query, std::uint32_t h, std::uint32_t q_head, std::uint32_t p) {
    return dot(row(3, query, q_head), row(1, p, h)) / std::sqrt(16.0);
  }
  /// Value at p pooled over its neighbours among `of`, zero or nothing outside.
  static double pooled(const Scores& x, std::uint32_t p, int kernel, bool most) {
    std::vector<double> values;
    int at = 0;
    for (const auto& [q, v] : x) {
      if (q == p) at = static_cast<int>(values.size());
      values.push_back(v);
    }
    double sum = 0, largest = -1e300;
    for (int i = std::max(0, at - kernel / 2); i <= std::min(static_cast<int>(values.size()) - 1, at + kernel / 2); ++i) {
      sum += values[static_cast<std::size_t>(i)];
      largest = std::max(largest, values[static_cast<std::size_t>(i)]);
    }
    return most ? largest : sum / kernel;
  }

  [[nodiscard]] Scores of(const evict::SnapKv& rule, std::uint32_t) const {
    Scores out, own;
    for (const std::uint32_t p : residents) own[p] = sums.at(p);
    for (const std::uint32_t p : residents) out[p] = pooled(own, p, static_cast<int>(rule.pool_kernel), rule.pool == evict::Pool::max);
    return out;
  }
  [[nodiscard]] Scores of(const evict::KeyDiff&, std::uint32_t h) const {
    Row mean(16, 0.0);
    for (const std::uint32_t p : residents) {
      const Row k = row(1, p, h);
      for (std::size_t c = 0; c < 16; ++c) mean[c] += k[c] / norm(k) / static_cast<double>(residents.size());
    }
    Scores out;
    for (const std::uint32_t p : residents) out[p] = -dot(row(1, p, h), mean) / norm(row(1, p, h)) / norm(mean);
    return out;
  }
  [[nodiscard]] Scores of(const evict::LagKv& rule, std::uint32_t h) const {
    std::vector<std::uint32_t> scored;
    Scores out;
    for (const std::uint32_t p : residents) {
      out[p] = last;
      if (p >= rule.skip) scored.push_back(p);
    }
    const std::size_t chunks = scored.size() / rule.lag;
    for (std::size_t chunk = 0; chunk + 1 < chunks; ++chunk) {
      Scores spread;
      for (const std::uint32_t kind : {1U, 2U}) {
        Scores deviation;
        for (std::size_t i = 0; i < rule.lag; ++i) {
          const std::uint32_t p = scored[chunk * rule.lag + i];
          Row x = row(kind, p, h);
          double mean = 0, squares = 0;
          for (std::size_t c = 0; c < 16; ++c) {
            double low = 1e300, high = -1e300;
            for (std::size_t j = 0; j < rule.lag; ++j) {
              const double next = row(kind, scored[(chunk + 1) * rule.lag + j], h)[c];
              low = std::min(low, next);
              high = std::max(high, next);
            }
            x[c] = (x[c] - low) / (high - low);
            mean += x[c] / 16;
          }
          for (const double v : x) squares += (v - mean) * (v - mean);
          deviation[p] = std::sqrt(squares / 15);
        }
        for (const auto& [p, v] : softmax(deviation)) spread[p] += v / 2;
      }
      for (const auto& [p, v] : spread) {
        out[p] = 0;
        for (const auto& [q, w] : spread) out[p] += w < v ? 1.0 / rule.lag : 0.0;
      }
    }
    return out;
  }
  [[nodiscard]] Scores of(const evict::Cur& rule, std::uint32_t h) const {
    const auto all = in_order();
    Scores out;
    for (std::size_t i = 0; i < all.size(); ++i) {
      double share = 1;
      for (const std::uint32_t kind : {1U, 2U}) {
        double sum = 0;
        for (std::size_t j = i / rule.window * rule.window; j < std::min(all.size(), (i / rule.window + 1) * rule.window); ++j) {
          sum += dot(row(kind, all[j], h), row(kind, all[j], h));
        }
        share *= dot(row(kind, all[i], h), row(kind, all[i], h)) / sum;
      }
      out[all[i]] = all[i] < rule.skip ? last : share;
    }
    return out;
  }
  /// A query turned back by its own position and on by the mean turn of the positions to come.
  [[nodiscard]] Row turned(const evict::ExpectedAttention& rule, std::uint32_t query, std::uint32_t q_head) const {
    Row q = row(3, query, q_head);
    for (std::size_t i = 0; i < 8; ++i) {
      const double angle = std::pow(10000.0, -static_cast<double>(i) / 8);
      std::complex<double> mean = 0;
      for (std::uint32_t j = 0; j < rule.future; ++j) mean += std::polar(1.0, angle * (length + j)) / static_cast<double>(rule.future);
      const std::complex<double> x = std::complex<double>(q[i], q[i + 8]) * std::polar(1.0, -angle * query) * mean;
      q[i] = x.real();
      q[i + 8] = x.imag();
    }
    return q;
  }
  [[nodiscard]] Scores of(const evict::ExpectedAttention& rule, std::uint32_t h) const {
    Scores out;
    for (const std::uint32_t p : residents) out[p] = p < rule.skip ? last : 0;
    for (const std::uint32_t g : {0U, 1U}) {
      std::vector<Row> queries;
      Row mean(16, 0.0);
      for (const std::uint32_t j : recent(rule.queries)) queries.push_back(turned(rule, j, 2 * h + g));
      const auto m = static_cast<double>(queries.size());
      for (const Row& q : queries) {
        for (std::size_t c = 0; c < 16; ++c) mean[c] += q[c] / m;
      }
      Scores logits;
      for (const std::uint32_t p : residents) {
        if (p < rule.skip) continue;
        const Row k = row(1, p, h);
        double form = 0;  // k' S k with the covariance written out
        for (std::size_t a = 0; a < 16; ++a) {
          for (std::size_t b = 0; b < 16; ++b) {
            double s = 0;
            for (const Row& q : queries) s += (q[a] - mean[a]) * (q[b] - mean[b]) / m;
            form += k[a] * s * k[b];
          }
        }
        logits[p] = dot(mean, k) / 4 + form / 16 / 2;
      }
      for (const auto& [p, a] : softmax(logits)) out[p] += a / 2;
    }
    for (auto& [p, s] : out) s = p < rule.skip ? last : (s + static_cast<double>(rule.eps)) * norm(row(2, p, h));
    return out;
  }
  [[nodiscard]] Scores of(const evict::RKv& rule, std::uint32_t h) const {
    const Set scored = prefix(rule.window);
    Scores attention, likeness, out;
    for (const std::uint32_t j : recent(rule.window)) {
      Scores logits;
      for (const std::uint32_t p : scored) logits[p] = std::max(logit(j, h, 2 * h, p), logit(j, h, 2 * h + 1, p));
      for (const auto& [p, a] : softmax(logits)) attention[p] += a / static_cast<double>(recent(rule.window).size());
    }
    for (const std::uint32_t i : residents) {
      std::uint32_t spared = no_index;
      std::map<std::uint32_t, double> cosine;
      for (const std::uint32_t j : residents) {
        cosine[j] = i == j ? 0 : dot(row(1, i, h), row(1, j, h)) / norm(row(1, i, h)) / norm(row(1, j, h));
        if (i != j && cosine[j] > static_cast<double>(rule.duplicate)) spared = j;
      }
      for (const auto& [j, c] : cosine) likeness[j] += j == spared ? 0 : c / static_cast<double>(residents.size());
    }
    likeness = softmax(likeness);
    const auto lambda = static_cast<double>(rule.lambda);
    for (const std::uint32_t p : residents)
      out[p] = !scored.contains(p) ? last : lambda * pooled(attention, p, static_cast<int>(rule.pool_kernel), true) - (1 - lambda) * likeness[p];
    return out;
  }
  [[nodiscard]] Scores of(const evict::Cake& rule, std::uint32_t h) const {
    const Set scored = prefix(rule.window);
    const auto queries = recent(rule.window);
    std::map<std::uint32_t, Row> weights;
    for (const std::uint32_t j : queries) {
      Scores both;
      for (const std::uint32_t g : {0U, 1U}) {
        Scores logits;
        for (const std::uint32_t p : residents) {
          if (p <= j) logits[p] = logit(j, h, 2 * h + g, p);
        }
        for (const auto& [p, a] : softmax(logits)) both[p] += a / 2;
      }
      for (const std::uint32_t p : scored) weights[p].push_back(both.contains(p) ? both[p] : 0);
    }
    Scores indicator, out;
    for (const std::uint32_t p : scored) {
      double mean = 0, squares = 0;
      const auto m = static_cast<double>(queries.size());
      for (const double a : weights[p]) mean += a / m;
      for (const double a : weights[p]) squares += (a - mean) * (a - mean);
      indicator[p] = mean + static_cast<double>(rule.gamma) * squares / (m - 1);
    }
    for (const std::uint32_t p : residents) out[p] = !scored.contains(p) ? last : pooled(indicator, p, static_cast<int>(rule.pool_kernel), false);
    return out;
  }
  /// Pages of one entry: the bound is the dot product.
  [[nodiscard]] Scores of(const evict::QuestEvict& rule, std::uint32_t h) const {
    Scores out;
    const auto queries = recent(rule.queries);
    for (const std::uint32_t p : residents) {
      for (const std::uint32_t j : queries) {
        const double bound = (dot(row(3, j, 2 * h), row(1, p, h)) + dot(row(3, j, 2 * h + 1), row(1, p, h))) / 2;
        const auto ema = static_cast<double>(rule.ema);
        out[p] = j == queries.front() ? bound : ema * out[p] + (1 - ema) * bound;
      }
    }
    return out;
  }
  /// Mean over the KV heads.
  template <class Rule>
  [[nodiscard]] Scores scores(const Rule& rule) const {
    Scores out;
    for (std::uint32_t h = 0; h < 4; ++h) {
      for (const auto& [p, s] : of(rule, h)) out[p] += s / 4;
    }
    return out;
  }
};

}  // namespace moekv::testing
