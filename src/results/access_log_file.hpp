// The access log of one run as an HDF5 file, schema "moekv-access-log/1": written step by step in constant memory, read block by block.
//
// /                   attributes: schema, the run's configuration and digests, whether it has feedback and why, facts that oracles need
// /event/<f>          one column per field of AccessEvent, and the step; rows in the order of the log, runs of pages as one row
// /attention/<f>      one column per field of AttentionRow; /attention_cell/position, mass: its cells, row after row
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "engine/access_log.hpp"
#include "engine/oracle/mass_bounds.hpp"
#include "results/facts.hpp"

namespace moekv {

inline constexpr std::string_view access_log_schema = "moekv-access-log/1";

/// Writes aside; the file appears under its name when `finish` succeeds, and never otherwise. On process 0 only.
class AccessLogWriter {
 public:
  explicit AccessLogWriter(const std::string& path);
  ~AccessLogWriter();
  AccessLogWriter(const AccessLogWriter&) = delete;
  AccessLogWriter& operator=(const AccessLogWriter&) = delete;

  void add(std::uint64_t step, std::span<const AccessEvent> events);
  void add(std::span<const AttentionRow> rows, std::span<const AttentionCell> cells);
  /// `facts` become the attributes of the root.
  void finish(const Facts& facts);

 private:
  struct File;
  std::unique_ptr<File> file_;
};

class AccessLogFile {
 public:
  /// Throws UserError where the file does not exist or is no access log.
  explicit AccessLogFile(const std::string& path);
  ~AccessLogFile();
  AccessLogFile(const AccessLogFile&) = delete;
  AccessLogFile& operator=(const AccessLogFile&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const Facts& facts() const { return facts_; }
  [[nodiscard]] bool has_attention() const;
  /// Calls f(step, event) for every event in order. Throws UserError where columns do not fit each other.
  void for_each_event(const std::function<void(std::uint64_t, const AccessEvent&)>& f) const;
  /// Calls f for every sampled pair of request and layer, by (request, layer).
  void for_each_history(const std::function<void(const AttentionHistory&)>& f) const;

 private:
  struct File;
  std::string path_;
  Facts facts_;
  std::unique_ptr<File> file_;
};

}  // namespace moekv
