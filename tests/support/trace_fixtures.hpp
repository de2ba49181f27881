// Small native traces for tests: random routing, optional logits and q, k, v, every value a pure function of (seed, request, position).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "core/rng.hpp"
#include "io/hdf5.hpp"
#include "trace/writer.hpp"

namespace moekv {

enum class FixtureKv : std::uint8_t { none, gqa, mla };

struct FixtureSpec {
  std::uint32_t n_experts = 8;
  std::uint32_t top_k = 2;
  std::vector<std::uint16_t> moe_layers = {0, 1};
  std::uint32_t n_layers = 2;                                                                         // of the model
  std::vector<std::pair<std::uint32_t, std::uint32_t>> lengths = {{5, 3}, {1, 12}, {20, 0}, {7, 9}};  // prompt, output tokens of each request
  RoutingLevel level = RoutingLevel::weights;
  std::uint32_t n_candidates = 4;
  FixtureKv kv = FixtureKv::none;
  KvType kv_type = KvType::fp16;
  std::uint64_t seed = 1;
  std::uint32_t block_tokens = 3;  // rows per append
};

/// gqa: 4 query and 2 KV heads of 16; mla: 4 query heads over a latent of 24 + 8.
[[nodiscard]] inline ModelShape fixture_shape(const FixtureSpec& spec) {
  ModelShape s;
  s.name = "fixture";
  s.layers.assign(spec.n_layers, LayerShape{.moe = false});
  for (const auto l : spec.moe_layers) s.layers[l].moe = true;
  s.hidden = 64;
  s.n_heads = 4;
  s.n_kv_heads = spec.kv == FixtureKv::mla ? 1 : 2;
  s.d_k = spec.kv == FixtureKv::mla ? 32 : 16;
  s.d_v = spec.kv == FixtureKv::mla ? 24 : 16;
  if (spec.kv == FixtureKv::mla) s.latent = {24, 8};
  s.gate.n_experts = spec.n_experts;
  s.gate.top_k = spec.top_k;
  return s;
}

[[nodiscard]] inline WriterSpec fixture_writer(const FixtureSpec& spec) {
  WriterSpec w;
  w.info.model_name = "fixture";
  w.info.workload = "random";
  w.info.source = "tests";
  w.info.level = spec.level;
  w.info.n_experts = spec.n_experts;
  w.info.top_k = spec.top_k;
  w.info.n_candidates = spec.level == RoutingLevel::candidates ? spec.n_candidates : 0;
  w.info.moe_layers = spec.moe_layers;
  w.info.shape = fixture_shape(spec);
  if (spec.kv != FixtureKv::none) {
    for (std::uint32_t l = 0; l < spec.n_layers; ++l) w.info.kv_layers.push_back(static_cast<std::uint16_t>(l));
  }
  w.weight_kind = spec.level == RoutingLevel::ids ? WeightKind::none : WeightKind::renorm;
  w.generator = "trace_fixtures";
  w.created_utc = "2024-01-01T00:00:00Z";
  w.has_token_ids = true;
  w.kv_type = spec.kv_type;
  return w;
}

/// A multiple of 1/64 in [-2, 2): exact in fp16 and bf16.
[[nodiscard]] inline float fixture_value(std::uint64_t hash) { return (static_cast<float>(hash >> 56) - 128.0F) / 64.0F; }

/// The rows of request r, positions [begin, end), as the writer takes them. Experts are the top_k of random logits.
[[nodiscard]] inline TokenBlock fixture_block(const FixtureSpec& spec, std::uint32_t r, std::uint32_t begin, std::uint32_t end) {
  const ModelShape shape = fixture_shape(spec);
  TokenBlock b;
  b.n_tokens = end - begin;
  std::vector<float> logits(spec.n_experts);
  std::vector<std::uint16_t> order(spec.n_experts);
  for (std::uint32_t t = begin; t < end; ++t) {
    b.token_ids.push_back(static_cast<std::int32_t>(hash_words(spec.seed, 1, r, t) % 50000));
    for (const auto layer : spec.moe_layers) {
      for (std::uint32_t e = 0; e < spec.n_experts; ++e) logits[e] = fixture_value(hash_words(spec.seed, 2, r, t, layer, e));
      std::iota(order.begin(), order.end(), std::uint16_t{0});
      std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return logits[i] > logits[j]; });
      b.ids.insert(b.ids.end(), order.begin(), order.begin() + spec.top_k);
      float chosen = 0.0F;
      float all = 0.0F;
      for (std::uint32_t i = 0; i < spec.n_experts; ++i) (i < spec.top_k ? chosen : all) += std::exp(logits[order[i]]);
      all += chosen;
      if (spec.level >= RoutingLevel::weights) {
        for (std::uint32_t i = 0; i < spec.top_k; ++i) b.weights.push_back(std::exp(logits[order[i]]) / chosen);
      }
      if (spec.level == RoutingLevel::candidates) {
        b.cand_ids.insert(b.cand_ids.end(), order.begin(), order.begin() + spec.n_candidates);
        for (std::uint32_t i = 0; i < spec.n_candidates; ++i) b.cand_logit.push_back(logits[order[i]]);
        b.lse.push_back(std::log(all));
      }
      if (spec.level == RoutingLevel::logits) b.logits.insert(b.logits.end(), logits.begin(), logits.end());
    }
    if (spec.kv == FixtureKv::none) continue;
    const auto fill = [&](std::vector<float>& out, std::uint64_t kind, std::uint32_t layer, std::uint32_t n) {
      for (std::uint32_t i = 0; i < n; ++i) out.push_back(fixture_value(hash_words(spec.seed, kind, r, t, layer, i)));
    };
    for (std::uint32_t layer = 0; layer < spec.n_layers; ++layer) {
      fill(b.q, 3, layer, shape.n_heads * shape.d_k);
      fill(b.k, 4, layer, shape.n_kv_heads * shape.d_k);
      if (!shape.mla()) fill(b.v, 5, layer, shape.n_kv_heads * shape.d_v);
    }
  }
  return b;
}

/// Writes the trace; `edit` may change each block before it is appended.
inline void write_fixture(const std::string& path, const FixtureSpec& spec, const std::function<void(std::uint32_t r, TokenBlock&)>& edit = {}) {
  NativeWriter writer(path, fixture_writer(spec));
  for (std::uint32_t r = 0; r < spec.lengths.size(); ++r) {
    const auto [prompt, output] = spec.lengths[r];
    writer.begin_request(
        {.arrival_ns = 1000 * std::int64_t{r}, .prompt_tokens = prompt, .output_tokens = output, .session = static_cast<std::int32_t>(r)});
    for (std::uint32_t t = 0; t < prompt + output; t += spec.block_tokens) {
      TokenBlock block = fixture_block(spec, r, t, std::min(t + spec.block_tokens, prompt + output));
      if (edit) edit(r, block);
      writer.append(block);
    }
  }
  writer.finish();
}

namespace fixture_detail {

template <class T>
void permute_rows(h5::Dataset data, const std::vector<std::uint64_t>& source_row) {
  const std::vector<T> before = data.read<T>();
  std::vector<T> after(before.size());
  const std::uint64_t width = before.size() / source_row.size();
  for (std::uint64_t i = 0; i < source_row.size(); ++i)
    std::copy_n(before.begin() + static_cast<std::ptrdiff_t>(source_row[i] * width), width, after.begin() + static_cast<std::ptrdiff_t>(i * width));
  data.write_rows(0, std::span<const T>(after));
}

}  // namespace fixture_detail

/// Rewrites a fixture to order "step": the prompt of a request is one run, then the requests decode in turns.
inline void reorder_by_steps(const std::string& path, const FixtureSpec& spec) {
  std::vector<std::uint64_t> source_row;
  std::vector<std::uint32_t> request;
  std::vector<std::uint64_t> offset(1, 0);
  for (const auto& [prompt, output] : spec.lengths) offset.push_back(offset.back() + prompt + output);
  const auto add = [&](std::uint32_t r, std::uint32_t position) {
    source_row.push_back(offset[r] + position);
    request.push_back(r);
  };
  for (std::uint32_t step = 0; source_row.size() < offset.back(); ++step) {
    for (std::uint32_t r = 0; r < spec.lengths.size(); ++r) {
      const auto [prompt, output] = spec.lengths[r];
      if (step == r) {
        for (std::uint32_t t = 0; t < prompt; ++t) add(r, t);
      } else if (step > r && step - r <= output) {
        add(r, prompt + step - r - 1);
      }
    }
  }
  auto file = h5::File::open(path, h5::Access::update);
  for (const char* group : {"tokens", "routing", "kv"}) {
    if (!file.has(group)) continue;
    for (const auto& name : file.group(group).names()) {
      const auto data = [&] { return file.dataset(std::string(group) + "/" + name); };
      if (name == "layer_ids") continue;
      switch (data().type()) {
        case h5::Type::u8:
          fixture_detail::permute_rows<std::uint8_t>(data(), source_row);
          break;
        case h5::Type::u16:
          fixture_detail::permute_rows<std::uint16_t>(data(), source_row);
          break;
        case h5::Type::f16:
          fixture_detail::permute_rows<h5::Half>(data(), source_row);
          break;
        default:
          fixture_detail::permute_rows<std::uint32_t>(data(), source_row);
      }
    }
  }
  file.write("tokens/request", request);
  file.set("order", "step");
  file.close();
}

}  // namespace moekv
