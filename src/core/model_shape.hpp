// The shape of a MoE decoder as far as its KV cache and routing need it. Filled from configs/models/*.yaml or from a trace.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moekv {

enum class AttentionKind : std::uint8_t { full, window, none };
enum class ScoreFunction : std::uint8_t { softmax, sigmoid, sqrtsoftplus };
/// `pre`: scores over all experts, then top-k; `post`: top-k of the logits, then scores over the chosen.
enum class ScoreOrder : std::uint8_t { pre, post };

struct LayerShape {
  AttentionKind attention = AttentionKind::full;
  std::uint32_t window_tokens = 0;  // > 0 only for AttentionKind::window: a query reads itself and window_tokens - 1 before it
  bool sinks = false;               // a learned logit per query head joins the softmax denominator (gpt-oss)
  bool moe = true;                  // false: dense FFN, no experts
};

/// Multi-head latent attention: one latent of d_c + d_rope values per token stands for all heads.
struct LatentShape {
  std::uint32_t d_c = 0;     // 0 = not MLA
  std::uint32_t d_rope = 0;
};

inline constexpr std::uint32_t most_experts = 896;  // of a layer, in traces and configurations

struct GateShape {
  std::uint32_t n_experts = 0;  // routed experts E, 1..most_experts
  std::uint32_t top_k = 0;      // 1..22
  std::uint32_t n_shared = 0;
  ScoreFunction score = ScoreFunction::softmax;
  ScoreOrder order = ScoreOrder::post;
  bool renormalise = true;      // weights of the chosen sum to 1 (before `scale`)
  float scale = 1.0F;           // routed_scaling_factor
  std::uint32_t n_group = 1;
  std::uint32_t topk_group = 1;
};

struct ModelShape {
  std::string name;
  std::string path;              // file with the weights of a model in the loop; empty: a shape only
  std::vector<LayerShape> layers;
  std::uint32_t hidden = 0;
  std::uint32_t n_heads = 0;     // query heads
  std::uint32_t n_kv_heads = 0;  // 1 for MLA (one latent head)
  std::uint32_t d_k = 0;         // values per K row and KV head: head_dim, or d_c + d_rope for MLA
  std::uint32_t d_v = 0;         // values per V row and KV head: head_dim, or d_c for MLA
  LatentShape latent;
  GateShape gate;
  double rope_theta = 10000.0;
  double softmax_scale = 0.0;    // logit scale; 0 = 1/sqrt(head dim of the unabsorbed key)

  [[nodiscard]] bool mla() const { return latent.d_c > 0; }
  [[nodiscard]] std::uint32_t n_layers() const { return static_cast<std::uint32_t>(layers.size()); }
  /// Query heads that share one KV head.
  [[nodiscard]] std::uint32_t group_size() const { return n_heads / n_kv_heads; }
  /// Values stored per entry and KV head: K and V, or the one latent plane of MLA (V is its first d_v channels).
  [[nodiscard]] std::uint32_t values_per_entry_head() const { return mla() ? d_k : d_k + d_v; }
};

}  // namespace moekv
