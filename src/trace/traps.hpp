// TrapDetector: recognises recordings that are not what they seem (routing.md section 2.2) while rows stream through.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/id.hpp"

namespace moekv {

/// Tokens in a row with one identical expert set from which they count as warm-up.
inline constexpr std::uint32_t warmup_run_tokens = 64;

/// Order-free signature of one token's expert sets over all layers; equal sets have equal signatures.
[[nodiscard]] std::uint64_t set_signature(const std::uint16_t* ids, std::uint32_t n_layers, std::uint32_t top_k);

/// Watches rows in order: warm-up runs, interleaved sequences, identical layers, unsorted slots, dead experts.
class TrapDetector {
 public:
  TrapDetector(std::vector<std::uint16_t> layers, std::uint32_t n_experts, std::uint32_t top_k);
  /// A new sequence: history for lags starts again.
  void begin_request() { n_history_ = 0; }
  /// One token: ids [layers][top_k] (ExpertId::invalid = absent) and weights of the same shape or null.
  void add(const std::uint16_t* ids, const float* weights);
  /// Sentences for the user, each naming what was seen and the option that helps.
  [[nodiscard]] std::vector<std::string> warnings() const;
  [[nodiscard]] std::vector<std::string> notes() const;
  /// Tokens inside runs of at least warmup_run_tokens.
  [[nodiscard]] std::uint64_t warmup_tokens() const { return warmup_tokens_ + (run_ >= warmup_run_tokens ? run_ : 0); }
  /// The lag whose reuse shows interleaving; 0 when none does.
  [[nodiscard]] std::uint32_t interleaving() const;

 private:
  static constexpr std::uint32_t max_lag = 64;
  void add_lags(const std::uint16_t* ids);

  std::vector<std::uint16_t> layers_;
  std::uint32_t n_experts_, top_k_, n_words_;
  std::vector<std::uint32_t> sampled_;  // layer columns whose lags are measured
  std::vector<std::uint64_t> history_;  // [max_lag + 1][sampled][words], a ring
  std::uint64_t n_history_ = 0, n_sampled_tokens_ = 0;
  std::array<std::uint64_t, max_lag + 1> shared_{}, compared_{};  // by lag: common experts, slots compared
  std::uint64_t signature_ = 0, run_ = 0, warmup_tokens_ = 0;
  std::vector<std::uint64_t> layer_hash_;
  std::vector<std::uint64_t> load_;  // [layers][experts]
  std::uint64_t n_tokens_ = 0, n_rows_ = 0, n_unsorted_ = 0;
};

}  // namespace moekv
