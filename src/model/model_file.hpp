// The model file: what a decoder computes, and its weights. configs/models/README.md describes the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/model_shape.hpp"
#include "io/hdf5.hpp"
#include "rules/codec/format.hpp"

namespace moekv {

inline constexpr int model_format_version = 1;

enum class RopeStyle : std::uint8_t { none, half, interleaved };
enum class Activation : std::uint8_t { swiglu, swiglu_clamped };

struct RopeSpec {
  RopeStyle style = RopeStyle::none;
  double theta = 10000.0;
  std::uint32_t dim = 0;   // channels of a head that turn
  double yarn_factor = 0;  // 0 = no YaRN
  std::uint32_t yarn_original_tokens = 0;
  double yarn_beta_fast = 32, yarn_beta_slow = 1, yarn_attention_factor = 0;
  bool yarn_truncate = true;
};

struct DecoderLayer {
  std::uint32_t window_tokens = 0;  // 0 = full attention
  bool rope = true, sinks = false, moe = false;
};

/// What a decoder computes, apart from its weights.
struct DecoderSpec {
  std::string name;
  std::uint32_t hidden = 0, vocab = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0, max_positions = 0;
  double norm_eps = 0, attention_scale = 0;
  RopeSpec rope;
  GateShape gate;
  bool weight_on_input = false;  // an expert's weight multiplies its input
  Activation activation = Activation::swiglu;
  double swiglu_alpha = 1.702, swiglu_limit = 7;
  std::vector<DecoderLayer> layers;
};

/// The shape that the caches and the routing see; `path` is kept in it.
[[nodiscard]] ModelShape shape_of(const DecoderSpec& spec, const std::string& path);

/// Values of a dataset in their stored type, row-major.
struct Tensor {
  h5::Dims dims;
  ElementFormat type = ElementFormat::fp32;
  std::vector<std::byte> data;

  [[nodiscard]] bool empty() const { return data.empty(); }
  /// All values as fp32.
  [[nodiscard]] std::vector<float> values() const;
};

/// An open model file whose attributes, names, types and shapes were checked.
class ModelFile {
 public:
  /// Throws UserError with every problem of the file.
  explicit ModelFile(const std::string& path);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const DecoderSpec& spec() const { return spec_; }
  [[nodiscard]] bool has(const std::string& name) const { return dims_.contains(name); }
  /// Bytes of all weights.
  [[nodiscard]] std::uint64_t weight_bytes() const { return weight_bytes_; }
  /// Reads a dataset; empty for an optional one that is not there. Throws UserError where a value is not finite.
  [[nodiscard]] Tensor read(const std::string& name) const;

 private:
  std::string path_;
  h5::File file_;
  DecoderSpec spec_;
  std::map<std::string, h5::Dims> dims_;  // of every dataset of the file
  std::uint64_t weight_bytes_ = 0;
};

}  // namespace moekv
