// The routing of a whole request in one read.
#pragma once

#include "trace/source.hpp"

namespace moekv {

[[nodiscard]] inline RoutingRows all_rows(TraceSource& trace, std::uint32_t request, WantLogits want = WantLogits::no) {
  RoutingRows out;
  trace.read(RequestId(request), 0, trace.request(RequestId(request)).total_tokens(), 0, static_cast<std::uint32_t>(trace.info().moe_layers.size()),
             want, out);
  return out;
}

}  // namespace moekv
