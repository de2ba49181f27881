// The reader of native traces: rows of any request and layer range through a bounded cache of decoded chunks.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "core/error.hpp"
#include "rules/codec/element.hpp"
#include "trace/native_file.hpp"
#include "trace/native_format.hpp"
#include "trace/row_index.hpp"
#include "trace/source.hpp"

namespace moekv {

namespace {

using native::NativeFile;
using native::RowIndex;
using native::TokenOrder;

class NativeTrace final : public TraceSource {
 public:
  explicit NativeTrace(const std::string& path);
  [[nodiscard]] const TraceInfo& info() const override { return file_.info; }
  [[nodiscard]] std::uint32_t n_requests() const override { return static_cast<std::uint32_t>(file_.requests.size()); }
  [[nodiscard]] RequestInfo request(RequestId r) const override { return file_.requests.at(r.value); }
  void read(RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t layer_begin, std::uint32_t layer_end, WantLogits want,
            RoutingRows& out) override;
  void read_kv(RequestId r, std::uint32_t begin, std::uint32_t end, LayerId layer, RecordedKv& out) override;

 private:
  template <class Visit>
  void for_each_run(RequestId r, std::uint32_t begin, std::uint32_t end, Visit&& visit) const;
  template <class Convert>
  void for_each_row(RowReader& reader, RequestId r, std::uint32_t begin, std::uint32_t end, std::uint64_t plane, Convert&& convert);
  void require_range(RequestId r, std::uint32_t begin, std::uint32_t end) const;
  void check_positions(RequestId r, std::uint32_t begin, std::uint32_t end);
  void check_weights(RequestId r, const RoutingRows& rows) const;
  void read_candidates(RequestId r, RoutingRows& out);
  template <class Id>
  void expand_choice(const std::byte* row, std::uint64_t n, std::uint64_t per_choice, std::uint16_t* out) const;
  void expand_ids(const RowReader& reader, const std::byte* row, std::uint64_t n, std::uint64_t per_choice, std::uint16_t* out) const;
  void read_plane(const char* name, std::optional<RowReader>& reader, RequestId r, std::uint32_t begin, std::uint32_t end, std::uint64_t plane,
                  std::size_t stride, float* out);

  NativeFile file_;
  std::optional<RowIndex> index_;  // order step only
  std::optional<RowReader> position_, phase_, ids_, weights_, cand_ids_, cand_logit_, logits_, q_, k_, v_, ckv_, kpe_;
  std::vector<std::uint32_t> positions_;
  std::vector<std::uint8_t> phases_;
  std::vector<std::uint16_t> candidates_;
};

NativeTrace::NativeTrace(const std::string& path) : file_(path) {
  position_.emplace(file_.rows("tokens/position"));
  phase_.emplace(file_.rows("tokens/phase"));
  if (!file_.info.has_routing()) return;
  if (file_.order == TokenOrder::step) index_.emplace(file_);
  ids_.emplace(file_.checked_ids("routing/expert_ids"));
  const RoutingLevel level = file_.info.level;
  if (level >= RoutingLevel::weights) weights_.emplace(file_.checked_reals("routing/weights"));
  if (level == RoutingLevel::candidates) {
    cand_ids_.emplace(file_.checked_ids("routing/cand_ids"));
    cand_logit_.emplace(file_.checked_reals("routing/cand_logit"));
  }
  if (level == RoutingLevel::logits) logits_.emplace(file_.checked_reals("routing/logits"));
}

/// Calls visit(first_row, n_rows) for the runs of consecutive file rows that hold the positions, in order.
template <class Visit>
void NativeTrace::for_each_run(RequestId r, std::uint32_t begin, std::uint32_t end, Visit&& visit) const {
  const std::uint64_t first = file_.token_offset[r.value];
  if (!index_) {
    visit(first + begin, std::uint64_t{end} - begin);
    return;
  }
  for (std::uint64_t t = first + begin; t < first + end;) {
    const std::uint64_t row = index_->row(t);
    std::uint64_t n = 1;
    while (t + n < first + end && index_->row(t + n) == row + n) ++n;
    visit(row, n);
    t += n;
  }
}

/// Calls convert(i, row_bytes) for the rows of positions begin + i.
template <class Convert>
void NativeTrace::for_each_row(RowReader& reader, RequestId r, std::uint32_t begin, std::uint32_t end, std::uint64_t plane, Convert&& convert) {
  std::uint64_t i = 0;
  for_each_run(r, begin, end, [&](std::uint64_t row, std::uint64_t n) {
    const std::uint64_t stop = row + n;
    while (row < stop) {
      const RowReader::Piece piece = reader.piece(row, stop, plane);
      for (std::uint64_t j = 0; j < piece.n_rows; ++j) convert(i++, piece.data + j * piece.stride_bytes);
      row += piece.n_rows;
    }
  });
}

void NativeTrace::require_range(RequestId r, std::uint32_t begin, std::uint32_t end) const {
  if (r.value < n_requests() && begin <= end && end <= file_.requests[r.value].total_tokens()) return;
  throw UserError(file_.info.path, fmt::format("positions {}..{} of request {} were asked for", begin, end, r.value),
                  fmt::format("it has {} requests", n_requests()));
}

void NativeTrace::check_positions(RequestId r, std::uint32_t begin, std::uint32_t end) {
  const std::uint32_t prompt = file_.requests[r.value].prompt_tokens;
  for_each_row(*position_, r, begin, end, 0, [&](std::uint64_t i, const std::byte* row) {
    std::uint32_t position = 0;
    std::memcpy(&position, row, sizeof(position));
    if (position == begin + i) return;
    throw UserError(file_.info.path + ":/tokens/position", fmt::format("request {}: position {} where {} is next", r.value, position, begin + i),
                    "positions of a request run 0, 1, 2..; list all bad rows with: moekv trace info --check");
  });
  for_each_row(*phase_, r, begin, end, 0, [&](std::uint64_t i, const std::byte* row) {
    if (std::to_integer<unsigned>(*row) == (begin + i < prompt ? 0U : 1U)) return;
    throw UserError(
        file_.info.path + ":/tokens/phase",
        fmt::format("request {} position {}: phase {}, but the prompt has {} tokens", r.value, begin + i, std::to_integer<unsigned>(*row), prompt),
        "0 for the prompt_len first tokens, 1 after them");
  });
}

template <class Id>
void NativeTrace::expand_choice(const std::byte* row, std::uint64_t n, std::uint64_t per_choice, std::uint16_t* out) const {
  constexpr Id absent = static_cast<Id>(~Id{0});
  const Id* ids = reinterpret_cast<const Id*>(row);
  for (std::uint64_t i = 0; i < n; ++i) out[i] = ids[i] == absent ? ExpertId::invalid : ids[i];
  for (std::uint64_t i = 0; i < n; i += per_choice) {
    if (native::is_zero_fill(std::span<const std::uint16_t>(out + i, per_choice))) std::fill_n(out + i, per_choice, ExpertId::invalid);
  }
}

void NativeTrace::expand_ids(const RowReader& reader, const std::byte* row, std::uint64_t n, std::uint64_t per_choice, std::uint16_t* out) const {
  reader.type() == h5::Type::u8 ? expand_choice<std::uint8_t>(row, n, per_choice, out) : expand_choice<std::uint16_t>(row, n, per_choice, out);
}

void expand_halves(const std::byte* row, std::uint64_t n, float* out) {
  const auto* halves = reinterpret_cast<const std::uint16_t*>(row);
  for (std::uint64_t i = 0; i < n; ++i) out[i] = float_from_fp16(halves[i]);
}

void NativeTrace::read(RequestId r, std::uint32_t begin, std::uint32_t end, std::uint32_t layer_begin, std::uint32_t layer_end, WantLogits want,
                       RoutingRows& out) {
  require_range(r, begin, end);
  const TraceInfo& t = file_.info;
  if (layer_begin > layer_end || layer_end > t.moe_layers.size()) {
    throw UserError(t.path, fmt::format("routing layers {}..{} were asked for", layer_begin, layer_end),
                    fmt::format("it has {}", t.moe_layers.size()));
  }
  const std::uint64_t tokens = end - begin;
  const std::uint64_t layers = layer_end - layer_begin;
  out.begin = begin;
  out.end = end;
  out.layer_begin = layer_begin;
  out.layer_end = layer_end;
  out.ids.resize(tokens * layers * t.top_k);
  out.weights.resize(weights_ ? out.ids.size() : 0);
  out.logits.clear();
  if (tokens == 0 || layers == 0) return;
  check_positions(r, begin, end);
  const std::uint64_t k = t.top_k;
  for_each_row(*ids_, r, begin, end, layer_begin,
               [&](std::uint64_t i, const std::byte* row) { expand_ids(*ids_, row, layers * k, k, &out.ids[i * layers * k]); });
  if (weights_) {
    for_each_row(*weights_, r, begin, end, layer_begin,
                 [&](std::uint64_t i, const std::byte* row) { expand_halves(row, layers * k, &out.weights[i * layers * k]); });
    check_weights(r, out);
  }
  if (want == WantLogits::no) return;
  if (cand_ids_) read_candidates(r, out);
  if (logits_) {
    out.logits.resize(tokens * layers * t.n_experts);
    const std::uint64_t width = layers * t.n_experts;
    for_each_row(*logits_, r, begin, end, layer_begin,
                 [&](std::uint64_t i, const std::byte* row) { expand_halves(row, width, &out.logits[i * width]); });
  }
}

void NativeTrace::check_weights(RequestId r, const RoutingRows& rows) const {
  const TraceInfo& t = file_.info;
  const std::uint32_t layers = rows.layer_end - rows.layer_begin;
  for (std::size_t i = 0; i < rows.ids.size(); i += t.top_k) {
    const std::span<const float> weights(&rows.weights[i], t.top_k);
    if (native::weights_fit(file_.weight_kind, t.shape.gate.scale, std::span(&rows.ids[i], t.top_k), weights)) continue;
    const std::size_t row = i / t.top_k;
    throw UserError(t.path + ":/routing/weights",
                    fmt::format("request {} position {} layer {}: {{{:.4g}}} do not fit weight_kind '{}'", r.value, rows.begin + row / layers,
                                t.moe_layers[rows.layer_begin + row % layers], fmt::join(weights, ", "),
                                native::weight_kinds[static_cast<std::size_t>(file_.weight_kind)]),
                    "list all bad rows with: moekv trace info --check");
  }
}

void NativeTrace::read_candidates(RequestId r, RoutingRows& out) {
  const TraceInfo& t = file_.info;
  const std::uint64_t tokens = out.end - out.begin;
  const std::uint64_t layers = out.layer_end - out.layer_begin;
  const std::uint64_t width = layers * t.n_candidates;
  candidates_.resize(tokens * width);
  for_each_row(*cand_ids_, r, out.begin, out.end, out.layer_begin,
               [&](std::uint64_t i, const std::byte* row) { expand_ids(*cand_ids_, row, width, t.n_candidates, &candidates_[i * width]); });
  out.logits.assign(tokens * layers * t.n_experts, -std::numeric_limits<float>::infinity());
  for_each_row(*cand_logit_, r, out.begin, out.end, out.layer_begin, [&](std::uint64_t i, const std::byte* row) {
    const auto* halves = reinterpret_cast<const std::uint16_t*>(row);
    for (std::uint64_t j = 0; j < width; ++j) {
      const std::uint16_t expert = candidates_[i * width + j];
      if (expert != ExpertId::invalid) out.logits[(i * layers + j / t.n_candidates) * t.n_experts + expert] = float_from_fp16(halves[j]);
    }
  });
}

/// Converts one layer of a recorded tensor; rows land `stride` values apart.
void NativeTrace::read_plane(const char* name, std::optional<RowReader>& reader, RequestId r, std::uint32_t begin, std::uint32_t end,
                             std::uint64_t plane, std::size_t stride, float* out) {
  if (!reader) reader.emplace(file_.rows(name, RowPart::plane));
  const std::uint64_t n = reader->plane_bytes() / sizeof(std::uint16_t);
  for_each_row(*reader, r, begin, end, plane, [&](std::uint64_t i, const std::byte* row) {
    const auto* values = reinterpret_cast<const std::uint16_t*>(row);
    float* to = out + i * stride;
    bool finite = true;
    for (std::uint64_t j = 0; j < n; ++j) {
      to[j] = file_.kv_is_bf16 ? float_from_bf16(values[j]) : float_from_fp16(values[j]);
      finite = finite && std::isfinite(to[j]);
    }
    if (!finite) {
      throw UserError(fmt::format("{}:/{}", file_.info.path, name),
                      fmt::format("request {} position {} layer {}: not finite", r.value, begin + i, file_.info.kv_layers[plane]),
                      "record q, k, v again, or use the generator");
    }
  });
}

void NativeTrace::read_kv(RequestId r, std::uint32_t begin, std::uint32_t end, LayerId layer, RecordedKv& out) {
  const TraceInfo& t = file_.info;
  if (t.kv_layers.empty()) TraceSource::read_kv(r, begin, end, layer, out);
  require_range(r, begin, end);
  const auto it = std::lower_bound(t.kv_layers.begin(), t.kv_layers.end(), layer.value);
  if (it == t.kv_layers.end() || *it != layer.value) {
    throw UserError(t.path, fmt::format("has no recorded q, k, v of layer {}", layer.value),
                    fmt::format("it has layers {}", fmt::join(t.kv_layers, ", ")));
  }
  const auto plane = static_cast<std::uint64_t>(it - t.kv_layers.begin());
  const ModelShape& s = t.shape;
  const std::size_t tokens = end - begin;
  const std::size_t q_values = std::size_t{s.n_heads} * s.d_k;
  const std::size_t k_values = std::size_t{s.n_kv_heads} * s.d_k;
  const std::size_t v_values = s.mla() ? 0 : std::size_t{s.n_kv_heads} * s.d_v;
  out.q.resize(tokens * q_values);
  out.k.resize(tokens * k_values);
  out.v.resize(tokens * v_values);
  if (tokens == 0) return;
  read_plane("kv/q", q_, r, begin, end, plane, q_values, out.q.data());
  if (s.mla()) {
    read_plane("kv/ckv", ckv_, r, begin, end, plane, k_values, out.k.data());
    if (s.latent.d_rope > 0) read_plane("kv/kpe", kpe_, r, begin, end, plane, k_values, out.k.data() + s.latent.d_c);
  } else {
    read_plane("kv/k", k_, r, begin, end, plane, k_values, out.k.data());
    read_plane("kv/v", v_, r, begin, end, plane, v_values, out.v.data());
  }
}

}  // namespace

std::unique_ptr<TraceSource> open_native_trace(const std::string& path) { return std::make_unique<NativeTrace>(path); }

}  // namespace moekv
