// PlanMemory: page and metadata bytes of the requests in flight, step by step, from lengths and placement alone.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

#include "engine/expected_pages.hpp"
#include "engine/geometry.hpp"
#include "engine/plan_shares.hpp"
#include "engine/step_batch.hpp"

namespace moekv {

class PlanMemory {
 public:
  explicit PlanMemory(const Geometry& geometry);

  /// Brings the item's request to position item.end.
  void extend(const BatchItem& item);
  /// Frees a finished request.
  void finish(RequestId request);

  [[nodiscard]] const std::vector<double>& rank_bytes() const { return bytes_; }
  [[nodiscard]] double rank_metadata_bytes(std::uint32_t rank) const { return pages_[rank] * page_metadata_ + groups_[rank] * group_metadata_; }
  /// Page bytes of the home ranks if every layer were stored under layout local.
  [[nodiscard]] const std::vector<double>& local_bytes() const { return local_; }
  [[nodiscard]] std::uint64_t tokens() const { return tokens_; }
  [[nodiscard]] bool evicts() const { return evicts_; }
  [[nodiscard]] const ExpertShares& shares() const { return shares_; }

 private:
  struct Request {
    std::vector<double> bytes, pages, groups;  // [ranks]
    std::vector<std::uint32_t> side, main;     // [shards], layout token
    double local = 0;
    Rank home;
    std::uint32_t tokens = 0;
    std::uint32_t placed = 0, at_home = 0;  // tokens that the layers of each kind may hold pages for
  };
  struct Sizes {
    double raw = 0, sealed = 0, groups = 0;  // bytes of one page over all head groups of a rank, and their number
  };

  void add(const Request& request, double sign);
  /// Pages of the tokens that the request's layers may hold.
  void store(const BatchItem& item, Request& request);
  void store_local(const BatchItem& item, Request& request, double n_layers, std::uint32_t tokens, bool by_expert);
  void store_pages(Request& request, std::uint32_t rank, const ChainPages& pages, double chains);
  void store_token_layout(const BatchItem& item, Request& request, double n_layers, std::uint32_t tokens);
  void store_expert_layout(Request& request, double n_layers, std::uint32_t tokens);
  [[nodiscard]] std::uint32_t kept_tokens(const BatchItem& item, const ReplayLayer& layer);
  [[nodiscard]] double budget_tokens(const ReplayLayer& layer, std::uint32_t total);
  [[nodiscard]] Sizes sizes_of(std::uint32_t n_kv_heads) const;

  const Geometry* geometry_;
  PageRule rule_;
  ExpectedChain expected_;
  ExpertShares shares_;                         // layout expert
  std::vector<Sizes> sizes_;                    // [ranks]
  Sizes whole_;                                 // a rank that holds all heads
  double placed_layers_ = 0, home_layers_ = 0;  // layers stored as placement.layout says, and at home
  const ReplayLayer* placed_ = nullptr;         // one of each, for budgets
  const ReplayLayer* at_home_ = nullptr;
  bool evicts_ = false;
  double page_metadata_ = 0, group_metadata_ = 0;
  std::unordered_map<std::uint32_t, Request> requests_;
  std::map<std::pair<bool, std::uint32_t>, std::uint64_t> budgets_;  // (layout expert, request tokens) -> units
  std::vector<double> bytes_, pages_, groups_, local_;
  std::uint64_t tokens_ = 0;
};

}  // namespace moekv
