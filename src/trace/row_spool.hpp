// RowSpool: routing rows that arrive in any order (layer by layer, requests mixed) brought into canonical order on disk, not in memory.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/spool.hpp"
#include "trace/import_sink.hpp"
#include "trace/writer.hpp"

namespace moekv {

/// Rows of one (request, position, layer) each. Memory: a few words per (request, layer); disk: about twice the rows.
class RowSpool {
 public:
  /// n_logits = 0 when rows carry none.
  RowSpool(std::uint32_t top_k, std::uint32_t n_logits);
  /// ids [top_k]; weights [top_k] and logits [n_logits] may be null. A later row at the same place replaces the earlier.
  void add(std::uint32_t request, std::uint32_t position, std::uint16_t layer, const std::uint16_t* ids, const float* weights, const float* logits);
  /// Ends adding. A UserError at `place` when the rows would leave far more gaps than rows.
  void sort(const std::string& place);
  [[nodiscard]] const std::vector<std::uint16_t>& layers() const { return layers_; }  // ascending
  [[nodiscard]] std::uint32_t n_requests() const { return static_cast<std::uint32_t>(tokens_.size()); }
  [[nodiscard]] std::uint32_t tokens(std::uint32_t request) const { return tokens_[request]; }
  [[nodiscard]] std::uint64_t missing_rows() const { return n_slots_ - n_distinct_; }
  /// After `sort`: positions [begin, end), all layers; missing rows have absent experts and weight 0.
  void read(std::uint32_t request, std::uint32_t begin, std::uint32_t end, bool weights, TokenBlock& out) const;
  /// After `sort`: all requests to `sink`, which also hears of missing rows. `place` is named in its messages. `prompts` [requests]: their tokens
  /// that are prompt, the rest is output; empty: all are prompt. `complete` may add to each block what the rows do not hold.
  void hand_over(bool weights, std::uint16_t domain, const std::string& place, ImportSink& sink, std::span<const std::uint32_t> prompts = {},
                 const std::function<void(TokenBlock&)>& complete = {}) const;

 private:
  [[nodiscard]] std::size_t row_bytes() const {
    return std::size_t{top_k_} * (sizeof(std::uint16_t) + sizeof(float)) + std::size_t{n_logits_} * sizeof(float);
  }

  std::uint32_t top_k_, n_logits_;
  SpoolFile arrived_, ordered_;
  std::span<std::byte> rows_;
  std::vector<std::uint32_t> tokens_;       // by request
  std::vector<std::uint64_t> first_token_;  // by request
  std::vector<std::uint16_t> layers_;
  std::vector<bool> layer_seen_;
  std::uint64_t n_added_ = 0, n_slots_ = 0, n_distinct_ = 0;
  std::vector<std::byte> record_;
};

/// Turns the token counter of a log into positions. A counter that falls back to a smaller value begins another pass over the same
/// request (loggers count rows per forward pass); passes are appended.
class PassCounter {
 public:
  /// Position of a row of (request, layer) whose counter says `token`. A UserError at `place` for a jump of more than 65536.
  std::uint32_t position(std::uint32_t request, std::uint16_t layer, std::uint64_t token, const std::string& place);
  [[nodiscard]] std::uint64_t restarts() const { return restarts_; }  // of the layer that has most
  [[nodiscard]] std::uint64_t gaps() const { return gaps_; }

 private:
  struct State {
    std::uint64_t base = 0, last = 0, restarts = 0;
    bool started = false;
  };
  std::unordered_map<std::uint64_t, State> states_;
  std::uint64_t restarts_ = 0, gaps_ = 0;
};

}  // namespace moekv
