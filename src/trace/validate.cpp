// The full pass: structure, order of tokens, experts, weights, logits, recorded q/k/v, interleaving.
#include "trace/validate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>

#include "rules/codec/element.hpp"
#include "trace/choice_checks.hpp"
#include "trace/native_file.hpp"
#include "trace/native_format.hpp"
#include "trace/row_index.hpp"

namespace moekv {
namespace {

using native::NativeFile;
using native::Tally;

/// Runs one part; what is wrong with the file itself becomes errors, so that the other parts still run.
template <class F>
void part(TraceReport& report, F&& run) {
  try {
    run();
  } catch (const UserError& e) {
    report.errors.insert(report.errors.end(), e.problems().begin(), e.problems().end());
  }
}

/// Calls visit(row, bytes) for every row of a dataset.
template <class Visit>
void for_each_row(RowReader& rows, Visit&& visit) {
  for (std::uint64_t row = 0; row < rows.n_rows();) {
    const RowReader::Piece piece = rows.piece(row, rows.n_rows());
    for (std::uint64_t i = 0; i < piece.n_rows; ++i) visit(row + i, piece.data + i * piece.stride_bytes);
    row += piece.n_rows;
  }
}

void check_choices(const NativeFile& trace, TraceReport& report) {
  native::ChoiceChecks checks(trace);
  RowReader ids = trace.rows("routing/expert_ids");
  std::unique_ptr<RowReader> weights;
  if (trace.info.level >= RoutingLevel::weights) weights = std::make_unique<RowReader>(trace.rows("routing/weights"));
  const bool narrow = ids.type() == h5::Type::u8;
  const std::uint64_t n = ids.row_bytes() / h5::element_bytes(ids.type());
  std::vector<std::uint16_t> wide(n);
  for_each_row(ids, [&](std::uint64_t row, const std::byte* bytes) {
    if (narrow) {
      std::transform(bytes, bytes + n, wide.begin(),
                     [](std::byte b) { return b == std::byte{0xFF} ? ExpertId::invalid : std::to_integer<std::uint16_t>(b); });
    } else {
      std::memcpy(wide.data(), bytes, n * sizeof(std::uint16_t));
    }
    std::span<const std::uint16_t> values;
    if (weights) values = {reinterpret_cast<const std::uint16_t*>(weights->piece(row, row + 1).data), n};
    checks.add(row, wide, values);
  });
  checks.report(report);
}

/// Positions 0, 1, 2.. and phases prefill then decode, in order "request".
void check_tokens(const NativeFile& trace, TraceReport& report) {
  Tally positions(trace.info.path + ":/tokens/position", "positions of a request are not 0, 1, 2..",
                  "sort the tokens of each request, and start each at 0");
  Tally phases(trace.info.path + ":/tokens/phase", "phase is not prefill (0) for the prompt and decode (1) after it",
               "phase follows from prompt_len");
  RowReader position = trace.rows("tokens/position");
  RowReader phase = trace.rows("tokens/phase");
  std::uint64_t r = 0;
  for_each_row(position, [&](std::uint64_t row, const std::byte* bytes) {
    while (row >= trace.token_offset[r + 1]) ++r;
    std::uint32_t found = 0;
    std::memcpy(&found, bytes, sizeof(found));
    const std::uint64_t expected = row - trace.token_offset[r];
    if (found != expected) positions.add([&] { return fmt::format("token row {}: request {} has {} where {} is next", row, r, found, expected); });
    const auto given = std::to_integer<unsigned>(*phase.piece(row, row + 1).data);
    const unsigned due = expected < trace.requests[r].prompt_tokens ? 0 : 1;
    if (given != due)
      phases.add([&] { return fmt::format("token row {}: request {} position {} has phase {}, not {}", row, r, expected, given, due); });
  });
  positions.report(report.errors);
  phases.report(report.errors);
}

/// The same for order "step", where /tokens/request says whose a row is.
void check_step_tokens(const NativeFile& trace, TraceReport& report) {
  const native::RowIndex index(trace);
  Tally phases(trace.info.path + ":/tokens/phase", "phase is not prefill (0) for the prompt and decode (1) after it",
               "phase follows from prompt_len");
  RowReader phase = trace.rows("tokens/phase");
  RowReader position = trace.rows("tokens/position");
  RowReader request = trace.rows("tokens/request");
  for_each_row(phase, [&](std::uint64_t row, const std::byte* bytes) {
    std::uint32_t t = 0;
    std::uint32_t r = 0;
    position.read(row, row + 1, &t);
    request.read(row, row + 1, &r);
    const unsigned due = t < trace.requests[r].prompt_tokens ? 0 : 1;
    const auto given = std::to_integer<unsigned>(*bytes);
    if (given != due) phases.add([&] { return fmt::format("token row {}: request {} position {} has phase {}, not {}", row, r, t, given, due); });
  });
  phases.report(report.errors);
}

void check_arrivals(const NativeFile& trace, TraceReport& report) {
  const auto unknown = std::count_if(trace.requests.begin(), trace.requests.end(), [](const RequestInfo& r) { return r.arrival_ns < 0; });
  if (unknown == 0 || static_cast<std::size_t>(unknown) == trace.requests.size()) return;
  report.warnings.push_back({trace.info.path + ":/requests/arrival_ns",
                             fmt::format("{} of {} requests have no arrival time, the others do", unknown, trace.requests.size()),
                             "load: arrivals refuses such requests; record all arrivals, or leave the column out"});
}

/// Chosen experts must have the largest recorded logits. Gates that choose inside groups, and choices with absent experts, are left out.
void check_logits(const NativeFile& trace, TraceReport& report) {
  const TraceInfo& info = trace.info;
  if (info.shape.gate.topk_group < info.shape.gate.n_group) return;
  Tally other(info.path + ":/routing/expert_ids", "an expert is chosen that is not of the top_k largest recorded logits",
              "a bias or another rule chose, or logits and experts are of different layers; router topk will choose otherwise");
  RowReader ids = trace.rows("routing/expert_ids"), logits = trace.rows("routing/logits");
  const std::uint64_t layers = ids.dims()[1];
  const auto check = [&]<class Id>(std::uint64_t row, const Id* choice) {
    const auto* bits = reinterpret_cast<const std::uint16_t*>(logits.piece(row, row + 1).data);
    for (std::uint64_t l = 0; l < layers; ++l, choice += info.top_k, bits += info.n_experts) {
      const std::span<const Id> chosen(choice, info.top_k);
      if (native::is_zero_fill(chosen) || std::any_of(chosen.begin(), chosen.end(), [&](Id e) { return e >= info.n_experts; })) continue;
      const Id least =
          *std::min_element(chosen.begin(), chosen.end(), [&](Id a, Id b) { return float_from_fp16(bits[a]) < float_from_fp16(bits[b]); });
      std::uint32_t above = 0;
      for (std::uint32_t e = 0; e < info.n_experts; ++e) above += float_from_fp16(bits[e]) > float_from_fp16(bits[least]) ? 1 : 0;
      if (above < info.top_k) continue;
      other.add([&] {
        return fmt::format("token row {} layer {}: expert {} with {} has {} above it", row, info.moe_layers[l], least, float_from_fp16(bits[least]),
                           above);
      });
    }
  };
  for_each_row(ids, [&](std::uint64_t row, const std::byte* bytes) {
    if (ids.type() == h5::Type::u8) return check(row, reinterpret_cast<const std::uint8_t*>(bytes));
    check(row, reinterpret_cast<const std::uint16_t*>(bytes));
  });
  other.report(report.warnings);
}

bool is_finite(h5::Type type, const std::byte* bytes) {
  if (type == h5::Type::f32) {
    float x = 0.0F;
    std::memcpy(&x, bytes, sizeof(x));
    return std::isfinite(x);
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, bytes, sizeof(bits));
  const unsigned exponent = type == h5::Type::u16 ? 0x7F80U : 0x7C00U;  // bf16 or binary16
  return (bits & exponent) != exponent;
}

/// No infinity, no NaN in a dataset of 16-bit or fp32 values; layer by layer, because rows of q, k, v may be large.
void check_finite(const NativeFile& trace, const std::string& dataset, TraceReport& report) {
  RowReader rows = trace.rows(dataset, RowPart::plane);
  Tally bad(rows.dataset().where(), "a value is not finite", "record it again, or leave the dataset out");
  const std::uint32_t width = h5::element_bytes(rows.type());
  for (std::uint64_t begin = 0; begin < rows.n_rows(); begin += rows.block_rows()) {
    const std::uint64_t end = std::min(begin + rows.block_rows(), rows.n_rows());
    for (std::uint64_t plane = 0; plane < rows.dims()[1]; ++plane) {
      const RowReader::Piece piece = rows.piece(begin, end, plane);
      for (std::uint64_t i = 0; i < piece.n_rows; ++i) {
        const std::byte* values = piece.data + i * piece.stride_bytes;
        for (std::uint64_t j = 0; j < rows.plane_bytes(); j += width) {
          if (!is_finite(rows.type(), values + j))
            bad.add([&] { return fmt::format("token row {} layer index {} value {}", begin + i, plane, j / width); });
        }
      }
    }
  }
  bad.report(report.errors);
}

/// Reuse of experts at each lag, over samples of several requests and layers; index 0 is unused.
struct LagReuse {
  static constexpr std::uint32_t most_lag = 64;
  std::array<double, most_lag + 1> hits{}, chances{};

  void add(const RoutingRows& rows, std::uint32_t layers, std::uint32_t k, std::vector<char>& mark) {
    const std::uint32_t tokens = rows.end - rows.begin;
    const auto choice = [&](std::uint32_t t, std::uint32_t l) { return std::span(rows.ids).subspan((std::size_t{t} * layers + l) * k, k); };
    for (std::uint32_t l = 0; l < layers; ++l) {
      for (std::uint32_t t = 1; t < tokens; ++t) {
        for (const auto id : choice(t, l)) mark[id] = id == ExpertId::invalid ? 0 : 1;
        for (std::uint32_t s = 1; s <= std::min(t, most_lag); ++s) {
          for (const auto id : choice(t - s, l)) hits[s] += mark[id];
          chances[s] += k;
        }
        for (const auto id : choice(t, l)) mark[id] = 0;
      }
    }
  }
};

void check_interleaving(const std::string& path, TraceReport& report) {
  constexpr std::uint32_t most_requests = 24;
  constexpr std::uint32_t most_tokens = 512;
  constexpr std::uint32_t layer_samples = 6;
  const auto trace = open_native_trace(path);
  const auto n_layers = static_cast<std::uint32_t>(trace->info().moe_layers.size());
  LagReuse reuse;
  std::vector<char> mark(std::size_t{ExpertId::invalid} + 1, 0);
  RoutingRows rows;
  const std::uint32_t stride = std::max(1U, trace->n_requests() / most_requests);
  for (std::uint32_t r = 0; r < trace->n_requests(); r += stride) {
    const std::uint32_t tokens = std::min(trace->request(RequestId(r)).total_tokens(), most_tokens);
    for (std::uint32_t i = 0; i < std::min(layer_samples, n_layers); ++i) {
      const std::uint32_t layer = n_layers <= layer_samples ? i : i * (n_layers - 1) / (layer_samples - 1);
      trace->read(RequestId(r), 0, tokens, layer, layer + 1, WantLogits::no, rows);
      reuse.add(rows, 1, trace->info().top_k, mark);
    }
  }
  if (reuse.chances[1] == 0) return;
  const double next = reuse.hits[1] / reuse.chances[1];
  std::uint32_t best = 0;
  double best_reuse = 1.3 * next;
  for (std::uint32_t s = 2; s <= LagReuse::most_lag; ++s) {
    if (reuse.chances[s] == 0) continue;
    const double at_lag = reuse.hits[s] / reuse.chances[s];
    const double noise = 8 * std::sqrt(std::max(next, 1.0 / reuse.chances[s]) / reuse.chances[s]);
    if (reuse.hits[s] >= 200 && at_lag > best_reuse && at_lag > next + noise) {
      best = s;
      best_reuse = at_lag;
    }
  }
  if (best == 0) return;
  report.warnings.push_back(
      {path + ":/routing/expert_ids",
       fmt::format("interleaving: experts of {} tokens before are reused with {:.3f}, of the token before with {:.3f}", best, best_reuse, next),
       fmt::format("rows of {} sequences alternate; import again with --deinterleave {}", best, best)});
}

void check_candidates(const NativeFile& trace, TraceReport& report) {
  RowReader rows = trace.checked_ids("routing/cand_ids");
  for_each_row(rows, [](std::uint64_t, const std::byte*) {});
  check_finite(trace, "routing/cand_logit", report);
  check_finite(trace, "routing/lse", report);
}

}  // namespace

TraceReport validate_trace(const std::string& path) {
  TraceReport report;
  std::unique_ptr<NativeFile> trace;
  part(report, [&] { trace = std::make_unique<NativeFile>(path); });
  if (trace) check_arrivals(*trace, report);
  if (!trace || !trace->info.has_routing()) return report;  // a request trace has no rows to check
  part(report, [&] { trace->order == native::TokenOrder::request ? check_tokens(*trace, report) : check_step_tokens(*trace, report); });
  part(report, [&] { check_choices(*trace, report); });
  if (trace->info.level == RoutingLevel::candidates) part(report, [&] { check_candidates(*trace, report); });
  if (trace->info.level == RoutingLevel::logits) {
    part(report, [&] { check_finite(*trace, "routing/logits", report); });
    part(report, [&] { check_logits(*trace, report); });
  }
  for (const char* name : {"kv/q", "kv/k", "kv/v", "kv/ckv", "kv/kpe"}) {
    if (!trace->info.kv_layers.empty() && trace->has(name)) part(report, [&] { check_finite(*trace, name, report); });
  }
  if (report.errors.empty()) part(report, [&] { check_interleaving(path, report); });
  return report;
}

}  // namespace moekv
