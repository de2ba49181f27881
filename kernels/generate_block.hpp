// Rows of the q, k, v generator: a block draws the latents of up to generate_rows tokens, maps them together, and finishes each row. Sums run in the
// host's order, products and sums rounded apart, so that every value is the host's.
#pragma once

#include "launches.hpp"
#include "rules/generate.hpp"

namespace moekv::kernels {

/// Shared memory of generate_rows tokens: where their latents come from, norms of values, latents and rows.
[[nodiscard]] constexpr std::uint64_t generate_shared_bytes(std::uint32_t rank, std::uint32_t dim) {
  return std::uint64_t{generate_rows} * (2 + rank + dim) * sizeof(float);
}

template <class Block>
class GenerateSteps {
 public:
  MOEKV_HD GenerateSteps(Block& block, const GenerateLaunch& work)
      : block_(block),
        work_(work),
        item_(work.items[block.index()]),
        plan_(work.plans[item_.plan]),
        range_(work.ranges[item_.range]),
        plane_(work.planes[plan_.plane]),
        sources_(reinterpret_cast<std::uint32_t*>(block.shared())),
        norms_(reinterpret_cast<float*>(sources_ + generate_rows)),
        latents_(norms_ + generate_rows),
        rows_(latents_ + generate_rows * plane_.rank) {}

  MOEKV_HD void run() {
    block_.each([&](unsigned t) {
      if (t >= generate_rows) return;
      sources_[t] = source(t);
      if (plan_.kind == generate::RowKind::value) norms_[t] = norm(t);
    });
    draw();
    map();
    if (plan_.rotates) rotate();
    write();
  }

 private:
  [[nodiscard]] MOEKV_HD bool query() const { return plan_.kind == generate::RowKind::query; }
  [[nodiscard]] MOEKV_HD std::uint32_t position(std::uint32_t row) const { return (query() ? range_.query_begin : range_.begin) + item_.first + row; }
  /// The position whose latents a row is made of; no_target where it has none.
  [[nodiscard]] MOEKV_HD std::uint32_t source(std::uint32_t row) const {
    if (row >= item_.n) return generate::no_target;
    return query() ? generate::query_target(plan_.target_seed, range_.request, position(row), plan_.reach) : position(row);
  }

  /// What a row of V is multiplied by.
  [[nodiscard]] MOEKV_HD float norm(std::uint32_t row) const {
    const float own = generate::value_norm(plane_.latent_seed, range_.request, position(row), (plane_.rank + 3) / 4);
    return position(row) < generate::sink_tokens ? own * plan_.sink_scale : own;
  }

  MOEKV_HD void draw() {
    const std::uint32_t n_quads = (plane_.rank + 3) / 4;
    block_.each([&](unsigned t) {
      for (std::uint32_t k = t; k < generate_rows * n_quads; k += block_.n_threads()) {
        const std::uint32_t row = k / n_quads, j = k % n_quads, from = sources_[row];
        generate::NormalQuad quad{};
        if (from != generate::no_target) quad = generate::latent_quad(work_.nodes, plane_.latent_seed, range_.request, from, j);
        for (std::uint32_t part = 0; part < 4; ++part) {
          const std::uint32_t i = j + part * n_quads;
          if (i < plane_.rank) latents_[row * plane_.rank + i] = quad.v[part] * plane_.deviation[i];
        }
      }
    });
  }

  MOEKV_HD void map() {
    block_.each([&](unsigned t) {
      for (std::uint32_t c = t; c < plane_.dim; c += block_.n_threads()) {
        float sums[generate_rows] = {};
        for (std::uint32_t i = 0; i < plane_.rank; ++i) {
          const float weight = plane_.weights[std::uint64_t{i} * plane_.n_columns + c];
          for (std::uint32_t r = 0; r < generate_rows; ++r) sums[r] += weight * latents_[r * plane_.rank + i];
        }
        for (std::uint32_t r = 0; r < item_.n; ++r) rows_[r * plane_.dim + c] = finished(r, c, sums[r]);
      }
    });
  }

  /// A channel before RoPE.
  [[nodiscard]] MOEKV_HD float finished(std::uint32_t row, std::uint32_t c, float sum) const {
    if (plan_.kind == generate::RowKind::key) return sum + plane_.offset[c];
    if (plan_.kind == generate::RowKind::value) return sum;
    const float noise = generate::normal_component(plan_.noise_seed, Stream::query, range_.request, position(row), (plane_.dim + 3) / 4, c);
    return generate::query_value(sources_[row] != generate::no_target, noise, sum, plane_.gain[c], 0.0F, plan_.scale);
  }

  MOEKV_HD void rotate() {
    const std::uint32_t n_pairs = plane_.dim / 2;
    block_.each([&](unsigned t) {
      for (std::uint32_t k = t; k < item_.n * n_pairs; k += block_.n_threads()) {
        const std::uint32_t row = k / n_pairs, i = k % n_pairs;
        float* at = rows_ + row * plane_.dim + i;
        generate::rotate_pair(at[0], at[n_pairs], generate::rope_angle(position(row), work_.turns[i]));
      }
    });
  }

  MOEKV_HD void write() {
    const auto kind = static_cast<std::size_t>(plan_.kind);
    const std::uint64_t token = (query() ? range_.first_query : range_.first_token) + item_.first;
    float* out = work_.out[kind] + token * work_.width[kind] + plan_.first;
    block_.free_each([&](unsigned t) {
      for (std::uint32_t k = t; k < item_.n * plane_.dim; k += block_.n_threads()) {
        const std::uint32_t row = k / plane_.dim, c = k % plane_.dim;
        out[std::uint64_t{row} * work_.width[kind] + c] = with_sink(rows_[k], row, c);
      }
    });
  }

  [[nodiscard]] MOEKV_HD float with_sink(float x, std::uint32_t row, std::uint32_t c) const {
    if (query()) return c == plan_.sink_channel ? plan_.sink_value : x;
    if (plan_.kind == generate::RowKind::value) return x * norms_[row];
    if (position(row) >= generate::sink_tokens) return x;
    const float scaled = x * plan_.sink_scale;
    return c == plan_.sink_channel ? scaled + plan_.sink_value : scaled;
  }

  Block& block_;
  const GenerateLaunch& work_;
  const GenerateItem& item_;
  const generate::RowPlan& plan_;
  const generate::RowRange& range_;
  const generate::PlaneView& plane_;
  std::uint32_t* sources_;
  float *norms_, *latents_, *rows_;
};

template <class Block>
MOEKV_HD void generate_block(Block& block, const GenerateLaunch& work) {
  GenerateSteps<Block>(block, work).run();
}

}  // namespace moekv::kernels
