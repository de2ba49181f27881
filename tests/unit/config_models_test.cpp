// The model and cluster files of configs/: each is readable, has the KV bytes that published tables give, and agrees with the model's own
// config.json.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "config/library.hpp"
#include "config/reader.hpp"

namespace moekv {
namespace {

using nlohmann::json;

RunSpec read_with(const std::string& model, const std::string& network) {
  const auto path = std::filesystem::temp_directory_path() / ("moekv_models_test_" + std::to_string(::getpid()) + ".yaml");
  std::ofstream(path) << "model: " << model << "\ntrace: {synthetic: {}}\ncluster: {network: " << network << "}\n";
  RunSpec spec = read_run_spec(path.string());
  std::filesystem::remove(path);
  return spec;
}
ModelShape shape_of(const std::string& model) { return read_with(model, "h200-ndr400").model; }

double kv_kib_per_token(const ModelShape& m) {
  const auto holding = std::count_if(m.layers.begin(), m.layers.end(), [](const LayerShape& l) { return l.attention != AttentionKind::none; });
  return static_cast<double>(holding) * m.n_kv_heads * m.values_per_entry_head() * 2 / 1024.0;
}

struct Published {
  const char* name;
  double kv_kib;  // bf16, all layers that hold KV
  int moe_layers;
};
class Model : public ::testing::TestWithParam<Published> {};

TEST_P(Model, HoldsThePublishedBytesPerToken) {
  const ModelShape m = shape_of(GetParam().name);
  EXPECT_EQ(m.name, GetParam().name);
  EXPECT_NEAR(kv_kib_per_token(m), GetParam().kv_kib, 0.05);
  EXPECT_EQ(std::count_if(m.layers.begin(), m.layers.end(), [](const LayerShape& l) { return l.moe; }), GetParam().moe_layers);
}
INSTANTIATE_TEST_SUITE_P(Table, Model,
                         ::testing::Values(Published{"mixtral-8x7b", 128, 32}, Published{"mixtral-8x22b", 224, 56}, Published{"olmoe-1b-7b", 128, 16},
                                           Published{"phi-3.5-moe", 128, 32}, Published{"qwen1.5-moe-a2.7b", 192, 24},
                                           Published{"deepseek-v2-lite", 30.4, 26}, Published{"deepseek-v3", 68.6, 58},
                                           Published{"kimi-k2", 68.6, 60}, Published{"qwen3-30b-a3b", 96, 48}, Published{"qwen3-235b-a22b", 188, 94},
                                           Published{"qwen3.5-35b-a3b", 20, 40}, Published{"gpt-oss-20b", 48, 24}, Published{"gpt-oss-120b", 72, 36},
                                           Published{"glm-4.5-air", 184, 45}, Published{"glm-5", 87.75, 75}, Published{"llama-4-scout", 192, 48},
                                           Published{"llama-4-maverick", 192, 24}, Published{"minimax-m2.5", 248, 62}, Published{"tinymoe", 1, 4}));

TEST(Models, EveryFileIsInTheTable) { EXPECT_EQ(library_names("models", MOEKV_SOURCE_DIR "/configs").size(), 19U); }

struct Origin {
  const char* name;
  const char* file;
};
class HuggingFace : public ::testing::TestWithParam<Origin> {};

json config_of(const char* file) {
  const char* set = std::getenv("MOEKV_SHARED");
  const std::filesystem::path shared = set != nullptr ? std::filesystem::path(set) : std::filesystem::path(MOEKV_SOURCE_DIR) / ".." / "shared";
  std::ifstream in(shared / "traces" / "models" / (std::string(file) + ".config.json"));
  if (!in) return {};
  json config = json::parse(in);
  return config.contains("text_config") ? config["text_config"] : config;
}

/// 1/sqrt of the unabsorbed key width, times the square of YaRN's factor where the config has one.
double mla_scale(const json& c) {
  double scale = 1.0 / std::sqrt(c.at("qk_nope_head_dim").get<double>() + c.at("qk_rope_head_dim").get<double>());
  if (c.contains("rope_scaling") && c["rope_scaling"].is_object()) {
    const double m = 0.1 * c["rope_scaling"].at("mscale_all_dim").get<double>() * std::log(c["rope_scaling"].at("factor").get<double>()) + 1;
    scale *= m * m;
  }
  return scale;
}

void compare_attention(const ModelShape& m, const json& c) {
  EXPECT_EQ(m.n_layers(), c.at("num_hidden_layers").get<std::uint32_t>());
  EXPECT_EQ(m.hidden, c.at("hidden_size").get<std::uint32_t>());
  EXPECT_EQ(m.n_heads, c.at("num_attention_heads").get<std::uint32_t>());
  const json theta = c.contains("rope_theta") ? c["rope_theta"] : c.at("rope_parameters").at("rope_theta");
  EXPECT_EQ(m.rope_theta, theta.get<double>());
  if (c.contains("kv_lora_rank")) {
    EXPECT_EQ(m.latent.d_c, c["kv_lora_rank"].get<std::uint32_t>());
    EXPECT_EQ(m.latent.d_rope, c["qk_rope_head_dim"].get<std::uint32_t>());
    EXPECT_EQ(m.n_kv_heads, 1U);
    EXPECT_NEAR(m.softmax_scale, mla_scale(c), 1e-8);
    return;
  }
  EXPECT_EQ(m.n_kv_heads, c.at("num_key_value_heads").get<std::uint32_t>());
  const std::uint32_t head_dim = c.contains("head_dim") ? c["head_dim"].get<std::uint32_t>() : m.hidden / m.n_heads;
  EXPECT_EQ(m.d_k, head_dim);
  EXPECT_EQ(m.d_v, head_dim);
}

void compare_layers(const ModelShape& m, const json& c) {
  const int dense_first = c.value("first_k_dense_replace", 0), moe_every = c.value("interleave_moe_layer_step", 1);
  for (std::size_t l = 0; l < m.layers.size(); ++l) {
    EXPECT_EQ(m.layers[l].moe, static_cast<int>(l) >= dense_first && (static_cast<int>(l) + 1) % moe_every == 0) << l;
    const std::string type = c.contains("layer_types") ? c["layer_types"][l].get<std::string>() : "full_attention";
    const AttentionKind kind = type == "full_attention"      ? AttentionKind::full
                               : type == "sliding_attention" ? AttentionKind::window
                                                             : AttentionKind::none;
    EXPECT_EQ(m.layers[l].attention, kind) << l;
    if (kind == AttentionKind::window) {
      EXPECT_EQ(m.layers[l].window_tokens, c["sliding_window"].get<std::uint32_t>());
    }
    EXPECT_EQ(m.layers[l].sinks, c["model_type"] == "gpt_oss");
  }
}

void compare_gate(const GateShape& gate, const json& c) {
  for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    if (c.contains(key)) {
      EXPECT_EQ(gate.n_experts, c[key].get<std::uint32_t>());
    }
  }
  EXPECT_EQ(gate.top_k, c.at("num_experts_per_tok").get<std::uint32_t>());
  if (c.contains("n_shared_experts")) {
    EXPECT_EQ(gate.n_shared, c["n_shared_experts"].get<std::uint32_t>());
  }
  if (c.contains("scoring_func")) {
    EXPECT_EQ(gate.score, c["scoring_func"] == "sigmoid" ? ScoreFunction::sigmoid : ScoreFunction::softmax);
  }
  if (c.contains("norm_topk_prob")) {
    EXPECT_EQ(gate.renormalise, c["norm_topk_prob"].get<bool>());
  }
  EXPECT_FLOAT_EQ(gate.scale, c.value("routed_scaling_factor", 1.0F));
  EXPECT_EQ(gate.n_group, c.value("n_group", 1U));
  EXPECT_EQ(gate.topk_group, c.value("topk_group", 1U));
}

TEST_P(HuggingFace, AgreesWithItsConfigJson) {
  const json config = config_of(GetParam().file);
  if (config.is_null()) GTEST_SKIP() << "no " << GetParam().file << ".config.json (set MOEKV_SHARED)";
  const ModelShape m = shape_of(GetParam().name);
  compare_attention(m, config);
  compare_layers(m, config);
  compare_gate(m.gate, config);
}
INSTANTIATE_TEST_SUITE_P(Files, HuggingFace,
                         ::testing::Values(Origin{"mixtral-8x7b", "mistralai--Mixtral-8x7B-v0.1"},
                                           Origin{"mixtral-8x22b", "mistralai--Mixtral-8x22B-v0.1"}, Origin{"olmoe-1b-7b", "moe-lrc_olmoe"},
                                           Origin{"phi-3.5-moe", "moe-lrc_phi"}, Origin{"qwen1.5-moe-a2.7b", "moe-lrc_qwen"},
                                           Origin{"qwen3-30b-a3b", "Qwen--Qwen3-30B-A3B"}, Origin{"qwen3-235b-a22b", "Qwen--Qwen3-235B-A22B"},
                                           Origin{"qwen3.5-35b-a3b", "Qwen--Qwen3.5-35B-A3B"}, Origin{"gpt-oss-20b", "openai--gpt-oss-20b"},
                                           Origin{"gpt-oss-120b", "openai--gpt-oss-120b"}, Origin{"deepseek-v2-lite", "moe-lrc_deepseek2"},
                                           Origin{"deepseek-v3", "deepseek-ai--DeepSeek-V3"}, Origin{"kimi-k2", "moonshotai--Kimi-K2-Instruct"},
                                           Origin{"glm-5", "zai-org--GLM-5"}, Origin{"glm-4.5-air", "reap_glm4moe_air"},
                                           Origin{"minimax-m2.5", "MiniMaxAI--MiniMax-M2.5"},
                                           Origin{"llama-4-scout", "meta-llama--Llama-4-Scout-17B-16E-Instruct"},
                                           Origin{"llama-4-maverick", "meta-llama--Llama-4-Maverick-17B-128E-Instruct"}));

TEST(Clusters, AreReadableAndSourced) {
  for (const std::string& name : library_names("clusters", MOEKV_SOURCE_DIR "/configs")) {
    const ClusterModel network = read_with("tinymoe", name).cluster.network;
    EXPECT_EQ(network.name, name);
    EXPECT_GT(network.source.size(), 20U) << name;
  }
}

TEST(Clusters, BuiltInFiguresAreThoseOfTheFile) {
  const ClusterModel built_in, file = read_with("tinymoe", "h200-ndr400").cluster.network;
  EXPECT_EQ(built_in.ranks_per_node, file.ranks_per_node);
  EXPECT_EQ(built_in.intra_node.alpha_us, file.intra_node.alpha_us);
  EXPECT_EQ(built_in.intra_node.bandwidth_gb_s, file.intra_node.bandwidth_gb_s);
  EXPECT_EQ(built_in.inter_node.alpha_us, file.inter_node.alpha_us);
  EXPECT_EQ(built_in.inter_node.bandwidth_gb_s, file.inter_node.bandwidth_gb_s);
  EXPECT_EQ(built_in.host_link.alpha_us, file.host_link.alpha_us);
  EXPECT_EQ(built_in.host_link.bandwidth_gb_s, file.host_link.bandwidth_gb_s);
  EXPECT_EQ(built_in.memory_bandwidth_gb_s, file.memory_bandwidth_gb_s);
}

}  // namespace
}  // namespace moekv
