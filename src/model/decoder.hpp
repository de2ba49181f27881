// Decoder: the forward pass of a model in the loop, layer by layer and without its attention, which the sharded caches answer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/gemm.hpp"
#include "model/model_file.hpp"

namespace moekv {

/// cos and sin of the rotary angles of some tokens, [tokens][rope_dim / 2].
struct RopeAngles {
  std::vector<float> cos, sin;
};

/// Attention inputs, token-major: q [tokens][n_heads][head_dim], k and v [tokens][n_kv_heads][head_dim]; RoPE is applied.
struct AttentionInputs {
  std::vector<float>&q, &k, &v;
};

/// What the gate says of some tokens: logits [tokens][n_experts], its choice ids [tokens][top_k] and weights.
struct GateOutput {
  std::vector<float> logits;
  std::vector<std::uint16_t> ids;
  std::vector<float> weights;
};

/// Results of a token depend neither on the other tokens of a call nor on threads. Not thread-safe. Residual streams `x` are [tokens][hidden].
class Decoder {
 public:
  /// Reads all weights, whose products `gemm` computes. Throws UserError.
  explicit Decoder(const ModelFile& file, std::unique_ptr<Gemm> gemm = make_host_gemm());

  [[nodiscard]] const DecoderSpec& spec() const { return spec_; }
  /// Learned sink logits [n_heads]; empty without.
  [[nodiscard]] const std::vector<float>& sinks(std::uint32_t layer) const { return layers_[layer].sinks; }
  [[nodiscard]] RopeAngles angles(std::span<const std::uint32_t> positions) const;

  void embed(std::span<const std::uint32_t> tokens, std::vector<float>& x) const;
  void attention_inputs(std::uint32_t layer, std::span<const float> x, const RopeAngles& angles, AttentionInputs out) const;
  /// x += W_o o, with o [tokens][n_heads][head_dim].
  void add_attention(std::uint32_t layer, std::span<const float> o, std::span<float> x) const;
  /// Input h of the FFN of a layer.
  void ffn_input(std::uint32_t layer, std::span<const float> x, std::vector<float>& h) const;
  void gate(std::uint32_t layer, std::span<const float> h, GateOutput& out) const;
  /// x += the experts `ids` with `weights`, [tokens][top_k] (ExpertId::invalid = none), and the shared experts.
  void add_experts(std::uint32_t layer, std::span<const float> h, std::span<const std::uint16_t> ids, std::span<const float> weights,
                   std::span<float> x) const;
  void add_dense(std::uint32_t layer, std::span<const float> h, std::span<float> x) const;
  /// Next-token logits [tokens][vocab].
  void head(std::span<const float> x, std::vector<float>& logits) const;

 private:
  /// One FFN, or E of them one after the other.
  struct Ffn {
    Tensor gate, up, down;
    std::vector<float> gate_bias, up_bias, down_bias;  // empty without
    [[nodiscard]] std::uint32_t width() const { return static_cast<std::uint32_t>(gate.dims[gate.dims.size() - 2]); }
  };
  struct Layer {
    std::vector<float> attention_norm, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, sinks, ffn_norm, router_bias, choice_bias, shared_router;
    Tensor q, k, v, o, router;
    Ffn experts, shared, dense;
  };

  void make_frequencies();
  void turn(std::vector<float>& rows, std::uint32_t n_heads, const RopeAngles& angles) const;
  void project(const Tensor& w, const std::vector<float>& bias, std::span<const float> h, std::vector<float>& out) const;
  void norm_heads(const std::vector<float>& weight, std::uint32_t n_heads, std::vector<float>& rows) const;
  void choose(const Layer& layer, const float* logits, std::uint16_t* ids, float* weights) const;
  /// y = FFN number e of `ffn` on h [n][hidden].
  void run_ffn(const Ffn& ffn, std::uint32_t e, std::span<const float> h, std::vector<float>& y) const;
  [[nodiscard]] std::uint32_t count(std::span<const float> x) const { return static_cast<std::uint32_t>(x.size() / spec_.hidden); }

  DecoderSpec spec_;
  std::unique_ptr<Gemm> gemm_;
  Tensor embed_, head_;
  std::vector<float> norm_;
  std::vector<Layer> layers_;
  std::vector<double> frequencies_;  // [rope_dim / 2]
  double rope_scale_ = 1;
};

}  // namespace moekv
