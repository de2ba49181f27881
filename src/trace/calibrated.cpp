// The calibrated presets: a latent-factor model of the gate whose locality, skew and burstiness follow recorded traces (routing.md section 4.3).
//
// z[t,l,e] = b[l,e] + a[l,e] . x[t,l] + sigma_n n, with x the weighted sum of four N(0,1)^m vectors: of the request's domain, of the request, of a
// context that drifts along the positions, and of the token's type. The context is a finite moving average of independent draws with the weights
// rho^j, cut where rho^j < 0.01 and scaled to unit variance: its autocorrelation is rho^n to 1e-4, and any position costs the same bounded work.
#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "rules/route/gate.hpp"
#include "trace/normal.hpp"
#include "trace/synthetic_detail.hpp"

namespace moekv::synthetic {
namespace {

/// Component order of `shares`.
enum Component : std::size_t { domain, sequence, context, token, n_components };

struct Preset {
  std::string_view name;
  std::uint32_t m;                         // dimension of x
  std::uint32_t n_types;                   // token types, Zipf(1.05)
  std::array<float, n_components> shares;  // variance shares of the components
  float rho;                               // context correlation of neighbours
  float decay;                             // this fraction of the token share passes to the context from the first to the last layer
  float zipf_s, zipf_q;                    // target load (rank + q)^-s; s = 0: biases are Gaussian instead
  float sigma_b;                           // spread of Gaussian biases
  float sigma_n;                           // noise per (token, layer, expert)
  float beta;                              // logits are beta z
  bool unit_rows;                          // rows a of unit norm, else N(0, 1/m)
};

/// Tuned until tests/golden/synthetic_test.cpp holds for the median layer at the recorded models' depths.
constexpr Preset presets[] = {
    {"flame", 12, 10000, {.05F, .02F, .49F, .44F}, .48F, .60F, .19F, 1.1F, 0.0F, .14F, 1.7F, true},
    {"dsv2lite", 8, 6300, {.09F, .11F, .38F, .42F}, .57F, .01F, .60F, 2.2F, 0.0F, .10F, 1.75F, true},
    {"gptoss", 6, 26000, {.10F, .21F, .19F, .50F}, .86F, .52F, 0.0F, 0.0F, .20F, .09F, .78F, false},
};
constexpr float share_spread = 0.3F;  // shares vary by this fraction from layer to layer
/// The first layers follow the token more than its surroundings: factors on the three other shares.
constexpr float first_layer_factor[] = {0.15F, 0.35F, 0.6F};

const Preset& preset_named(std::string_view name) {
  return *std::find_if(std::begin(presets), std::end(presets), [&](const Preset& p) { return p.name == name; });
}

/// What a vector of normals is for; keeps their keys apart.
enum class Purpose : std::uint32_t { domain = 1, sequence, context, token, row, bias, share, fit, noise, type };

using Latent = std::vector<float>;  // [m]

void draw_latent(std::uint64_t key, Stream stream, std::uint32_t a, std::uint32_t b, std::uint32_t m, float* out) {
  for (std::uint32_t j = 0; j < m; j += 4) {
    const Normal4 n = normal4(key, stream, a, b, j);
    for (std::uint32_t i = 0; i < 4 && j + i < m; ++i) out[j + i] = n.v[i];
  }
}

/// A nearly normal value of unit variance from one word: the sum of its four bytes.
float byte_normal(std::uint32_t word) {
  const std::uint32_t pairs = (word & 0x00FF00FFU) + ((word >> 8) & 0x00FF00FFU);
  return (static_cast<float>((pairs & 0xFFFFU) + (pairs >> 16)) - 510.0F) * (1.0F / 147.8005F);
}

struct LayerModel {
  std::array<float, n_components> gain{};  // square roots of the shares
  std::vector<float> a;                    // [m][E]
  std::vector<float> b;                    // [E]
};

class Calibrated final : public RowGenerator {
 public:
  explicit Calibrated(const Frame& frame);
  void fill(std::uint32_t request, WantLogits want, RoutingRows& rows) override;

 private:
  [[nodiscard]] std::uint64_t key(Purpose p) const { return hash_words(frame_.spec.seed, static_cast<std::uint32_t>(p)); }
  [[nodiscard]] const LayerModel& layer(std::uint32_t l);
  [[nodiscard]] LayerModel make_layer(std::uint32_t l) const;
  [[nodiscard]] std::array<float, n_components> shares(std::uint32_t l) const;
  void fit_biases(std::uint32_t l, LayerModel& model) const;
  [[nodiscard]] std::vector<float> target_load(std::uint32_t l) const;
  void draw_context(std::uint32_t request, std::uint32_t begin, std::uint32_t end, std::vector<float>& out) const;
  void draw_token(std::uint32_t request, std::uint32_t position, float* out) const;
  void scores(const LayerModel& model, const float* const* parts, std::uint64_t noise_key, float* z) const;

  Frame frame_;
  const Preset& preset_;
  std::uint64_t noise_key_;
  std::vector<float> type_cdf_;     // of token types
  std::vector<float> window_;       // moving-average weights of the context, newest first
  std::vector<LayerModel> layers_;  // made at first use
};

Calibrated::Calibrated(const Frame& frame)
    : frame_(frame), preset_(preset_named(frame.spec.preset)), noise_key_(key(Purpose::noise)), type_cdf_(preset_.n_types), layers_(frame.n_layers) {
  float sum = 0.0F;
  for (std::uint32_t i = 0; i < preset_.n_types; ++i) type_cdf_[i] = sum += exp_fixed(-1.05F * log_fixed(static_cast<float>(i + 1)));
  for (float& c : type_cdf_) c /= sum;
  float squares = 0.0F;
  float weight = 1.0F;
  while (weight >= 0.01F) {
    window_.push_back(weight);
    squares += weight * weight;
    weight *= preset_.rho;
  }
  for (float& w : window_) w /= sqrt_fixed(squares);
}

std::array<float, n_components> Calibrated::shares(std::uint32_t l) const {
  const float depth = frame_.n_layers > 1 ? static_cast<float>(l) / static_cast<float>(frame_.n_layers - 1) : 0.0F;
  std::array<float, n_components> w = preset_.shares;
  w[context] += w[token] * preset_.decay * depth;
  w[token] *= 1.0F - preset_.decay * depth;
  const Draw4 d = draw4(key(Purpose::share), Stream::routing_context, l, 0, 0);
  const std::uint32_t n_first = std::min(3U, frame_.n_layers / 2);
  float sum = 0.0F;
  for (std::size_t i = 0; i < n_components; ++i) {
    w[i] *= 1.0F + share_spread * (2.0F * uniform_float(d.v[i]) - 1.0F);
    if (l < n_first && i != token) w[i] *= first_layer_factor[l];
    sum += w[i];
  }
  for (float& x : w) x /= sum;
  return w;
}

LayerModel Calibrated::make_layer(std::uint32_t l) const {
  const std::uint32_t n = frame_.gate.n_experts, m = preset_.m;
  LayerModel model;
  model.a.resize(static_cast<std::size_t>(m) * n);
  model.b.assign(n, 0.0F);
  const auto w = shares(l);
  for (std::size_t i = 0; i < n_components; ++i) model.gain[i] = sqrt_fixed(w[i]);
  Latent row(m);
  for (std::uint32_t e = 0; e < n; ++e) {
    draw_latent(key(Purpose::row), Stream::routing_expert, l, e, m, row.data());
    float squares = 0.0F;
    for (const float x : row) squares += x * x;
    const float norm = sqrt_fixed(preset_.unit_rows ? squares : static_cast<float>(m));
    for (std::uint32_t j = 0; j < m; ++j) model.a[static_cast<std::size_t>(j) * n + e] = row[j] / norm;
  }
  if (preset_.zipf_s > 0.0F) {
    fit_biases(l, model);
  } else {
    for (std::uint32_t e = 0; e < n; ++e) model.b[e] = preset_.sigma_b * normal4(key(Purpose::bias), Stream::routing_expert, l, e, 0).v[0];
  }
  return model;
}

const LayerModel& Calibrated::layer(std::uint32_t l) {
  if (layers_[l].a.empty()) layers_[l] = make_layer(l);
  return layers_[l];
}

/// Selection shares (rank + q)^-s, ranks dealt to experts by a permutation of the layer; they sum to 1.
std::vector<float> Calibrated::target_load(std::uint32_t l) const {
  const auto order = shuffled_experts(key(Purpose::bias), l, frame_.gate.n_experts);
  std::vector<float> load(order.size());
  float sum = 0.0F;
  for (std::size_t i = 0; i < order.size(); ++i)
    sum += load[order[i]] = exp_fixed(-preset_.zipf_s * log_fixed(static_cast<float>(i + 1) + preset_.zipf_q));
  for (float& x : load) x /= sum;
  return load;
}

/// Eight rounds of b += ln(target / frequency) / 2 over a fixed sample of unrelated tokens.
void Calibrated::fit_biases(std::uint32_t l, LayerModel& model) const {
  const std::uint32_t n = frame_.gate.n_experts, m = preset_.m, k = frame_.gate.top_k;
  const std::uint32_t n_samples = std::clamp(40 * n / k, 1024U, 4096U);
  std::vector<float> z(static_cast<std::size_t>(n_samples) * n);
  std::vector<Latent> part(n_components, Latent(m));
  const float* parts[n_components];
  for (std::size_t i = 0; i < n_components; ++i) parts[i] = part[i].data();
  for (std::uint32_t s = 0; s < n_samples; ++s) {
    draw_latent(key(Purpose::domain), Stream::routing_context, s % frame_.spec.n_domains, 0, m, part[domain].data());
    draw_latent(key(Purpose::fit), Stream::routing_context, s, 1, m, part[sequence].data());
    draw_latent(key(Purpose::fit), Stream::routing_context, s, 2, m, part[context].data());
    draw_token(s ^ 0x80000000U, 0, part[token].data());
    scores(model, parts, hash_words(key(Purpose::fit), s, l), &z[static_cast<std::size_t>(s) * n]);
  }
  const std::vector<float> target = target_load(l);
  std::vector<std::uint16_t> ids(k);
  std::vector<float> biased(n), keys(k), count(n);
  for (int round = 0; round < 8; ++round) {
    std::fill(count.begin(), count.end(), 0.25F);  // an expert without a choice still has a finite logarithm
    for (std::uint32_t s = 0; s < n_samples; ++s) {
      for (std::uint32_t e = 0; e < n; ++e) biased[e] = preset_.beta * (z[static_cast<std::size_t>(s) * n + e] + model.b[e]);
      route::select_top(frame_.gate, biased.data(), n, k, {ids.data(), keys.data()});
      for (const std::uint16_t id : ids)
        if (id != ExpertId::invalid) count[id] += 1.0F;
    }
    for (std::uint32_t e = 0; e < n; ++e) model.b[e] += 0.5F * log_fixed(target[e] * static_cast<float>(n_samples * k) / count[e]);
  }
}

/// Context vectors of positions [begin, end) into out [positions][m]. Draws before position 0 exist, so the context is stationary from the start.
void Calibrated::draw_context(std::uint32_t request, std::uint32_t begin, std::uint32_t end, std::vector<float>& out) const {
  const std::uint32_t m = preset_.m, reach = static_cast<std::uint32_t>(window_.size()) - 1, n = end - begin;
  std::vector<float> innovation(static_cast<std::size_t>(n + reach) * m);
  for (std::uint32_t i = 0; i < n + reach; ++i)
    draw_latent(key(Purpose::context), Stream::routing_context, request, begin + i, m, &innovation[static_cast<std::size_t>(i) * m]);
  out.assign(static_cast<std::size_t>(n) * m, 0.0F);
  for (std::uint32_t t = 0; t < n; ++t) {
    float* c = &out[static_cast<std::size_t>(t) * m];
    for (std::uint32_t j = 0; j <= reach; ++j) {
      const float* eps = &innovation[static_cast<std::size_t>(t + reach - j) * m];
      for (std::uint32_t i = 0; i < m; ++i) c[i] += window_[j] * eps[i];
    }
  }
}

/// The vector of the type of one token.
void Calibrated::draw_token(std::uint32_t request, std::uint32_t position, float* out) const {
  const float u = uniform_float(draw4(key(Purpose::type), Stream::routing_token, request, position, 0).v[0]);
  const auto at = std::upper_bound(type_cdf_.begin(), type_cdf_.end(), u);
  const auto type = std::min<std::ptrdiff_t>(at - type_cdf_.begin(), preset_.n_types - 1);
  draw_latent(key(Purpose::token), Stream::routing_token, static_cast<std::uint32_t>(type), 0, preset_.m, out);
}

/// z [E] without beta, from the component vectors of one token.
void Calibrated::scores(const LayerModel& model, const float* const* parts, std::uint64_t noise_key, float* z) const {
  const std::uint32_t n = frame_.gate.n_experts;
  std::copy(model.b.begin(), model.b.end(), z);
  for (std::uint32_t j = 0; j < preset_.m; ++j) {
    float x = 0.0F;
    for (std::size_t i = 0; i < n_components; ++i) x += model.gain[i] * parts[i][j];
    const float* a = &model.a[static_cast<std::size_t>(j) * n];
    for (std::uint32_t e = 0; e < n; ++e) z[e] += x * a[e];
  }
  for (std::uint32_t e = 0; e < n; e += 2) {
    const std::uint64_t word = mix64(noise_key + e);
    z[e] += preset_.sigma_n * byte_normal(static_cast<std::uint32_t>(word));
    if (e + 1 < n) z[e + 1] += preset_.sigma_n * byte_normal(static_cast<std::uint32_t>(word >> 32));
  }
}

void Calibrated::fill(std::uint32_t request, WantLogits want, RoutingRows& rows) {
  const std::uint32_t n = frame_.gate.n_experts, k = frame_.gate.top_k, m = preset_.m;
  for (std::uint32_t l = rows.layer_begin; l < rows.layer_end; ++l) (void)layer(l);
  Latent of_domain(m), of_sequence(m), of_token(m);
  std::vector<float> of_context, z(n);
  draw_latent(key(Purpose::domain), Stream::routing_context, domain_of(frame_.spec, request), 0, m, of_domain.data());
  draw_latent(key(Purpose::sequence), Stream::routing_context, request, 0, m, of_sequence.data());
  draw_context(request, rows.begin, rows.end, of_context);
  std::uint16_t* ids = rows.ids.data();
  float* weights = rows.weights.data();
  float* logits = want == WantLogits::yes ? rows.logits.data() : nullptr;
  for (std::uint32_t t = rows.begin; t < rows.end; ++t) {
    draw_token(request, t, of_token.data());
    const float* parts[n_components] = {of_domain.data(), of_sequence.data(), &of_context[static_cast<std::size_t>(t - rows.begin) * m],
                                        of_token.data()};
    for (std::uint32_t l = rows.layer_begin; l < rows.layer_end; ++l, ids += k, weights += k) {
      float* row = logits != nullptr ? logits : z.data();
      scores(layers_[l], parts, hash_words(noise_key_, request, t, l), row);
      for (std::uint32_t e = 0; e < n; ++e) row[e] *= preset_.beta;
      route::select_top(frame_.gate, row, n, k, {ids, weights});
      route::weigh(frame_.gate, row, n, 1.0F, k, ids, weights);
      if (logits != nullptr) logits += n;
    }
  }
}

}  // namespace

bool is_calibrated(const std::string& preset) {
  return std::any_of(std::begin(presets), std::end(presets), [&](const Preset& p) { return p.name == preset; });
}

std::unique_ptr<RowGenerator> make_calibrated(const Frame& frame) { return std::make_unique<Calibrated>(frame); }

}  // namespace moekv::synthetic
