// The part of TraceSource that sources without recorded attention inputs share.
#include "trace/source.hpp"

#include "core/error.hpp"

namespace moekv {

void TraceSource::read_kv(RequestId, std::uint32_t, std::uint32_t, LayerId, RecordedKv&) {
  throw UserError(info().path, "the trace has no recorded q, k, v", "use `qkv: generated`, or a trace with /kv");
}

}  // namespace moekv
