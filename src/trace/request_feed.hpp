// RequestFeed: what all request traces share: arrivals relative to the first, order, failed requests.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "trace/import_sink.hpp"

namespace moekv {

class RequestFeed {
 public:
  explicit RequestFeed(ImportSink& sink) : sink_(sink) {}
  /// One request; `arrival_ns` on any clock (the first becomes 0). A request without output is counted as failed and left out;
  /// one that arrives before the first is a UserError at `place`.
  void add(std::int64_t arrival_ns, RequestInfo request, const std::string& place, std::span<const std::uint64_t> hash_ids = {});
  /// Notes what was seen; after the last request.
  void finish();

 private:
  ImportSink& sink_;
  std::int64_t first_ns_ = 0, last_ns_ = 0;
  std::uint64_t n_requests_ = 0, n_failed_ = 0, n_backwards_ = 0;
  std::string first_backwards_;
};

}  // namespace moekv
