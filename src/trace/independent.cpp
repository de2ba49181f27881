// Plain routing distributions: every token draws k distinct experts without replacement, with one probability vector per layer.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "core/math.hpp"
#include "core/rng.hpp"
#include "rules/route/gate.hpp"
#include "trace/generator_kernels.hpp"
#include "trace/synthetic_detail.hpp"

namespace moekv::synthetic {
namespace {

constexpr std::uint32_t ep_ranks = 8;                // deepep_ratio and power_law speak of one of eight expert-parallel ranks
constexpr float power_law_max_tokens = 0.8F * 4096;  // largest expert total of power_law, of a batch of 4096 tokens

/// Draws a token's k distinct experts with probabilities `p`.
class ExpertDraw {
 public:
  explicit ExpertDraw(std::uint32_t top_k) : largest_(top_k) {}
  void operator()(std::uint64_t key, const std::vector<float>& p, std::span<std::uint16_t> ids) {
    keys_.resize(p.size());
    race_keys(key, p.data(), static_cast<std::uint32_t>(p.size()), keys_.data());
    route::TopList list{ids.data(), largest_.data(), static_cast<std::uint32_t>(largest_.size())};
    for (std::uint32_t e = 0; e < keys_.size(); ++e) list.offer(keys_[e], e);
  }

 private:
  std::vector<float> keys_, largest_;
};

/// Share of the choices that fall on the first n_hot experts, by a fixed sample of tokens.
double sampled_share(std::uint64_t seed, const std::vector<float>& p, std::uint32_t n_hot, std::uint32_t top_k) {
  constexpr std::uint32_t n_samples = 2048;
  std::vector<std::uint16_t> ids(top_k);
  ExpertDraw draw(top_k);
  std::uint64_t hits = 0;
  for (std::uint32_t i = 0; i < n_samples; ++i) {
    draw(hash_words(seed, 0x407U, i), p, ids);
    for (const std::uint16_t id : ids) hits += id < n_hot ? 1 : 0;
  }
  return static_cast<double>(hits) / (static_cast<double>(n_samples) * top_k);
}

/// The factor on the probabilities of n_hot experts that gives them `share` of the choices, by bisection of its logarithm.
float hot_factor(std::uint64_t seed, std::uint32_t n_experts, std::uint32_t n_hot, double share, std::uint32_t top_k) {
  std::vector<float> p(n_experts, 1.0F);
  float low = -30.0F, high = 30.0F;
  for (int i = 0; i < 24; ++i) {
    const float middle = 0.5F * (low + high);
    std::fill_n(p.begin(), n_hot, exp_fixed(middle));
    (sampled_share(seed, p, n_hot, top_k) < share ? low : high) = middle;
  }
  return exp_fixed(0.5F * (low + high));
}

/// Expert totals by inverse CDF of density x^-alpha on [1, power_law_max_tokens]; the heaviest of eight ranks is swapped to the front.
std::vector<float> power_law(std::uint64_t seed, std::uint32_t layer, std::uint32_t n_experts, float alpha) {
  std::vector<float> p(n_experts);
  const float top = log_fixed(power_law_max_tokens), exponent = 1.0F - alpha;
  for (std::uint32_t e = 0; e < n_experts; ++e) {
    const float u = uniform_float(draw4(seed, Stream::routing_expert, layer, e, 1).v[0]);
    const bool log_uniform = exponent > -1e-3F && exponent < 1e-3F;
    p[e] = log_uniform ? exp_fixed(top * u) : exp_fixed(log_fixed((exp_fixed(top * exponent) - 1.0F) * u + 1.0F) / exponent);
  }
  const std::uint32_t per_rank = n_experts / ep_ranks;
  if (per_rank == 0) return p;
  std::uint32_t heaviest = 0;
  float most = -1.0F;
  for (std::uint32_t r = 0; r < ep_ranks; ++r) {
    float sum = 0.0F;
    for (std::uint32_t e = 0; e < per_rank; ++e) sum += p[r * per_rank + e];
    if (sum > most) {
      most = sum;
      heaviest = r;
    }
  }
  if (heaviest > 0) std::swap_ranges(p.begin(), p.begin() + per_rank, p.begin() + std::ptrdiff_t{heaviest} * per_rank);
  return p;
}

/// Number of experts on the first of eight ranks.
std::uint32_t first_rank_experts(std::uint32_t n_experts) { return (n_experts + ep_ranks - 1) / ep_ranks; }

/// The hot group of k_hot and deepep_ratio: its size and the share of the choices it shall get.
struct HotGroup {
  std::uint32_t n_experts = 0;
  double share = 0.0;
};
HotGroup hot_group(const Frame& f) {
  const std::uint32_t n = f.gate.n_experts;
  if (f.spec.preset == "k_hot") return {static_cast<std::uint32_t>(f.spec.hot_experts), f.spec.hot_share};
  return {first_rank_experts(n), f.spec.overload_ratio * first_rank_experts(n) / n};
}

class Independent final : public RowGenerator {
 public:
  explicit Independent(const Frame& frame) : frame_(frame), p_(frame.n_layers), draw_(frame.gate.top_k) {
    const std::string& preset = frame.spec.preset;
    if (preset != "k_hot" && preset != "deepep_ratio") return;
    hot_ = hot_group(frame);
    factor_ = hot_factor(frame.spec.seed, frame.gate.n_experts, hot_.n_experts, hot_.share, frame.gate.top_k);
  }

  void fill(std::uint32_t request, WantLogits, RoutingRows& rows) override {
    const std::uint32_t k = frame_.gate.top_k;
    std::fill(rows.weights.begin(), rows.weights.end(), 1.0F / static_cast<float>(k));
    std::uint16_t* out = rows.ids.data();
    for (std::uint32_t t = rows.begin; t < rows.end; ++t) {
      for (std::uint32_t l = rows.layer_begin; l < rows.layer_end; ++l, out += k) {
        if (p_[l].empty()) p_[l] = probabilities(l);
        draw_(hash_words(frame_.spec.seed, Stream::routing_token, request, t, l), p_[l], {out, k});
      }
    }
  }

 private:
  [[nodiscard]] std::vector<float> probabilities(std::uint32_t layer) const {
    const SyntheticSpec& spec = frame_.spec;
    const std::uint32_t n = frame_.gate.n_experts;
    if (spec.preset == "power_law") return power_law(spec.seed, layer, n, static_cast<float>(spec.power_alpha));
    std::vector<float> p(n, 1.0F);
    if (spec.preset == "deepep_ratio") std::fill_n(p.begin(), hot_.n_experts, factor_);
    const auto order = shuffled_experts(spec.seed, layer, n);
    for (std::uint32_t i = 0; i < n; ++i) {
      if (spec.preset == "zipf") p[order[i]] = exp_fixed(-static_cast<float>(spec.zipf_s) * log_fixed(static_cast<float>(i + 1)));
      if (spec.preset == "k_hot" && i < hot_.n_experts) p[order[i]] = factor_;
    }
    return p;
  }

  Frame frame_;
  HotGroup hot_;
  float factor_ = 1.0F;
  std::vector<std::vector<float>> p_;  // by layer, made at first use
  ExpertDraw draw_;
};

}  // namespace

bool is_independent(const std::string& preset) {
  return preset == "uniform" || preset == "zipf" || preset == "k_hot" || preset == "power_law" || preset == "deepep_ratio";
}

void check_independent(const Frame& frame, std::vector<Problem>& problems) {
  const SyntheticSpec& s = frame.spec;
  const double n = frame.gate.n_experts, k = frame.gate.top_k;
  const auto require = [&](const char* preset, bool good, std::string what, std::string hint) {
    if (s.preset == preset && !good) problems.push_back({"synthetic trace", std::move(what), std::move(hint)});
  };
  require("zipf", s.zipf_s >= 0.0 && s.zipf_s <= 8.0, fmt::format("zipf_s {}", s.zipf_s), "use 0..8");
  require("power_law", s.power_alpha >= 0.0 && s.power_alpha <= 4.0, fmt::format("power_alpha {}", s.power_alpha), "use 0..4");
  const bool count_ok = s.hot_experts >= 1 && s.hot_experts <= n && std::floor(s.hot_experts) == s.hot_experts;
  require("k_hot", count_ok, fmt::format("{} hot experts of {}", s.hot_experts, n), "use a whole number in 1..experts");
  const double cold = n - s.hot_experts;
  require("k_hot", !count_ok || (s.hot_share * k <= s.hot_experts && (1.0 - s.hot_share) * k <= cold && s.hot_share >= 0.0 && s.hot_share <= 1.0),
          fmt::format("hot_share {} of {} choices cannot fall on {} of {} experts", s.hot_share, k, s.hot_experts, n),
          "each of a token's experts is chosen once: use share <= hot/k and 1 - share <= (experts - hot)/k");
  const double first = first_rank_experts(frame.gate.n_experts), share = s.overload_ratio * first / n;
  require("deepep_ratio", s.overload_ratio >= 0.0 && share <= 1.0 && share * k <= first && (1.0 - share) * k <= n - first,
          fmt::format("overload_ratio {} is out of reach for {} of {} experts", s.overload_ratio, k, n),
          fmt::format("use 0..{:.3g}", std::min(n / k, n / first)));
}

std::unique_ptr<RowGenerator> make_independent(const Frame& frame) { return std::make_unique<Independent>(frame); }

}  // namespace moekv::synthetic
