// The two export formats; both read the trace request by request, so any order and any size will do.
#include "trace/export.hpp"

#include <fmt/format.h>
#include <fmt/os.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/json_text.hpp"
#include "io/npz_writer.hpp"
#include "io/pending_file.hpp"
#include "rules/codec/element.hpp"
#include "trace/native_format.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t tokens_per_read = 256;

/// Calls visit(request, rows) for consecutive blocks of every request.
template <class Visit>
void for_each_block(TraceSource& trace, WantLogits want, Visit&& visit) {
  RoutingRows rows;
  const auto layers = static_cast<std::uint32_t>(trace.info().moe_layers.size());
  for (std::uint32_t r = 0; r < trace.n_requests(); ++r) {
    const std::uint32_t n = trace.request(RequestId(r)).total_tokens();
    for (std::uint32_t t = 0; t < n; t += tokens_per_read) {
      trace.read(RequestId(r), t, std::min(t + tokens_per_read, n), 0, layers, want, rows);
      visit(r, rows);
    }
  }
}

/// Binary16 bits; -infinity, which marks an unlisted expert, stays.
std::uint16_t half_of(float x) { return x < -fp16_max ? std::uint16_t{0xFC00} : fp16_from_float(x); }

void write_halves(NpzWriter& out, const std::vector<float>& values, std::vector<std::uint16_t>& buffer) {
  buffer.resize(values.size());
  std::transform(values.begin(), values.end(), buffer.begin(), half_of);
  out.write_values(std::span<const std::uint16_t>(buffer));
}

void write_requests(TraceSource& trace, NpzWriter& out) {
  std::vector<std::int32_t> seq_lens;
  std::vector<std::int32_t> prompt_lens;
  std::vector<std::int64_t> arrivals;
  for (std::uint32_t r = 0; r < trace.n_requests(); ++r) {
    const RequestInfo info = trace.request(RequestId(r));
    seq_lens.push_back(static_cast<std::int32_t>(info.total_tokens()));
    prompt_lens.push_back(static_cast<std::int32_t>(info.prompt_tokens));
    arrivals.push_back(info.arrival_ns);
  }
  out.add("seq_lens", "<i4", seq_lens);
  out.add("prompt_lens", "<i4", prompt_lens);
  out.add("arrival_ns", "<i8", arrivals);
  out.add("moe_layer_ids", "<i2", std::vector<std::int16_t>(trace.info().moe_layers.begin(), trace.info().moe_layers.end()));
}

void require_routing(const TraceSource& trace) {
  if (trace.info().moe_layers.empty() || trace.info().top_k == 0)
    throw UserError(trace.info().path, "is a trace of requests without routing, which these formats hold",
                    "moekv trace join adds the routing of another");
}

}  // namespace

void export_npz(TraceSource& trace, const std::string& path) {
  require_routing(trace);
  const TraceInfo& t = trace.info();
  PendingFile pending(path, FileKind::other);
  NpzWriter out(pending.temporary_path());
  std::uint64_t n_tokens = 0;
  for (std::uint32_t r = 0; r < trace.n_requests(); ++r) n_tokens += trace.request(RequestId(r)).total_tokens();
  const std::uint64_t layers = t.moe_layers.size();
  const bool narrow = native::ids_fit_byte(t.n_experts);
  std::vector<std::uint8_t> bytes;
  std::vector<std::uint16_t> halves;
  out.begin("ids", narrow ? "|u1" : "<u2", {n_tokens, layers, t.top_k});
  for_each_block(trace, WantLogits::no, [&](std::uint32_t, const RoutingRows& rows) {
    if (!narrow) return out.write_values(std::span<const std::uint16_t>(rows.ids));
    bytes.assign(rows.ids.begin(), rows.ids.end());
    out.write_values(std::span<const std::uint8_t>(bytes));
  });
  if (t.level >= RoutingLevel::weights) {
    out.begin("weights", "<f2", {n_tokens, layers, t.top_k});
    for_each_block(trace, WantLogits::no, [&](std::uint32_t, const RoutingRows& rows) { write_halves(out, rows.weights, halves); });
  }
  if (t.level >= RoutingLevel::candidates) {
    out.begin("logits", "<f2", {n_tokens, layers, t.n_experts});
    for_each_block(trace, WantLogits::yes, [&](std::uint32_t, const RoutingRows& rows) { write_halves(out, rows.logits, halves); });
  }
  write_requests(trace, out);
  out.finish();
  pending.commit();
}

void export_jsonl(TraceSource& trace, const std::string& path) {
  require_routing(trace);
  const TraceInfo& t = trace.info();
  PendingFile pending(path, FileKind::other);
  {
    auto out = fmt::output_file(pending.temporary_path());
    nlohmann::ordered_json meta;
    meta["type"] = "meta";
    meta["model_id"] = t.model_name;
    meta["layers_logged"] = t.moe_layers;
    meta["top_k"] = t.top_k;
    meta["n_experts"] = t.n_experts;
    out.print("{}\n", json_text(meta));
    const std::size_t k = t.top_k;
    std::vector<std::int32_t> ids(k);
    for_each_block(trace, WantLogits::no, [&](std::uint32_t r, const RoutingRows& rows) {
      for (std::size_t i = 0; i < rows.ids.size() / k; ++i) {
        const std::size_t layers = t.moe_layers.size();
        std::transform(&rows.ids[i * k], &rows.ids[i * k] + k, ids.begin(),
                       [](std::uint16_t id) { return id == ExpertId::invalid ? -1 : std::int32_t{id}; });
        out.print(R"({{"type": "route", "req_id": "r{}", "token_idx": {}, "layer": {}, "topk_ids": [{}])", r, rows.begin + i / layers,
                  t.moe_layers[i % layers], fmt::join(ids, ", "));
        if (!rows.weights.empty()) out.print(R"(, "topk_weights": [{}])", fmt::join(&rows.weights[i * k], &rows.weights[i * k] + k, ", "));
        out.print("}}\n");
      }
    });
  }
  pending.commit();
}

}  // namespace moekv
