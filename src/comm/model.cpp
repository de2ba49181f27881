// Alpha-beta times of ClusterModel: start time of the link class plus bytes over its bandwidth.
#include "comm/model.hpp"

#include <cmath>

namespace moekv {
namespace {

/// 1 GB/s is one byte per nanosecond.
std::int64_t transfer_ns(double start_ns, std::int64_t bytes, double bandwidth_gb_s) {
  return static_cast<std::int64_t>(std::ceil(start_ns + static_cast<double>(bytes) / bandwidth_gb_s));
}

}  // namespace

std::int64_t ClusterModel::message_ns(Rank a, Rank b, std::int64_t bytes) const {
  if (a == b) return 0;
  const LinkClass& link = same_node(a, b) ? intra_node : inter_node;
  return transfer_ns(link.alpha_us * 1000.0, bytes, link.bandwidth_gb_s);
}

std::int64_t ClusterModel::host_ns(std::int64_t bytes) const {
  return bytes == 0 ? 0 : transfer_ns(host_link.alpha_us * 1000.0, bytes, host_link.bandwidth_gb_s);
}

std::int64_t ClusterModel::memory_ns(std::int64_t bytes) const { return transfer_ns(0.0, bytes, memory_bandwidth_gb_s); }

}  // namespace moekv
