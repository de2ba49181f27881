// Keys and values of the generator, its construction and the Gaussian preset; queries are in qkv_queries.cpp.
#include "trace/qkv_generator.hpp"

#include <omp.h>

#include <algorithm>
#include <string_view>

#include "core/error.hpp"
#include "core/threads.hpp"
#include "rules/generate.hpp"
#include "trace/generator_kernels.hpp"

namespace moekv {
namespace {

constexpr double default_theta = 5e5;
/// A request that decodes asks for one position after the other: rows of so many are made, and kept, when the first is asked for. A map is read once
/// for them, and the latents that they lie between are drawn once.
constexpr std::uint32_t made_ahead = 8;

ChannelTail key_tail(std::string_view preset) {
  if (preset == "A") return ChannelTail::outliers;
  return preset == "C" ? ChannelTail::outliers_and_bias : ChannelTail::none;
}

/// Learned sink logits of a layer: the same for every preset.
void fill_sink_logits(std::uint64_t seed, std::uint32_t layer, std::uint32_t n_heads, float* out) {
  for (std::uint32_t h = 0; h < n_heads; ++h) {
    out[h] = generate::learned_sink_mean + generate::normal_component(seed, Stream::sinks, layer, h, 1, 0);
  }
}

/// False for NaN too.
bool within(double x, double largest) { return x >= 0 && x <= largest; }

void check_generator(const GeneratorSpec& spec, const ModelShape& shape) {
  static const std::vector<std::string_view> presets = {"A", "B", "C", "D", "E"};
  std::vector<Problem> problems;
  if (std::find(presets.begin(), presets.end(), spec.preset) == presets.end()) {
    problems.push_back({"generator.preset", "unknown preset '" + spec.preset + "'", suggest_name(spec.preset, presets)});
  }
  if (spec.preset == "E" && !shape.mla()) problems.push_back({"generator.preset", "preset E needs an MLA shape", "use A, B, C or D"});
  if (!within(spec.sequence_mix, 1.0)) problems.push_back({"generator.sequence_mix", "must lie in [0, 1]", {}});
  if (!within(spec.expert_affinity, 1e3)) problems.push_back({"generator.expert_affinity", "must lie in [0, 1000]", {}});
  const std::uint32_t rotated = shape.mla() ? shape.latent.d_rope : shape.d_k;
  if (rotated % 2 != 0) problems.push_back({"model", "RoPE needs an even number of channels, not " + std::to_string(rotated), {}});
  if (shape.n_kv_heads == 0 || shape.n_heads % shape.n_kv_heads != 0 || shape.d_k == 0 || shape.layers.empty()) {
    problems.push_back({"model", "the generator needs layers, d_k > 0 and n_heads a multiple of n_kv_heads", {}});
  }
  if (!problems.empty()) throw UserError(std::move(problems));
}

}  // namespace

std::unique_ptr<QkvSource> make_qkv_generator(const GeneratorSpec& spec, const ModelShape& shape, int n_threads, std::shared_ptr<KeptBytes> kept) {
  check_generator(spec, shape);
  if (spec.preset == "D") return std::make_unique<GaussianQkv>(spec, shape);
  if (kept == nullptr) kept = std::make_shared<KeptBytes>();
  return std::make_unique<QkvGenerator>(spec, shape, n_threads, std::move(kept));
}

QkvGenerator::QkvGenerator(GeneratorSpec spec, ModelShape shape, int n_threads, std::shared_ptr<KeptBytes> kept)
    : spec_(std::move(spec)),
      shape_(std::move(shape)),
      attention_scale_(shape_.softmax_scale > 0 ? static_cast<float>(shape_.softmax_scale) : 1.0F / sqrt_fixed(static_cast<float>(shape_.d_k))),
      angles_(kept),
      heads_(static_cast<std::size_t>(shape_.n_layers()) * shape_.n_kv_heads),
      n_threads_(thread_count(n_threads)),
      key_rows_(heads_.size(), set_parts(), std::move(kept), 64 + std::uint64_t{4} * shape_.n_layers()),
      scratch_(static_cast<std::size_t>(n_threads_)) {
  calibrate();
}

std::uint32_t QkvGenerator::set_parts() {
  const ChannelTail tail = key_tail(spec_.preset);
  const std::uint32_t d_k = shape_.d_k;
  if (shape_.mla()) {
    const auto [d_c, d_rope] = shape_.latent;
    parts_.push_back({{KvPlane::latent, std::max(1U, d_c / 2), d_c, generate::key_spectrum, true, ChannelTail::none}, 0, false});
    const ChannelTail rope_tail = tail == ChannelTail::outliers_and_bias ? ChannelTail::bias : ChannelTail::none;
    if (d_rope > 0) parts_.push_back({{KvPlane::latent_rope, d_rope, d_rope, generate::key_spectrum, true, rope_tail}, d_c, true});
    sink_channel_ = d_rope > 0 ? d_c + sink_channel(d_rope) : d_c - 1;
  } else {
    parts_.push_back({{KvPlane::key, d_k, d_k, generate::key_spectrum, true, tail}, 0, true});
    value_shape_ = {KvPlane::value, shape_.d_v, shape_.d_v, generate::value_spectrum, false, ChannelTail::none};
    sink_channel_ = sink_channel(d_k);
  }
  std::uint32_t width = 0;
  for (Part& part : parts_) {
    part.first_column = width;
    width += padded_columns(part.shape.dim);
  }
  if (parts_.back().rotates) angles_.set_turns(rope_turns(shape_.rope_theta > 1 ? shape_.rope_theta : default_theta, parts_.back().shape.dim));
  return width;
}

std::unique_ptr<QkvGenerator::HeadMaps> QkvGenerator::make_head_maps(std::uint32_t layer, std::uint32_t head) const {
  auto maps = std::make_unique<HeadMaps>();
  for (const Part& part : parts_) maps->parts.push_back(make_plane_map(spec_.seed, part.shape, layer, head));
  if (!shape_.mla()) maps->value = make_plane_map(spec_.seed, value_shape_, layer, head);
  if (spec_.expert_affinity > 0) {
    const PlaneMap& map = maps->parts[0];
    std::vector<float> row(std::size_t{4} * ((map.dim + 3) / 4));
    for (std::uint32_t e = 0; e < shape_.gate.n_experts; ++e) {
      draw_normal_row(map.latent_seed, Stream::kv_gain, 2, e, (map.dim + 3) / 4, row.data());
      maps->expert_directions.insert(maps->expert_directions.end(), row.begin(), row.begin() + map.dim);
    }
  }
  return maps;
}

void QkvGenerator::make_maps(std::uint32_t layer) {
  std::unique_ptr<HeadMaps>* maps = heads_.data() + static_cast<std::size_t>(layer) * shape_.n_kv_heads;
  if (std::all_of(maps, maps + shape_.n_kv_heads, [](const auto& one) { return one != nullptr; })) return;
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads_)
  for (std::uint32_t h = 0; h < shape_.n_kv_heads; ++h) {
    if (maps[h] == nullptr) maps[h] = make_head_maps(layer, h);
  }
}

void QkvGenerator::rotate(float* row, std::uint32_t token, const Scratch& scratch) const {
  const std::size_t n_pairs = angles_.turns().size();
  generate::rotate_row(row, scratch.angles + token * n_pairs, static_cast<std::uint32_t>(n_pairs));
}

/// Mean direction of a token's experts, over sqrt(their number); zero where it has none.
void QkvGenerator::expert_mean(const HeadMaps& maps, TokenExperts experts, Scratch& scratch) const {
  const std::uint32_t dim = maps.parts[0].dim;
  scratch.expert_mean.assign(dim, 0.0F);
  std::uint32_t n = 0;
  for (std::uint32_t j = 0; j < experts.top_k; ++j) {
    if (experts.ids[j] >= shape_.gate.n_experts) continue;
    const float* direction = maps.expert_directions.data() + static_cast<std::size_t>(experts.ids[j]) * dim;
    for (std::uint32_t c = 0; c < dim; ++c) scratch.expert_mean[c] += direction[c];
    ++n;
  }
  const float factor = n == 0 ? 0.0F : static_cast<float>(spec_.expert_affinity) / sqrt_fixed(static_cast<float>(n));
  for (float& x : scratch.expert_mean) x *= factor;
}

void QkvGenerator::map_segment(const PlaneMap& map, const Segment& s, Scratch& scratch) const {
  const std::uint32_t first = s.begin % generate::block_tokens;
  scratch.block.fill(map, s.request, s.begin - first, first, first + s.n - 1);
  request_deviations(map, s.request, spec_.sequence_mix, scratch.deviation);
  scratch.latents.resize(static_cast<std::size_t>(s.n) * map.rank);
  for (std::uint32_t t = 0; t < s.n; ++t) {
    const float* x = scratch.block.row(first + t);
    for (std::uint32_t i = 0; i < map.rank; ++i) scratch.latents[static_cast<std::size_t>(t) * map.rank + i] = x[i] * scratch.deviation[i];
  }
  scratch.rows.resize(static_cast<std::size_t>(s.n) * map.n_columns);
  map_rows(scratch.latents.data(), map.rank, s.n, map.rank, map.weights.data(), map.n_columns, scratch.rows.data());
}

void QkvGenerator::make_keys(std::uint32_t layer, std::uint32_t head, const Segment& s, TokenExperts experts, float* k, std::size_t stride,
                             Scratch& scratch) const {
  const HeadMaps& maps = head_maps(layer, head);
  const bool token_sinks = has_token_sinks(layer);
  const std::uint32_t first = s.begin % generate::block_tokens;
  KeyRows::Block* block = KeyRows::find(kept_rows(layer, head, s.request), s.begin);
  const bool complete = block != nullptr && block->has(first, s.n);
  const std::uint32_t n_made = block != nullptr ? std::min(std::max(s.n, made_ahead), generate::block_tokens - first) : s.n;
  for (std::size_t p = 0; p < parts_.size(); ++p) {
    const Part& part = parts_[p];
    const PlaneMap& map = maps.parts[p];
    float* kept = block != nullptr ? block->rows.get() + first * key_rows_.width() + part.first_column : nullptr;
    if (!complete) {
      map_segment(map, {s.request, s.begin, n_made}, scratch);
      for (std::uint32_t t = 0; kept != nullptr && t < n_made; ++t)
        std::copy_n(scratch.rows.data() + static_cast<std::size_t>(t) * map.n_columns, map.n_columns, kept + t * key_rows_.width());
    }
    for (std::uint32_t t = 0; t < s.n; ++t) {
      float* out = k + t * stride + part.first_channel;
      const float* row = kept != nullptr ? kept + t * key_rows_.width() : scratch.rows.data() + static_cast<std::size_t>(t) * map.n_columns;
      const float* offset = map.offset.data();
#pragma omp simd
      for (std::uint32_t c = 0; c < map.dim; ++c) out[c] = row[c] + offset[c];
      if (p == 0 && experts.ids != nullptr) {
        expert_mean(maps, experts.from(t), scratch);
        for (std::uint32_t c = 0; c < map.dim; ++c) out[c] += map.gain[c] * scratch.expert_mean[c];
      }
      if (part.rotates) rotate(out, t, scratch);
      if (part.shape.plane == KvPlane::latent && token_sinks && s.begin + t < generate::sink_tokens) {
        for (std::uint32_t c = 0; c < map.dim; ++c) out[c] *= generate::sink_value_scale;  // V is the latent
      }
    }
  }
  if (block != nullptr && !complete) block->complete(first, n_made);
  for (std::uint32_t t = 0; token_sinks && t < s.n && s.begin + t < generate::sink_tokens; ++t) {
    k[t * stride + sink_channel_] += sink_key();
  }
}

void QkvGenerator::make_values(std::uint32_t layer, std::uint32_t head, const Segment& s, float* v, std::size_t stride, Scratch& scratch) const {
  const PlaneMap& map = head_maps(layer, head).value;
  map_segment(map, s, scratch);
  for (std::uint32_t t = 0; t < s.n; ++t) {
    float norm = generate::value_norm(map.latent_seed, s.request, s.begin + t, map.n_quads);
    if (has_token_sinks(layer) && s.begin + t < generate::sink_tokens) norm *= generate::sink_value_scale;
    const float* row = scratch.rows.data() + static_cast<std::size_t>(t) * map.n_columns;
    for (std::uint32_t c = 0; c < map.dim; ++c) v[t * stride + c] = row[c] * norm;
  }
}

/// One for each head.
void QkvGenerator::add_pieces(Piece piece) {
  if (spec_.expert_affinity == 0) piece.experts = {};
  for (piece.head = 0; piece.head < shape_.n_kv_heads; ++piece.head) pieces_.push_back(piece);
}

void QkvGenerator::cut_keys(const generate::RowRange& range, TokenExperts experts) {
  for (std::uint32_t position = range.begin; position < range.end;) {
    const std::uint32_t in_block = generate::block_tokens - position % generate::block_tokens;
    const std::size_t at = range.first_token + (position - range.begin);
    const Segment s{range.request, position, std::min(in_block, range.end - position)};
    add_pieces({s, 0, false, at, experts.from(at)});
    position += s.n;
  }
}

void QkvGenerator::make(std::uint32_t layer, const Piece& piece, float* k, float* v, float* q, Scratch& scratch) const {
  scratch.angles = angles_.of(piece.segment.begin, piece.segment.n, scratch.room_of_angles);
  const std::uint32_t head = piece.head;
  if (piece.queries) {
    make_queries(layer, head, piece.segment, piece.experts, q + piece.first * shape_.n_heads * shape_.d_k, scratch);
    return;
  }
  const std::size_t k_stride = static_cast<std::size_t>(shape_.n_kv_heads) * shape_.d_k;
  const std::size_t v_stride = static_cast<std::size_t>(shape_.n_kv_heads) * shape_.d_v;
  make_keys(layer, head, piece.segment, piece.experts, k + piece.first * k_stride + static_cast<std::size_t>(head) * shape_.d_k, k_stride, scratch);
  if (!shape_.mla())
    make_values(layer, head, piece.segment, v + piece.first * v_stride + static_cast<std::size_t>(head) * shape_.d_v, v_stride, scratch);
}

void QkvGenerator::rows(const ModelShape&, LayerId layer, TokenExperts experts, std::span<const generate::RowRange> ranges, float* k, float* v,
                        float* q) {
  key_rows_.begin_call();
  for (const generate::RowRange& range : ranges) {
    if (k == nullptr) break;
    key_rows_.make_room(range.request, static_cast<std::size_t>(layer.value) * shape_.n_kv_heads, shape_.n_kv_heads, range.begin, range.end);
  }
  make_rows(layer, experts, ranges, k, v, q);
}

void QkvGenerator::make_rows(LayerId layer, TokenExperts experts, std::span<const generate::RowRange> ranges, float* k, float* v, float* q) {
  make_maps(layer.value);
  pieces_.clear();
  for (const generate::RowRange& range : ranges) {
    angles_.keep(range.end);
    if (k != nullptr) cut_keys(range, experts);
  }
  make_pieces(layer.value, k, v, q);
  pieces_.clear();  // queries lean towards keys of this call too
  for (const generate::RowRange& range : ranges) {
    if (q != nullptr) cut_queries(range, experts);
  }
  make_pieces(layer.value, k, v, q);
}

void QkvGenerator::make_pieces(std::uint32_t layer, float* k, float* v, float* q) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads_) if (pieces_.size() > 1)
  for (const Piece& piece : pieces_) make(layer, piece, k, v, q, scratch_[static_cast<std::size_t>(omp_get_thread_num())]);
}

void QkvGenerator::keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* k, float* v) {
  const generate::RowRange range{r.value, begin, end, end, 0, 0};
  make_rows(layer, experts, {&range, 1}, k, v, nullptr);
}

void QkvGenerator::sink_logits(LayerId layer, float* out) { fill_sink_logits(spec_.seed, layer.value, shape_.n_heads, out); }

void GaussianQkv::fill(std::uint32_t kind, LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t width, float* out) {
  const std::uint64_t seed = hash_words(seed_, kind, layer.value);
  row_.resize((static_cast<std::size_t>(width) + 3) / 4 * 4);
  for (std::uint32_t t = begin; t < end; ++t, out += width) {
    draw_normal_row(seed, Stream::kv_latent, r.value, t, (width + 3) / 4, row_.data());
    std::copy_n(row_.data(), width, out);
  }
}

void GaussianQkv::keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* k, float* v) {
  fill(1, layer, r, begin, end, shape_.n_kv_heads * shape_.d_k, k);
  if (!shape_.mla()) fill(2, layer, r, begin, end, shape_.n_kv_heads * shape_.d_v, v);
}

void GaussianQkv::queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts, float* q) {
  fill(3, layer, r, begin, end, shape_.n_heads * shape_.d_k, q);
}

void GaussianQkv::sink_logits(LayerId layer, float* out) { fill_sink_logits(seed_, layer.value, shape_.n_heads, out); }

}  // namespace moekv
