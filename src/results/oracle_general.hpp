// Page accesses for libCacheSim: its oracleGeneral format.
#pragma once

#include <cstdint>
#include <string>

#include "results/access_log_file.hpp"

namespace moekv {

struct OracleGeneralCounts {
  std::uint64_t accesses = 0, pages = 0;
};

/// Writes every lookup of the log (of all shards where `shard` is negative) in the log's order as 24 little-endian bytes without padding: u32 step,
/// u64 page, u32 size 1, i64 number of the page's next access counted from 1, or -1 where it has none. Pages are numbered from 1 by first access.
/// The file appears complete or not at all.
OracleGeneralCounts write_oracle_general(const AccessLogFile& log, std::int64_t shard, const std::string& path);

}  // namespace moekv
