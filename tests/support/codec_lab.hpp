// CodecLab: one head of generated q, k, v stored through a backend in a codec's pages, and the errors that this makes (compression.md 4.1).
#pragma once

#include <Eigen/Dense>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/backend.hpp"
#include "rules/codec/catalogue.hpp"

namespace moekv::test {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Keys and values [tokens][d] of one head, queries [n][d] at `positions`, each of which reads what is not after it.
struct HeadRows {
  Matrix k, v, q;
  std::vector<std::uint32_t> positions;
  double scale = 0;
  double rope_theta = 0;
  Matrix exact_logits, exact_attention, exact_out;
};

/// Rows `x` turned by the rotary embedding at positions 0, 1, ..., or back: channel i with i + d/2, by theta^(-2i/d) radians per position.
enum class Turn : std::uint8_t { forward, back };
[[nodiscard]] Matrix rotated(const Matrix& x, double theta, Turn turn);

/// Keys that are stored: as attention reads them, or as they were before the rotary embedding, which is applied to what the codec gives back.
enum class StoredKeys : std::uint8_t { post_rope, pre_rope };

/// Generated rows of preset `preset`; d_k = d_v = d.
[[nodiscard]] HeadRows generated_head(const std::string& preset, std::uint64_t seed, std::uint32_t d, std::uint32_t tokens, std::uint32_t n_queries);

/// What a codec did to a head.
struct CodecErrors {
  double rel_k = 0, rel_v = 0;
  double logit = 0;      // rms error of the logits less its mean, over their standard deviation
  double attention = 0;  // Frobenius norm of the attention matrix' error, relative
  double out = 0;        // relative error of attention outputs
  double fold = 0;       // the backend's outputs against attention over the stored values, relative
  std::int64_t allocated_bytes = 0;
  std::uint64_t stored_bytes = 0, code_bytes = 0, table_bytes = 0, raw_bytes = 0;
  std::vector<std::uint32_t> pages;  // of each class
};

/// Stores the head in pages of `slots` tokens (the first `raw_tokens` raw, the others sealed at once), reads it back and attends to it.
/// A role without codec stays in fp32. Keys of StoredKeys::pre_rope are attended to in fp32 pages, after they were decoded and rotated.
[[nodiscard]] CodecErrors measure_codec(const HeadRows& head, const Codec& k, const Codec& v, std::uint32_t slots, std::uint32_t raw_tokens = 0,
                                        StoredKeys keys = StoredKeys::post_rope);

}  // namespace moekv::test
