// Queries of the generator: noise plus a component along the key of a random earlier position, which is made again where it is needed.
#include <algorithm>

#include "rules/generate.hpp"
#include "trace/generator_kernels.hpp"
#include "trace/qkv_generator.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t tile_rows = 64;  // (token, query head) pairs mapped at once
constexpr std::uint32_t sample_heads = 4;  // of the calibration
constexpr std::uint32_t sample_queries = 16;
constexpr std::uint32_t sample_request = 0xFFFFFFFFU;
constexpr std::uint32_t query_stream_word = 0x71;

}  // namespace

std::uint64_t QkvGenerator::head_seed(std::uint32_t layer, std::uint32_t head) const {
  return hash_words(spec_.seed, query_stream_word, layer, head);
}
std::uint64_t QkvGenerator::noise_seed(std::uint32_t layer, std::uint32_t head, std::uint32_t part) const {
  return hash_words(spec_.seed, query_stream_word, layer, head, part);
}
std::uint32_t QkvGenerator::target_reach(std::uint32_t layer) const {
  const LayerShape& kind = shape_.layers[layer];
  return kind.attention == AttentionKind::window ? kind.window_tokens - 1 : ~0U;
}

/// rows_ [targets][n_columns]: the centred keys of targets_ before RoPE (rows without a target are 0).
void QkvGenerator::gather_targets(const PlaneMap& map, std::uint32_t request) {
  request_deviations(map, request, spec_.sequence_mix, deviation_);
  latents_.assign(targets_.size() * map.rank, 0.0F);
  for (std::size_t row = 0; row < targets_.size(); ++row) {
    if (targets_[row] == generate::no_target) continue;
    const std::uint32_t offset = targets_[row] % generate::block_tokens;
    block_.fill(map, request, targets_[row] - offset, offset, offset);
    const float* x = block_.row(offset);
    for (std::uint32_t i = 0; i < map.rank; ++i) latents_[row * map.rank + i] = x[i] * deviation_[i];
  }
  rows_.resize(targets_.size() * map.n_columns);
  map_rows(latents_.data(), map.rank, static_cast<std::uint32_t>(targets_.size()), map.rank, map.weights.data(), map.n_columns, rows_.data());
}

void QkvGenerator::write_query_part(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t part_index, const Segment& s,
                                    const std::uint16_t* experts, std::uint32_t top_k, float* q) {
  const Part& part = parts_[part_index];
  const HeadMaps& maps = head_maps(layer, kv_head);
  const PlaneMap& map = maps.parts[part_index];
  const std::uint32_t group = shape_.group_size();
  const std::uint32_t n_quads = (map.dim + 3) / 4;
  gather_targets(map, s.request);
  noise_.resize(std::size_t{4} * n_quads);
  for (std::uint32_t t = 0; t < s.n; ++t) {
    const bool affine = part_index == 0 && experts != nullptr;
    if (affine) expert_mean(maps, experts + static_cast<std::size_t>(t) * top_k, top_k);
    for (std::uint32_t g = 0; g < group; ++g) {
      const std::uint32_t head = kv_head * group + g;
      const std::size_t row = static_cast<std::size_t>(t) * group + g;
      const bool has_target = targets_[row] != generate::no_target;
      const float* target = rows_.data() + row * map.n_columns;
      float* out = q + (static_cast<std::size_t>(t) * shape_.n_heads + head) * shape_.d_k + part.first_channel;
      draw_normal_row(noise_seed(layer, head, part_index), Stream::query, s.request, s.begin + t, n_quads, noise_.data());
      for (std::uint32_t c = 0; c < map.dim; ++c)
        out[c] = generate::query_value(has_target, noise_[c], target[c], map.gain[c], affine ? expert_mean_[c] : 0.0F, query_scale_);
      if (part.rotates) rotate(out, t);
    }
  }
}

void QkvGenerator::make_queries(std::uint32_t layer, std::uint32_t kv_head, const Segment& s, const std::uint16_t* experts, std::uint32_t top_k,
                                float* q) {
  const std::uint32_t group = shape_.group_size();
  const std::uint32_t reach = target_reach(layer);
  targets_.resize(static_cast<std::size_t>(s.n) * group);
  for (std::uint32_t t = 0; t < s.n; ++t) {
    for (std::uint32_t g = 0; g < group; ++g)
      targets_[static_cast<std::size_t>(t) * group + g] =
          generate::query_target(head_seed(layer, kv_head * group + g), s.request, s.begin + t, reach);
  }
  for (std::uint32_t part = 0; part < parts_.size(); ++part) write_query_part(layer, kv_head, part, s, experts, top_k, q);
  if (!has_token_sinks(layer)) return;
  for (std::uint32_t t = 0; t < s.n; ++t) {
    for (std::uint32_t g = 0; g < group; ++g) {
      q[(static_cast<std::size_t>(t) * shape_.n_heads + std::size_t{kv_head} * group + g) * shape_.d_k + sink_channel_] = generate::sink_query;
    }
  }
}

void QkvGenerator::queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* q) {
  const std::uint32_t tile_tokens = std::max(1U, tile_rows / shape_.group_size());
  for (std::uint32_t position = begin; position < end;) {
    const Segment s{r.value, position, std::min(tile_tokens, end - position)};
    const std::size_t done = position - begin;
    const std::uint16_t* ids = spec_.expert_affinity > 0 && experts.ids != nullptr ? experts.ids + done * experts.top_k : nullptr;
    fill_angles(s.begin, s.n);
    for (std::uint32_t h = 0; h < shape_.n_kv_heads; ++h) {
      make_queries(layer.value, h, s, ids, experts.top_k, q + done * shape_.n_heads * shape_.d_k);
    }
    position += s.n;
  }
}

/// Sets the scale of queries. Queries and keys of the sample are made with scale 1.
void QkvGenerator::calibrate() { query_scale_ = static_cast<float>(generate::logit_std / sampled_logit_deviation()); }

/// Standard deviation over keys of the logits of unscaled queries, sampled at layer 0 without sink tokens and sink channel.
double QkvGenerator::sampled_logit_deviation() {
  const std::uint32_t d = shape_.d_k;
  const std::uint32_t n_heads = std::min(sample_heads, shape_.n_kv_heads);
  constexpr std::uint32_t blocks[] = {0, 5, 10, 15};
  const std::uint32_t query_begin = 16 * generate::block_tokens - sample_queries;
  std::vector<float> keys(static_cast<std::size_t>(generate::block_tokens) * d);
  std::vector<float> queries(static_cast<std::size_t>(sample_queries) * shape_.n_heads * d);
  double variance = 0;
  for (std::uint32_t h = 0; h < n_heads; ++h) {
    std::vector<double> sum(sample_queries), squares(sample_queries);
    fill_angles(query_begin, sample_queries);
    make_queries(0, h, {sample_request, query_begin, sample_queries}, nullptr, 0, queries.data());
    for (const std::uint32_t block : blocks) {
      const std::uint32_t begin = block * generate::block_tokens;
      fill_angles(begin, generate::block_tokens);
      make_keys(0, h, {sample_request, begin, generate::block_tokens}, nullptr, 0, keys.data(), d);
      for (std::uint32_t t = begin == 0 ? generate::sink_tokens : 0; t < generate::block_tokens; ++t) {
        for (std::uint32_t i = 0; i < sample_queries; ++i) {
          const float* q = queries.data() + (static_cast<std::size_t>(i) * shape_.n_heads + std::size_t{h} * shape_.group_size()) * d;
          const float* k = keys.data() + static_cast<std::size_t>(t) * d;
          double logit = 0;
          for (std::uint32_t c = 0; c < d; ++c) logit += c == sink_channel_ ? 0.0 : static_cast<double>(q[c]) * k[c];
          sum[i] += logit;
          squares[i] += logit * logit;
        }
      }
    }
    const double n = std::size(blocks) * generate::block_tokens - generate::sink_tokens;
    for (std::uint32_t i = 0; i < sample_queries; ++i) variance += (squares[i] - sum[i] * sum[i] / n) / n;
  }
  variance /= static_cast<double>(n_heads) * sample_queries;
  return variance > 0 ? attention_scale_ * __builtin_sqrt(variance) : 1.0;
}

}  // namespace moekv
