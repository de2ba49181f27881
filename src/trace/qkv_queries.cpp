// Queries of the generator: noise plus a component along the key of a random earlier position, which is made again where it is needed.
#include <algorithm>

#include "rules/generate.hpp"
#include "trace/generator_kernels.hpp"
#include "trace/qkv_generator.hpp"
#include "trace/sum_kernels.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t tile_rows = 64;    // (token, query head) pairs mapped at once
constexpr std::uint32_t sample_heads = 4;  // of the calibration
constexpr std::uint32_t sample_queries = n_side_by_side;
constexpr std::uint32_t sample_request = 0xFFFFFFFFU;
constexpr std::uint32_t query_stream_word = 0x71;
constexpr std::uint32_t floats_of_line = 16;

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

void QkvGenerator::gather_targets(std::uint32_t layer, std::uint32_t kv_head, const Part& part, const PlaneMap& map, std::uint32_t request,
                                  Scratch& scratch) const {
  const std::span<const std::unique_ptr<KeyRows::Block>> kept = kept_rows(layer, kv_head, request);
  scratch.zeros.assign(map.n_columns, 0.0F);
  scratch.target_rows.assign(scratch.targets.size(), scratch.zeros.data());
  scratch.without_row.clear();
  for (std::uint32_t i = 0; i < scratch.targets.size(); ++i) {
    const std::uint32_t target = scratch.targets[i], offset = target % generate::block_tokens;
    if (target == generate::no_target) continue;
    const KeyRows::Block* block = KeyRows::find(kept, target);
    if (block != nullptr && block->has(offset, 1)) {
      scratch.target_rows[i] = block->rows.get() + offset * key_rows_.width() + part.first_column;
    } else {
      scratch.without_row.push_back(i);
    }
  }
  const auto n = static_cast<std::uint32_t>(scratch.without_row.size());
  if (n == 0) return;
  request_deviations(map, request, spec_.sequence_mix, scratch.deviation);
  scratch.latents.resize(static_cast<std::size_t>(n) * map.rank);
  scratch.rows.resize(static_cast<std::size_t>(n) * map.n_columns);
  for (std::size_t row = 0; row < n; ++row) {
    const std::uint32_t target = scratch.targets[scratch.without_row[row]], offset = target % generate::block_tokens;
    scratch.block.fill(map, request, target - offset, offset, offset);
    const float* x = scratch.block.row(offset);
    for (std::uint32_t i = 0; i < map.rank; ++i) scratch.latents[row * map.rank + i] = x[i] * scratch.deviation[i];
    scratch.target_rows[scratch.without_row[row]] = scratch.rows.data() + row * map.n_columns;
  }
  map_rows(scratch.latents.data(), map.rank, n, map.rank, map.weights.data(), map.n_columns, scratch.rows.data());
}

void QkvGenerator::write_query_part(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t part_index, const Segment& s, TokenExperts experts,
                                    float* q, Scratch& scratch) const {
  const Part& part = parts_[part_index];
  const HeadMaps& maps = head_maps(layer, kv_head);
  const PlaneMap& map = maps.parts[part_index];
  const std::uint32_t group = shape_.group_size();
  const std::uint32_t n_quads = (map.dim + 3) / 4;
  gather_targets(layer, kv_head, part, map, s.request, scratch);
  std::vector<float>& noise = scratch.noise;
  noise.resize(std::size_t{4} * n_quads);
  for (std::uint32_t t = 0; t < s.n; ++t) {
    const bool affine = part_index == 0 && experts.ids != nullptr;
    if (affine) expert_mean(maps, experts.from(t), scratch);
    for (std::uint32_t g = 0; g < group; ++g) {
      const std::uint32_t head = kv_head * group + g;
      const std::size_t row = static_cast<std::size_t>(t) * group + g;
      const bool has_target = scratch.targets[row] != generate::no_target;
      const float* target = scratch.target_rows[row];
      float* out = q + (static_cast<std::size_t>(t) * shape_.n_heads + head) * shape_.d_k + part.first_channel;
      for (std::uint32_t c = 0; has_target && c < map.dim; c += floats_of_line) __builtin_prefetch(target + c);  // on its way while the noise is drawn
      draw_normal_row(noise_seed(layer, head, part_index), Stream::query, s.request, s.begin + t, n_quads, noise.data());
      query_row(noise.data(), has_target ? target : nullptr, map.gain.data(), affine ? scratch.expert_mean.data() : nullptr, query_scale_, map.dim,
                out);
      if (part.rotates) rotate(out, t, scratch);
    }
  }
}

void QkvGenerator::make_queries(std::uint32_t layer, std::uint32_t kv_head, const Segment& s, TokenExperts experts, float* q,
                                Scratch& scratch) const {
  const std::uint32_t group = shape_.group_size();
  const std::uint32_t reach = target_reach(layer);
  scratch.targets.resize(static_cast<std::size_t>(s.n) * group);
  for (std::uint32_t t = 0; t < s.n; ++t) {
    for (std::uint32_t g = 0; g < group; ++g)
      scratch.targets[static_cast<std::size_t>(t) * group + g] =
          generate::query_target(head_seed(layer, kv_head * group + g), s.request, s.begin + t, reach);
  }
  for (std::uint32_t part = 0; part < parts_.size(); ++part) write_query_part(layer, kv_head, part, s, experts, q, scratch);
  if (!has_token_sinks(layer)) return;
  for (std::uint32_t t = 0; t < s.n; ++t) {
    for (std::uint32_t g = 0; g < group; ++g) {
      q[(static_cast<std::size_t>(t) * shape_.n_heads + std::size_t{kv_head} * group + g) * shape_.d_k + sink_channel_] = generate::sink_query;
    }
  }
}

void QkvGenerator::cut_queries(const generate::RowRange& range, TokenExperts experts) {
  const std::uint32_t tile_tokens = std::max(1U, tile_rows / shape_.group_size());
  for (std::uint32_t position = range.query_begin; position < range.end;) {
    const Segment s{range.request, position, std::min(tile_tokens, range.end - position)};
    add_pieces({s, 0, true, range.first_query + (position - range.query_begin), experts.from(range.first_token + (position - range.begin))});
    position += s.n;
  }
}

void QkvGenerator::queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* q) {
  const generate::RowRange range{r.value, begin, end, begin, 0, 0};
  rows(shape_, layer, experts, {&range, 1}, nullptr, nullptr, q);
}

/// Sets the scale of queries. Queries and keys of the sample are made with scale 1.
void QkvGenerator::calibrate() {
  make_maps(0);
  query_scale_ = static_cast<float>(generate::logit_std / sampled_logit_deviation());
}

/// Standard deviation over keys of the logits of unscaled queries, sampled at layer 0 without sink tokens and sink channel.
double QkvGenerator::sampled_logit_deviation() const {
  Scratch scratch;
  const std::uint32_t d = shape_.d_k;
  const std::uint32_t n_heads = std::min(sample_heads, shape_.n_kv_heads);
  constexpr std::uint32_t blocks[] = {0, 5, 10, 15};
  const std::uint32_t query_begin = 16 * generate::block_tokens - sample_queries;
  std::vector<float> keys(static_cast<std::size_t>(generate::block_tokens) * d);
  std::vector<float> queries(static_cast<std::size_t>(sample_queries) * shape_.n_heads * d);
  double variance = 0;
  for (std::uint32_t h = 0; h < n_heads; ++h) {
    std::vector<double> sum(sample_queries), squares(sample_queries);
    const Segment asking{sample_request, query_begin, sample_queries};
    scratch.angles = angles_.of(asking.begin, asking.n, scratch.room_of_angles);
    make_queries(0, h, asking, {}, queries.data(), scratch);
    // [d][sample_queries], without the sink channel.
    std::vector<double> columns(static_cast<std::size_t>(d) * sample_queries);
    for (std::uint32_t i = 0; i < sample_queries; ++i) {
      const float* q = queries.data() + (static_cast<std::size_t>(i) * shape_.n_heads + std::size_t{h} * shape_.group_size()) * d;
      for (std::uint32_t c = 0; c < d; ++c)
        columns[static_cast<std::size_t>(c) * sample_queries + i] = c == sink_channel_ ? 0.0 : static_cast<double>(q[c]);
    }
    for (const std::uint32_t block : blocks) {
      const std::uint32_t begin = block * generate::block_tokens;
      const Segment asked{sample_request, begin, generate::block_tokens};
      scratch.angles = angles_.of(asked.begin, asked.n, scratch.room_of_angles);
      make_keys(0, h, asked, {}, keys.data(), d, scratch);
      for (std::uint32_t t = begin == 0 ? generate::sink_tokens : 0; t < generate::block_tokens; ++t) {
        double logits[sample_queries];
        dot_columns(columns.data(), d, keys.data() + static_cast<std::size_t>(t) * d, d, 1, logits);
        for (std::uint32_t i = 0; i < sample_queries; ++i) {
          sum[i] += logits[i];
          squares[i] += logits[i] * logits[i];
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
