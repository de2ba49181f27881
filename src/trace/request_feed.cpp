// Requests in order of the file, with arrivals relative to the first.
#include "trace/request_feed.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moekv {

void RequestFeed::add(std::int64_t arrival_ns, RequestInfo request, const std::string& place, std::span<const std::uint64_t> hash_ids) {
  if (request.output_tokens == 0) {
    ++n_failed_;
    return;
  }
  if (n_requests_ == 0) first_ns_ = last_ns_ = arrival_ns;
  if (arrival_ns < first_ns_) throw UserError(place, "arrives before the first request", "sort the file by arrival");
  if (arrival_ns < last_ns_ && n_backwards_++ == 0) first_backwards_ = place;
  last_ns_ = std::max(last_ns_, arrival_ns);
  ++n_requests_;
  request.arrival_ns = arrival_ns - first_ns_;
  sink_.begin_request(request, place, hash_ids);
}

void RequestFeed::finish() {
  if (n_failed_ > 0) sink_.note(fmt::format("{} requests without output tokens (failed) were left out", n_failed_));
  if (n_backwards_ > 0)
    sink_.warn(fmt::format("{}: arrives before its predecessor, as {} requests do; the order of the file is kept", first_backwards_, n_backwards_));
  sink_.note(fmt::format("arrivals count from the first request; they span {:.3f} s", static_cast<double>(last_ns_ - first_ns_) * 1e-9));
}

}  // namespace moekv
