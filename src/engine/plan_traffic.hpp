// PlanTraffic: bytes that the exchanges of one step will move, from lengths and placement alone.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/geometry.hpp"
#include "engine/plan_cost.hpp"
#include "engine/plan_shares.hpp"
#include "engine/step_batch.hpp"

namespace moekv {

class PlanTraffic {
 public:
  /// `shares` (layout expert) must stay alive.
  PlanTraffic(const Geometry& geometry, const ExpertShares& shares);

  /// Bytes of the item in all layers of one step.
  [[nodiscard]] PlannedTraffic of(const BatchItem& item);
  void finish(RequestId request) { written_.erase(request.value); }

 private:
  /// Sums over ranks of what a layer's dispatch and combine carry, home rank apart.
  struct Counts {
    double stores = 0, reads = 0, partials = 0;  // rank-token pairs, the home rank included
    double far_stores = 0, far_reads = 0, far_partials = 0;
  };
  struct Written {
    std::vector<std::uint32_t> first, last;  // [ranks]: first and newest position stored there, layout token
  };

  [[nodiscard]] PlannedTraffic bytes_of(const Counts& counts, const HeadSlice& slice) const;
  [[nodiscard]] Counts local_counts(const BatchItem& item) const;
  std::uint32_t note_written(Written& written, RequestId request, std::uint32_t position) const;
  [[nodiscard]] Counts token_counts(const BatchItem& item, std::uint32_t window, Written written) const;
  [[nodiscard]] Counts expert_counts(const BatchItem& item) const;
  [[nodiscard]] PlannedTraffic of_heads(const BatchItem& item) const;

  const Geometry* geometry_;
  const ExpertShares* shares_;
  std::vector<std::pair<std::uint32_t, double>> placed_;  // (window, or 0 for full attention; layers of it) under the run's layout
  double home_layers_ = 0;
  std::unordered_map<std::uint32_t, Written> written_;
};

/// a += factor * b.
void add_traffic(PlannedTraffic& a, const PlannedTraffic& b, double factor = 1.0);

}  // namespace moekv
