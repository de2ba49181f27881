// Lengths and arrival times of synthetic requests: equal or lognormal lengths; no, Poisson or gamma-distributed arrivals.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "trace/normal.hpp"
#include "trace/synthetic_detail.hpp"

namespace moekv::synthetic {
namespace {

constexpr std::uint32_t max_requests = 1U << 24;
constexpr std::uint32_t max_length_tokens = 1U << 28;

/// A length with the given median; lognormal when sigma > 0. Zero stays zero.
std::uint32_t draw_length(std::uint32_t median, float sigma, float normal) {
  if (median == 0 || sigma <= 0.0F) return median;
  const float tokens = static_cast<float>(median) * exp_fixed(sigma * normal);
  return static_cast<std::uint32_t>(std::clamp(tokens + 0.5F, 1.0F, static_cast<float>(max_length_tokens)));
}

/// A gamma variate of mean 1 and squared coefficient of variation 1/shape (Marsaglia and Tsang 2000), counter-based in (request, attempt).
double draw_gamma(std::uint64_t seed, std::uint32_t request, double shape) {
  const double boosted = shape < 1.0 ? shape + 1.0 : shape;
  const double d = boosted - 1.0 / 3.0;
  const auto c = static_cast<double>(1.0F / sqrt_fixed(static_cast<float>(9.0 * d)));
  for (std::uint32_t attempt = 1;; ++attempt) {
    const double x = normal4(seed, Stream::arrivals, request, attempt, 0).v[0];
    const auto u = uniform_open(draw4(seed, Stream::arrivals, request, attempt, 1).v[0]);
    const double root = 1.0 + c * x;
    if (root <= 0.0) continue;
    const double v = root * root * root;
    if (static_cast<double>(log_fixed(u)) > 0.5 * x * x + d - d * v + d * static_cast<double>(log_fixed(static_cast<float>(v)))) continue;
    double value = d * v / shape;
    if (shape < 1.0) {
      const float lower = log_fixed(uniform_open(draw4(seed, Stream::arrivals, request, 0, 2).v[0]));
      value *= static_cast<double>(exp_fixed(lower / static_cast<float>(shape)));
    }
    return value;
  }
}

double draw_gap(const SyntheticSpec& spec, std::uint32_t request) {
  if (spec.arrivals == "gamma") return draw_gamma(spec.seed, request, 1.0 / (spec.arrival_cv * spec.arrival_cv));
  return -static_cast<double>(log_fixed(uniform_open(draw4(spec.seed, Stream::arrivals, request, 0, 0).v[0])));
}

}  // namespace

void check_requests(const SyntheticSpec& spec, std::vector<Problem>& problems) {
  const auto require = [&](bool good, std::string what, std::string hint) {
    if (!good) problems.push_back({"synthetic trace", std::move(what), std::move(hint)});
  };
  require(spec.n_requests >= 1 && spec.n_requests <= max_requests, fmt::format("{} requests", spec.n_requests),
          fmt::format("use 1..{}", max_requests));
  require(spec.prompt_tokens <= max_length_tokens && spec.output_tokens <= max_length_tokens,
          fmt::format("lengths of {} and {} tokens", spec.prompt_tokens, spec.output_tokens), fmt::format("at most {} each", max_length_tokens));
  require(spec.prompt_tokens + static_cast<std::uint64_t>(spec.output_tokens) >= 1, "requests without tokens", "prompt or output must be at least 1");
  require(spec.length_sigma >= 0.0 && spec.length_sigma <= 4.0, fmt::format("length_sigma {}", spec.length_sigma), "use 0..4");
  require(spec.n_domains >= 1 && spec.n_domains <= 65535, fmt::format("{} domains", spec.n_domains), "use 1..65535");
  const bool known = spec.arrivals == "none" || spec.arrivals == "poisson" || spec.arrivals == "gamma";
  require(known, fmt::format("unknown arrivals '{}'", spec.arrivals), known ? "" : suggest_name(spec.arrivals, {"none", "poisson", "gamma"}));
  require(spec.rate_per_s >= 1e-6 && spec.rate_per_s <= 1e9, fmt::format("{} requests/s", spec.rate_per_s), "use 1e-6..1e9");
  require(spec.arrival_cv >= 0.01 && spec.arrival_cv <= 30.0, fmt::format("arrival_cv {}", spec.arrival_cv), "use 0.01..30");
}

std::vector<RequestInfo> make_requests(const SyntheticSpec& spec) {
  std::vector<RequestInfo> requests(spec.n_requests);
  double now_s = 0.0;
  for (std::uint32_t r = 0; r < spec.n_requests; ++r) {
    const Normal4 n = normal4(hash_words(spec.seed, 0x1e59U), Stream::arrivals, r, 0, 0);
    RequestInfo& request = requests[r];
    request.prompt_tokens = draw_length(spec.prompt_tokens, static_cast<float>(spec.length_sigma), n.v[0]);
    request.output_tokens = draw_length(spec.output_tokens, static_cast<float>(spec.length_sigma), n.v[1]);
    request.domain = domain_of(spec, r);
    if (spec.arrivals == "none") continue;
    now_s += draw_gap(spec, r) / spec.rate_per_s;
    request.arrival_ns = static_cast<std::int64_t>(std::min(now_s * 1e9, 9e18));
  }
  return requests;
}

std::vector<std::uint32_t> shuffled_experts(std::uint64_t seed, std::uint32_t layer, std::uint32_t n_experts) {
  std::vector<std::uint32_t> order(n_experts);
  std::iota(order.begin(), order.end(), 0U);
  std::vector<std::uint64_t> key(n_experts);
  for (std::uint32_t e = 0; e < n_experts; ++e) key[e] = hash_words(seed, 0x5bffU, layer, e);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return key[a] != key[b] ? key[a] < key[b] : a < b; });
  return order;
}

}  // namespace moekv::synthetic
