// Cacheability of one layer's experts: LRU for all sizes from one stack, Belady's rule with forced admission per size.
#include <algorithm>

#include "trace/stats_detail.hpp"

namespace moekv::stats {
namespace {

constexpr std::uint32_t never = 0xFFFFFFFFU;

}  // namespace

CacheStats::CacheStats(std::uint32_t n_experts, std::uint32_t top_k)
    : n_experts_(n_experts),
      sizes_{top_k, 2 * top_k, 3 * top_k, 4 * top_k, n_experts / 4, n_experts / 2},
      expert_next_(n_experts),
      depth_hits_(n_experts) {}

void CacheStats::add(const SequenceView& s) {
  access_.clear();
  for (std::uint32_t t = 0; t < s.n_tokens; ++t)
    for (std::uint32_t i = 0; i < s.top_k; ++i)
      if (s.token(t)[i] != ExpertId::invalid) access_.push_back(s.token(t)[i]);
  accesses_ += access_.size();
  add_lru();
  next_use_.resize(access_.size());
  std::fill(expert_next_.begin(), expert_next_.end(), never);
  for (std::size_t i = access_.size(); i-- > 0;) {
    next_use_[i] = expert_next_[access_[i]];
    expert_next_[access_[i]] = static_cast<std::uint32_t>(i);
  }
  for (std::size_t i = 0; i < n_sizes; ++i) add_belady(i);
}

/// A cache of C experts hits where the stack distance is below C (Mattson).
void CacheStats::add_lru() {
  stack_.clear();
  for (const std::uint16_t id : access_) {
    const auto at = std::find(stack_.begin(), stack_.end(), id);
    if (at != stack_.end()) {
      ++depth_hits_[static_cast<std::size_t>(at - stack_.begin())];
      std::rotate(stack_.begin(), at, at + 1);
    } else {
      stack_.insert(stack_.begin(), id);
    }
  }
}

void CacheStats::add_belady(std::size_t size_index) {
  const std::uint32_t size = sizes_[size_index];
  if (size == 0 || size > n_experts_) return;
  constexpr std::uint32_t absent = 0;  // expert_next_ holds 1 + next use of cached experts
  std::fill(expert_next_.begin(), expert_next_.end(), absent);
  cached_.clear();
  for (std::size_t i = 0; i < access_.size(); ++i) {
    const std::uint16_t id = access_[i];
    const std::uint32_t next = next_use_[i] == never ? never : next_use_[i] + 1;
    if (expert_next_[id] != absent) {
      ++belady_hits_[size_index];
    } else if (cached_.size() < size) {
      cached_.push_back(id);
    } else {
      auto& victim = *std::max_element(cached_.begin(), cached_.end(), [&](auto a, auto b) { return expert_next_[a] < expert_next_[b]; });
      expert_next_[victim] = absent;
      victim = id;
    }
    expert_next_[id] = next;
  }
}

void CacheStats::finish(LayerStats& out) const {
  double* const lru[] = {&out.lru_hit_k, &out.lru_hit_2k, &out.lru_hit_3k, &out.lru_hit_4k, &out.lru_hit_quarter, &out.lru_hit_half};
  double* const belady[] = {&out.opt_forced_hit_k,  &out.opt_forced_hit_2k,      &out.opt_forced_hit_3k,
                            &out.opt_forced_hit_4k, &out.opt_forced_hit_quarter, &out.opt_forced_hit_half};
  if (accesses_ == 0) return;
  for (std::size_t i = 0; i < n_sizes; ++i) {
    if (sizes_[i] == 0 || sizes_[i] > n_experts_) continue;
    std::uint64_t hits = 0;
    for (std::uint32_t d = 0; d < sizes_[i]; ++d) hits += depth_hits_[d];
    *lru[i] = static_cast<double>(hits) / static_cast<double>(accesses_);
    *belady[i] = static_cast<double>(belady_hits_[i]) / static_cast<double>(accesses_);
  }
}

}  // namespace moekv::stats
