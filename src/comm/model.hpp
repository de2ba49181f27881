// The network of configs/clusters/*.yaml as alpha-beta link classes; times are integer nanoseconds, so they may enter the virtual clock.
#pragma once

#include <cstdint>
#include <string>

#include "core/id.hpp"

namespace moekv {

struct LinkClass {
  double alpha_us = 1.0;        // per message
  double bandwidth_gb_s = 100;  // 1e9 B/s, per rank and direction
};

/// Modelled, never measured. `source` says where the figures come from and is stored with every modelled time.
struct ClusterModel {
  std::string name = "single-node";
  std::string source;
  std::uint32_t ranks_per_node = 8;
  LinkClass intra_node{2.0, 370.0};
  LinkClass inter_node{5.0, 48.0};
  LinkClass host_link{10.0, 55.0};        // between a rank's device and its host memory
  double memory_bandwidth_gb_s = 4070.0;  // per rank, of the modelled device

  [[nodiscard]] bool same_node(Rank a, Rank b) const { return a.value / ranks_per_node == b.value / ranks_per_node; }
  /// Time of one message of `bytes` from a to b; 0 for a == b. Rounded up.
  [[nodiscard]] std::int64_t message_ns(Rank a, Rank b, std::int64_t bytes) const;
  /// Time of one batch of `bytes` between a device and its host memory; 0 of nothing. Rounded up.
  [[nodiscard]] std::int64_t host_ns(std::int64_t bytes) const;
  /// Time to read `bytes` once from device memory. Rounded up.
  [[nodiscard]] std::int64_t memory_ns(std::int64_t bytes) const;
};

}  // namespace moekv
