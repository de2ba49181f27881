// Summary numbers of a hand-made run against hand-computed values.
#include "engine/summarise.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "support/sample_run.hpp"

namespace moekv {
namespace {

class SummariseTest : public ::testing::Test {
 protected:
  void summarise_run(const RunSpec& spec, const RunOutcome& outcome) {
    by_name_.clear();
    for (const Summary& s : summarise(spec, outcome)) {
      EXPECT_TRUE(by_name_.emplace(s.name, s).second) << "twice: " << s.name;
      EXPECT_FALSE(s.definition.empty()) << s.name;
      EXPECT_FALSE(s.unit.empty()) << s.name;
    }
  }
  void SetUp() override { summarise_run(sample_spec(), sample_outcome()); }
  const Summary& at(const std::string& name) {
    const auto it = by_name_.find(name);
    if (it == by_name_.end()) ADD_FAILURE() << "no summary " << name;
    static const Summary missing;
    return it == by_name_.end() ? missing : it->second;
  }
  double value(const std::string& name) { return at(name).value; }

  std::map<std::string, Summary> by_name_;
};

TEST_F(SummariseTest, RatiosAreRatiosOfSums) {
  EXPECT_DOUBLE_EQ(value("hit_ratio"), 0.75);  // (80 + 70) / 200
  EXPECT_EQ(at("hit_ratio").numerator, 150);
  EXPECT_EQ(at("hit_ratio").denominator, 200);
  EXPECT_DOUBLE_EQ(value("miss_ratio"), 0.25);
  EXPECT_DOUBLE_EQ(value("byte_miss_ratio"), 0.25);
  EXPECT_DOUBLE_EQ(value("local_hit_ratio"), 0.5);
  EXPECT_DOUBLE_EQ(value("remote_hit_ratio"), 0.05);
  EXPECT_DOUBLE_EQ(value("read_amplification"), 1.5);
  EXPECT_DOUBLE_EQ(value("churn"), 0.25);
  EXPECT_DOUBLE_EQ(value("fanout"), 1.5);
  EXPECT_DOUBLE_EQ(value("dedup_factor"), 1.25);
  EXPECT_DOUBLE_EQ(value("cross_shard_switch_rate"), 50);
}

TEST_F(SummariseTest, ReuseAndTokens) {
  EXPECT_DOUBLE_EQ(value("token_hit_rate"), 0.75);
  EXPECT_DOUBLE_EQ(value("first_lookup_ratio"), 0.4);
  EXPECT_EQ(value("eviction_age_n"), 8);
  EXPECT_DOUBLE_EQ(value("eviction_age_mean"), 2.5);
  EXPECT_EQ(value("reuse_time_n"), 120);
  EXPECT_DOUBLE_EQ(value("reuse_time_mean"), 7);
  EXPECT_DOUBLE_EQ(value("reuse_distance_p50"), 10);  // of 40 samples of 1 and 80 that sum to 800, the 60th
  EXPECT_EQ(value("cross_shard_stores"), 4);
}

TEST_F(SummariseTest, Rates) {
  const ClusterModel network = sample_spec().cluster.network;
  EXPECT_DOUBLE_EQ(value("link_util_intra"), 320 / (200 * 2 * network.intra_node.bandwidth_gb_s));  // 200 ns, two ranks
  EXPECT_DOUBLE_EQ(value("link_util_inter"), 80 / (200 * 2 * network.inter_node.bandwidth_gb_s));
  EXPECT_EQ(at("link_util_inter").claim, ClaimClass::modelled);
  EXPECT_DOUBLE_EQ(value("bw_logical_local_in"), 500.0 / 100);  // 50 ns of dispatch and combine, two ranks
  EXPECT_DOUBLE_EQ(value("bw_logical_local_out"), 400.0 / 100);
  EXPECT_DOUBLE_EQ(value("bw_scale_out"), 0.8);
  EXPECT_DOUBLE_EQ(value("goodput_bytes"), 9600.0 / 19200);
  EXPECT_DOUBLE_EQ(value("codec_bw"), 80);  // 1280 bytes in 16 ns
  EXPECT_DOUBLE_EQ(value("hbm_frac_peak"), 50 / network.memory_bandwidth_gb_s);
  EXPECT_DOUBLE_EQ(value("overlap"), 0);
  EXPECT_DOUBLE_EQ(value("throughput_output_tokens_per_rank"), 4 / 19200e-9);
  EXPECT_DOUBLE_EQ(value("wait"), 20.0 / (2 * 128));
  EXPECT_DOUBLE_EQ(value("skew"), 20.0 / 128);
  EXPECT_EQ(value("critical_rank"), 1);
  EXPECT_DOUBLE_EQ(value("doubly_stochastic_distance"), 0.2);  // 240 and 160 bytes
  RunSpec spec = sample_spec();
  spec.backend = "count";
  summarise_run(spec, sample_outcome());
  EXPECT_EQ(by_name_.count("codec_bw"), 0u) << "no payload";
}

TEST_F(SummariseTest, LayersAndSkew) {
  EXPECT_DOUBLE_EQ(value("expert_imbalance_layer"), (5 * 4 / 7.0 + 5 * 4 / 9.0) / 2);  // loads 5 0 1 1 and 3 0 5 1
  EXPECT_DOUBLE_EQ(value("expert_imbalance_layer_max"), 20 / 7.0);
  EXPECT_TRUE(std::isnan(value("requested_skew")));
  RunSpec spec = sample_spec();
  spec.trace.synthetic.preset = "k_hot";
  spec.trace.synthetic.hot_experts = 2;
  spec.trace.synthetic.hot_share = 0.8;
  summarise_run(spec, sample_outcome());
  EXPECT_EQ(value("requested_skew"), 0.8);
  EXPECT_DOUBLE_EQ(value("realised_skew"), (6 / 7.0 + 8 / 9.0) / 2);
  spec.routing.rule = route::Topk{};
  summarise_run(spec, sample_outcome());
  EXPECT_EQ(by_name_.count("realised_skew"), 0u) << "another router chose";
}

TEST_F(SummariseTest, RequestsWithinBounds) {
  EXPECT_EQ(by_name_.count("slo_attainment"), 0u) << "no bound is stated";
  RunSpec spec = sample_spec();
  spec.metrics.slo_ttft_ms = 0.0008;
  summarise_run(spec, sample_outcome());
  EXPECT_DOUBLE_EQ(value("slo_attainment"), 0.5);  // first tokens after 900 and 700 ns; one request did not finish
  EXPECT_DOUBLE_EQ(value("goodput_req"), 1 / 19200e-9);
  EXPECT_DOUBLE_EQ(value("slo_attainment_model"), 0);
  spec.metrics = {};
  spec.metrics.slo_tpot_ms = 0.001;
  summarise_run(spec, sample_outcome());
  EXPECT_DOUBLE_EQ(value("slo_attainment"), 1);               // (4900 - 900) / 4, and a single token
  EXPECT_DOUBLE_EQ(value("goodput_req_model"), 2 / 5000e-9);  // from 0 to 5000 ns
}

TEST_F(SummariseTest, CountsAreSummedAndLevelsAreNot) {
  EXPECT_EQ(value("n_req"), 200);
  EXPECT_EQ(value("tokens"), 20);
  EXPECT_EQ(value("n_steps"), 128);
  EXPECT_EQ(value("kv_peak_bytes"), 1200);
  EXPECT_EQ(value("resident_entries"), 15);
  EXPECT_EQ(value("t_attend"), 80);
  EXPECT_EQ(by_name_.count("first_step"), 0u);
}

TEST_F(SummariseTest, Memory) {
  EXPECT_DOUBLE_EQ(value("sealed_fraction"), 0.4);
  EXPECT_DOUBLE_EQ(value("compression_factor"), 2.0);
  EXPECT_DOUBLE_EQ(value("page_compression_factor"), 2.4);
  EXPECT_DOUBLE_EQ(value("removed_fraction"), 1 - 1 / 2.4);
  EXPECT_DOUBLE_EQ(value("bits_per_element"), 16 / 2.4);    // bf16 payload
  EXPECT_DOUBLE_EQ(value("internal_frag"), 1 - 15.0 / 48);  // 3 pages of 16 slots
  EXPECT_DOUBLE_EQ(value("replication_factor"), 15.0 / 9);
  EXPECT_DOUBLE_EQ(value("pages_replicated"), 6.0 / 16);
  EXPECT_DOUBLE_EQ(value("external_frag"), 0.25);
  EXPECT_DOUBLE_EQ(value("evictable_fraction"), 0.4);
  EXPECT_DOUBLE_EQ(value("token_keep_fraction"), 0.45);
  EXPECT_EQ(value("kv_capacity_bytes"), 8192);
  EXPECT_DOUBLE_EQ(value("kv_usage"), 1200.0 / 8192);
}

TEST_F(SummariseTest, Traffic) {
  EXPECT_EQ(value("bytes_wire"), 400);
  EXPECT_DOUBLE_EQ(value("bytes_wire_per_token"), 20);
  EXPECT_DOUBLE_EQ(value("wire_over_hidden_state"), 0.5);
  EXPECT_EQ(value("bytes_sent_max"), 240);       // rank 0: 120 a window
  EXPECT_DOUBLE_EQ(value("algbw"), 240.0 / 50);  // 2 x (14 + 11) ns
  EXPECT_DOUBLE_EQ(value("busbw"), 120.0 / 50);
  EXPECT_DOUBLE_EQ(value("pair_imbalance"), 1.2);
}

TEST_F(SummariseTest, Times) {
  EXPECT_DOUBLE_EQ(value("share_attend"), 0.4);  // phases of a window sum to 100
  EXPECT_EQ(value("step_time_n"), 2);
  EXPECT_EQ(value("step_time_mean"), 150);
  EXPECT_EQ(value("step_time_p50"), 100);
  EXPECT_EQ(value("step_time_p90"), 200);
  EXPECT_TRUE(std::isnan(value("step_time_p99_9")));  // fewer than 1000 samples
  EXPECT_EQ(value("t_step_model"), 200);
  EXPECT_NE(at("t_step_model").definition.find("KV path only"), std::string::npos);
  EXPECT_EQ(at("t_step_model").claim, ClaimClass::modelled);
  EXPECT_DOUBLE_EQ(value("throughput_output_tokens"), 8 / 19200e-9);
  EXPECT_DOUBLE_EQ(value("hbm_bw"), 50);  // 800 bytes in 16 ns
  EXPECT_DOUBLE_EQ(value("useful_fraction"), 0.48);
}

TEST_F(SummariseTest, Requests) {
  EXPECT_EQ(value("n_requests"), 3);
  EXPECT_EQ(value("n_finished"), 2);
  EXPECT_EQ(value("kv_ttft_mean"), 800);
  EXPECT_EQ(value("kv_ttft_model_p99"), 2000);
  EXPECT_EQ(value("kv_tpot_n"), 1);        // one output token: undefined; not finished: undefined
  EXPECT_EQ(value("kv_tpot_mean"), 1000);  // (4900 - 900) / 4
  EXPECT_EQ(value("e2e_max"), 4900);
  EXPECT_EQ(value("ttst_n"), 1);
  EXPECT_EQ(value("ttst_model_mean"), 2500);
  EXPECT_EQ(value("kv_itl_mean"), 1000);
  EXPECT_EQ(value("kv_itl_p90"), 1200);
  EXPECT_EQ(value("queue_delay_model_n"), 2);
  EXPECT_EQ(value("queue_delay_model_min"), 10);
}

TEST_F(SummariseTest, BalanceOfEveryEntity) {
  EXPECT_DOUBLE_EQ(value("expert_imbalance_ratio"), 2);
  EXPECT_DOUBLE_EQ(value("expert_max_vio"), 1);
  EXPECT_DOUBLE_EQ(value("expert_imbalance_recorded"), 1);
  EXPECT_DOUBLE_EQ(value("expert_imbalance_gained"), -1);
  EXPECT_DOUBLE_EQ(value("expert_utilisation"), 0.75);
  EXPECT_DOUBLE_EQ(value("expert_gini"), 0.4375);
  EXPECT_DOUBLE_EQ(value("expert_jain"), 16 * 16 / (4 * 4 * 26.0));  // loads 8 0 6 2
  EXPECT_DOUBLE_EQ(value("expert_dispersion"), 2.5);                 // variance 10 over mean 4
  EXPECT_DOUBLE_EQ(value("expert_imbalance_window"), 2);
  EXPECT_DOUBLE_EQ(value("expert_imbalance_temporal"), 1);
  EXPECT_DOUBLE_EQ(value("expert_hot_overlap"), 1);
  EXPECT_DOUBLE_EQ(value("shard_imbalance_ratio"), 4.0 / 3);
  EXPECT_DOUBLE_EQ(value("rank_min_ratio"), 2.0 / 3);
  EXPECT_DOUBLE_EQ(value("lost_time_imbalance"), 1.0 / 3);  // (60 - 40) / 60
  EXPECT_DOUBLE_EQ(value("rank_memory_imbalance"), 700.0 / 600);
  EXPECT_EQ(value("node_entropy_norm"), 0);
  EXPECT_EQ(value("node_imbalance_ratio"), 1);
}

TEST_F(SummariseTest, WindowsThatDifferShowTemporalImbalance) {
  RunOutcome out = sample_outcome();
  for (LoadRecord& l : out.loads) {
    if (l.entity == 0) l.load = (l.index == 0) == (l.first_step == 0) && l.index < 2 ? 8 : 0;  // expert 0, then expert 1
  }
  summarise_run(sample_spec(), out);
  EXPECT_DOUBLE_EQ(value("expert_imbalance_ratio"), 2);
  EXPECT_DOUBLE_EQ(value("expert_imbalance_window"), 4);
  EXPECT_DOUBLE_EQ(value("expert_imbalance_temporal"), 2);
  EXPECT_DOUBLE_EQ(value("expert_hot_overlap"), 0);
  EXPECT_DOUBLE_EQ(value("expert_load_divergence"), std::log(2));
}

TEST_F(SummariseTest, Fidelity) {
  EXPECT_EQ(value("n_probes"), 2);
  EXPECT_DOUBLE_EQ(value("attn_out_err_mean"), 0.5);
  EXPECT_DOUBLE_EQ(value("attn_mass_kept_min"), 0.5);
  EXPECT_DOUBLE_EQ(value("topk_recall_p50"), 0.5);
  RunOutcome out = sample_outcome();
  out.probes[0].attn_out_err = std::nan("");
  summarise_run(sample_spec(), out);
  EXPECT_DOUBLE_EQ(value("attn_out_err_mean"), 0.75);
  EXPECT_EQ(value("attn_out_err_n"), 1);
}

TEST_F(SummariseTest, WarmUpIsLeftOutAndCounted) {
  RunSpec spec = sample_spec();
  spec.metrics.warmup_steps = 10;  // the window of step 0 begins before
  summarise_run(spec, sample_outcome());
  EXPECT_DOUBLE_EQ(value("hit_ratio"), 0.7);
  EXPECT_DOUBLE_EQ(value("hit_ratio_cold"), 0.75);
  EXPECT_EQ(value("n_warmup_req"), 100);
  EXPECT_EQ(value("tokens"), 10);
}

TEST_F(SummariseTest, AnEmptyRunHasNoNumbersButNoCrash) {
  summarise_run(sample_spec(), RunOutcome{});
  EXPECT_TRUE(std::isnan(value("hit_ratio")));
  EXPECT_TRUE(std::isnan(value("step_time_p50")));
  EXPECT_EQ(value("tokens"), 0);
}

}  // namespace
}  // namespace moekv
