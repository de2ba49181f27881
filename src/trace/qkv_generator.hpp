// QkvGenerator: synthetic q, k, v with the statistics of trained models (presets A, B, C and the MLA latent form).
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "trace/generator_tables.hpp"
#include "trace/key_rows.hpp"
#include "trace/latent_block.hpp"
#include "trace/qkv.hpp"
#include "trace/rope_angles.hpp"

namespace moekv {

/// Keys are gain * (R^T x) + offset per head with AR(1) latents x, rotated (RoPE) in the part that rotates; queries are noise plus a
/// component along a random earlier key, whitened by the key's gains and scaled to a logit deviation of generate::logit_std.
/// The sink channel is set after RoPE, so a sink token's logit does not depend on theta or distance.
class QkvGenerator final : public QkvSource {
 public:
  QkvGenerator(GeneratorSpec spec, ModelShape shape, int n_threads, std::shared_ptr<KeptBytes> kept);
  /// Keeps nothing for later calls.
  void keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* k, float* v) override;
  void queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* q) override;
  /// Its threads share the pieces of the ranges and their heads.
  void rows(const ModelShape& shape, LayerId layer, TokenExperts experts, std::span<const generate::RowRange> ranges, float* k, float* v,
            float* q) override;
  void sink_logits(LayerId layer, float* out) override;
  bool list_rows(LayerId layer, TokenExperts experts, RowList& list) override;

 private:
  /// A range of channels of a K row with its own map; MLA has two.
  struct Part {
    PlaneShape shape;
    std::uint32_t first_channel = 0;
    bool rotates = true;
    std::uint32_t first_column = 0;  // in the rows of keys that are kept
  };
  struct HeadMaps {
    std::vector<PlaneMap> parts;
    PlaneMap value;
    std::vector<float> expert_directions;  // [n_experts][dim of part 0]; empty without affinity
  };
  /// Positions [begin, begin + n) of one block.
  struct Segment {
    std::uint32_t request, begin, n;
  };
  /// What one thread makes at once: the keys and values, or the queries, of a head. `first` is the first position's place among all ranges;
  /// `experts` null without affinity.
  struct Piece {
    Segment segment;
    std::uint32_t head;
    bool queries;
    std::size_t first;
    TokenExperts experts;
  };
  /// Of one thread.
  struct Scratch {
    LatentBlock block;
    std::vector<CosSin> room_of_angles;
    const CosSin* angles = nullptr;  // [tokens of a segment][pairs]
    std::vector<float> deviation, latents, rows, noise, expert_mean, zeros;
    std::vector<std::uint32_t> targets;      // [tokens][group]
    std::vector<const float*> target_rows;   // [tokens][group], of one part
    std::vector<std::uint32_t> without_row;  // of the targets
  };

  /// Returns the width of a row that is kept.
  std::uint32_t set_parts();
  /// Makes what is missing of the maps of a layer's heads.
  void make_maps(std::uint32_t layer);
  [[nodiscard]] std::unique_ptr<HeadMaps> make_head_maps(std::uint32_t layer, std::uint32_t head) const;
  [[nodiscard]] const HeadMaps& head_maps(std::uint32_t layer, std::uint32_t head) const {
    return *heads_[static_cast<std::size_t>(layer) * shape_.n_kv_heads + head];
  }
  [[nodiscard]] bool has_token_sinks(std::uint32_t layer) const { return !shape_.layers[layer].sinks; }
  /// What a sink token's key has more in the sink channel.
  [[nodiscard]] float sink_key() const { return generate::sink_logit / (generate::sink_query * attention_scale_); }
  /// Seeds of a query head: of its targets, and of the noise of one part.
  [[nodiscard]] std::uint64_t head_seed(std::uint32_t layer, std::uint32_t head) const;
  [[nodiscard]] std::uint64_t noise_seed(std::uint32_t layer, std::uint32_t head, std::uint32_t part) const;
  /// How many positions before it a query's target may lie.
  [[nodiscard]] std::uint32_t target_reach(std::uint32_t layer) const;
  void list_head(std::uint32_t layer, std::uint32_t kv_head, RowList& list);
  void cut_keys(const generate::RowRange& range, TokenExperts experts);
  void cut_queries(const generate::RowRange& range, TokenExperts experts);
  void add_pieces(Piece piece);
  /// Rows of `rows`, without room for them to be kept.
  void make_rows(LayerId layer, TokenExperts experts, std::span<const generate::RowRange> ranges, float* k, float* v, float* q);
  /// All pieces, by all threads.
  void make_pieces(std::uint32_t layer, float* k, float* v, float* q);
  void make(std::uint32_t layer, const Piece& piece, float* k, float* v, float* q, Scratch& scratch) const;
  void rotate(float* row, std::uint32_t token, const Scratch& scratch) const;
  /// Fills scratch.rows [n][n_columns]: latents of the segment through the map, without offsets.
  void map_segment(const PlaneMap& map, const Segment& s, Scratch& scratch) const;
  void make_keys(std::uint32_t layer, std::uint32_t head, const Segment& s, TokenExperts experts, float* k, std::size_t stride,
                 Scratch& scratch) const;
  void make_values(std::uint32_t layer, std::uint32_t head, const Segment& s, float* v, std::size_t stride, Scratch& scratch) const;
  /// Fills scratch.target_rows: centred keys of the targets before RoPE.
  void gather_targets(std::uint32_t layer, std::uint32_t kv_head, const Part& part, const PlaneMap& map, std::uint32_t request,
                      Scratch& scratch) const;
  [[nodiscard]] std::span<const std::unique_ptr<KeyRows::Block>> kept_rows(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t request) const {
    return key_rows_.blocks(request, static_cast<std::size_t>(layer) * shape_.n_kv_heads + kv_head);
  }
  void make_queries(std::uint32_t layer, std::uint32_t kv_head, const Segment& s, TokenExperts experts, float* q, Scratch& scratch) const;
  void write_query_part(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t part, const Segment& s, TokenExperts experts, float* q,
                        Scratch& scratch) const;
  void expert_mean(const HeadMaps& maps, TokenExperts experts, Scratch& scratch) const;
  void calibrate();
  [[nodiscard]] double sampled_logit_deviation() const;

  GeneratorSpec spec_;
  ModelShape shape_;
  float attention_scale_;
  float query_scale_ = 1.0F;
  std::vector<Part> parts_;
  PlaneShape value_shape_;
  std::uint32_t sink_channel_ = 0;                // of a K row
  RopeAngles angles_;                             // of the rotating part
  std::vector<std::unique_ptr<HeadMaps>> heads_;  // [layer][kv head], made when first used
  int n_threads_;
  KeyRows key_rows_;

  // Of one call.
  std::vector<Piece> pieces_;
  std::vector<Scratch> scratch_;  // [thread]
};

/// Preset D: every value N(0, 1), independent; for closed-form checks.
class GaussianQkv final : public QkvSource {
 public:
  GaussianQkv(const GeneratorSpec& spec, ModelShape shape) : seed_(spec.seed), shape_(std::move(shape)) {}
  /// Keeps nothing for later calls.
  void keys_values(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* k, float* v) override;
  void queries(LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, TokenExperts experts, float* q) override;
  void sink_logits(LayerId layer, float* out) override;

 private:
  void fill(std::uint32_t kind, LayerId layer, RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t width, float* out);

  std::uint64_t seed_;
  ModelShape shape_;
  std::vector<float> row_;
};

}  // namespace moekv
