// TraceTarget: where imported requests and rows go: a native file, or a test's memory.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "trace/writer.hpp"

namespace moekv {

inline constexpr std::uint32_t block_tokens = 1024;  // that importers append together

/// Calls come in the order open, (begin_request, append...)..., note..., finish.
class TraceTarget {
 public:
  virtual ~TraceTarget() = default;
  virtual void open(const WriterSpec& spec) = 0;
  virtual void begin_request(const RequestInfo& request, std::span<const std::uint64_t> hash_ids) = 0;
  virtual void append(const TokenBlock& block) = 0;
  virtual void note(const std::string& line) = 0;
  /// `domain_names` are those met while reading; RequestInfo::domain indexes them.
  virtual void finish(const std::vector<std::string>& domain_names) = 0;
};

/// The native trace file at `path`; nothing appears there before `finish`.
[[nodiscard]] std::unique_ptr<TraceTarget> make_native_target(const std::string& path);

}  // namespace moekv
