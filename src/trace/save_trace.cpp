// Copies a trace source block by block into a native file.
#include "trace/save_trace.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t block_bytes = std::uint64_t{16} << 20;

/// Tokens whose rows take about block_bytes.
std::uint32_t tokens_per_block(const TraceInfo& info, RoutingLevel level) {
  const std::uint64_t per_layer = 6ULL * info.top_k + (level == RoutingLevel::logits ? 4ULL * info.n_experts : 0);
  const std::uint64_t per_token = std::max<std::uint64_t>(1, info.moe_layers.size() * per_layer);
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(block_bytes / per_token, 1, 65536));
}

}  // namespace

void save_trace(TraceSource& source, const std::string& path, const WriterSpec& spec) {
  const RoutingLevel level = spec.info.level;
  if (level > source.info().level || level == RoutingLevel::candidates)
    throw UserError(path, "the source does not have the level of routing that is asked for", "ask for a lower level");
  const auto n_layers = static_cast<std::uint32_t>(source.info().moe_layers.size());
  const WantLogits want = level == RoutingLevel::logits ? WantLogits::yes : WantLogits::no;
  const std::uint32_t step = tokens_per_block(source.info(), level);
  NativeWriter writer(path, spec);
  RoutingRows rows;
  TokenBlock block;
  for (std::uint32_t r = 0; r < source.n_requests(); ++r) {
    const RequestInfo request = source.request(RequestId(r));
    writer.begin_request(request);
    for (std::uint32_t begin = 0; begin < request.total_tokens(); begin += step) {
      const std::uint32_t end = std::min(request.total_tokens(), begin + step);
      source.read(RequestId(r), begin, end, 0, n_layers, want, rows);
      block.n_tokens = end - begin;
      block.ids.swap(rows.ids);
      block.weights.swap(rows.weights);
      block.logits.swap(rows.logits);
      if (level == RoutingLevel::ids) block.weights.clear();
      writer.append(block);
    }
  }
  writer.finish();
}

}  // namespace moekv
