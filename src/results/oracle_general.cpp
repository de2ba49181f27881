// Accesses forwards to number pages, backwards to know the next ones, forwards to write.
#include "results/oracle_general.hpp"

#include <array>
#include <cstring>
#include <fstream>
#include <map>
#include <tuple>
#include <vector>

#include "core/error.hpp"
#include "engine/oracle/access_trace.hpp"
#include "io/pending_file.hpp"

namespace moekv {
namespace {

struct Lookups {
  std::vector<std::uint32_t> step, page;
  std::uint64_t n_pages = 0;
};

Lookups read_lookups(const AccessLogFile& log, std::int64_t shard) {
  std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint16_t, std::uint16_t, std::uint8_t, std::uint16_t>, std::vector<std::uint32_t>> chains;
  Lookups out;
  log.for_each_event([&](std::uint64_t step, const AccessEvent& e) {
    if (shard >= 0 && e.shard != shard) return;
    if (e.kind != AccessKind::hit && e.kind != AccessKind::miss) return;
    auto& pages = chains[{e.shard, e.request, e.layer, e.head_group, e.side, e.expert}];
    const std::uint64_t end = std::uint64_t{e.first} + e.count;
    if (end > AccessTrace::max_ops || out.page.size() + e.count > AccessTrace::max_ops)
      throw UserError(log.path(), "has too many accesses", "log a shorter run");
    if (pages.size() < end) pages.resize(end, 0);
    for (std::uint64_t i = e.first; i < end; ++i) {
      if (pages[i] == 0) pages[i] = static_cast<std::uint32_t>(++out.n_pages);
      out.step.push_back(static_cast<std::uint32_t>(step));
      out.page.push_back(pages[i]);
    }
  });
  return out;
}

}  // namespace

OracleGeneralCounts write_oracle_general(const AccessLogFile& log, std::int64_t shard, const std::string& path) {
  const Lookups lookups = read_lookups(log, shard);
  if (lookups.page.empty()) throw UserError(log.path(), shard >= 0 ? "has no lookup in this shard" : "has no lookup", "moekv show says what the run looked up");
  std::vector<std::int64_t> next(lookups.page.size(), -1), later(lookups.n_pages + 1, -1);
  for (std::size_t i = next.size(); i-- > 0;) {
    next[i] = later[lookups.page[i]];
    later[lookups.page[i]] = static_cast<std::int64_t>(i) + 1;
  }
  PendingFile pending(path, FileKind::other);
  std::ofstream out(pending.temporary_path(), std::ios::binary);
  for (std::size_t i = 0; i < next.size(); ++i) {
    std::array<char, 24> record{};
    const std::uint64_t page = lookups.page[i];
    const std::uint32_t size = 1;
    std::memcpy(record.data(), &lookups.step[i], 4);
    std::memcpy(record.data() + 4, &page, 8);
    std::memcpy(record.data() + 12, &size, 4);
    std::memcpy(record.data() + 16, &next[i], 8);
    out.write(record.data(), record.size());
  }
  out.close();
  if (!out) throw SystemError("writing " + pending.temporary_path() + " failed");
  pending.commit();
  return {next.size(), lookups.n_pages};
}

}  // namespace moekv
