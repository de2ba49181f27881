// Home, phase combine: partial results of all owner ranks, merged in rank order into attention outputs.
#include <algorithm>
#include <limits>

#include "core/math.hpp"
#include "engine/home.hpp"

namespace moekv {

void Home::merge(const LayerInput& input, LayerOutput& out) {
  const ModelShape& model = geometry_->spec().model;
  home_of_.clear();
  observed_.clear();
  for (const HomeToken& t : input.tokens) {
    if (!t.query) continue;
    home_of_.push_back(t.home);
    observed_.push_back(t.observed ? 1 : 0);
  }
  const std::size_t rows = home_of_.size() * model.n_heads;
  out.o.assign(payload_ ? rows * model.d_v : 0, 0.0F);
  out.lse.assign(payload_ ? rows : 0, -std::numeric_limits<float>::infinity());
  out.probe_reads.assign(home_of_.size(), {});
  answered_.assign(home_of_.size(), 0);
  part_m_.clear();
  part_l_.clear();
  part_o_.clear();
  links_.clear();
  for (int p = 0; p < transport_->n_processes(); ++p) {
    WireReader in(transport_->received(p));
    while (!in.done()) take_segment(in, out);
  }
  counters_->step.empty_reads += std::count(answered_.begin(), answered_.end(), 0);
  if (payload_) merge_parts(input, out);
}

void Home::take_segment(WireReader& in, LayerOutput& out) {
  const std::uint32_t n_heads = geometry_->spec().model.n_heads;
  const CombineSegment segment = in.take<CombineSegment>(1)[0];
  const HeadSlice slice = geometry_->slice(Rank(segment.rank));
  const auto headers = in.take<PartialHeader>(segment.n_partials);
  auto part = static_cast<std::uint32_t>(part_m_.size());
  if (payload_) take_partials(in, std::size_t{segment.n_partials} * slice.q_count);
  const std::int64_t bytes = partial_bytes(slice);
  for (const PartialHeader& header : headers) {
    answered_[header.query] = 1;
    if (geometry_->needs_mass() && observed_[header.query] != 0) lse_waiting_.push_back({segment.rank, home_of_[header.query], header.query});
    for (std::uint32_t h = 0; payload_ && h < slice.q_count; ++h) links_.emplace_back(header.query * n_heads + slice.q_begin + h, part++);
    account(Rank(header.home), ByteClass::partial, bytes);
    account(Rank(header.home), ByteClass::headers, static_cast<std::int64_t>(sizeof(PartialHeader)));
  }
  for (const std::uint32_t s : touched_sources()) {
    counters_->received(Rank(segment.rank), Rank(first_.value + s), pair_[s]);
    pair_[s] = ByteCounts{};
  }
  touched_.clear();
  const auto probe = in.take<std::uint32_t>(segment.n_probe_words);
  for (std::size_t i = 0; i < probe.size(); i += 4 + probe[i + 3]) {
    out.probe_reads[probe[i]].push_back({probe[i + 1], probe[i + 2], {probe.begin() + i + 4, probe.begin() + i + 4 + probe[i + 3]}});
  }
}

void Home::take_partials(WireReader& in, std::size_t rows) {
  const std::size_t values = rows * geometry_->spec().model.d_v;
  const auto m = in.take<float>(rows);
  const auto l = in.take<float>(rows);
  part_m_.insert(part_m_.end(), m.begin(), m.end());
  part_l_.insert(part_l_.end(), l.begin(), l.end());
  if (geometry_->spec().combine == CombineType::bf16) {
    for (const std::uint16_t bits : in.take<std::uint16_t>(values)) part_o_.push_back(float_from_bits(std::uint32_t{bits} << 16));
  } else {
    const auto o = in.take<float>(values);
    part_o_.insert(part_o_.end(), o.begin(), o.end());
  }
}

void Home::merge_parts(const LayerInput& input, LayerOutput& out) {
  const ModelShape& model = geometry_->spec().model;
  const std::size_t rows = out.lse.size();
  // Parts of an output row stay in the order of arrival, which is that of the ranks.
  std::stable_sort(links_.begin(), links_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  offsets_.assign(rows + 1, 0);
  parts_.resize(links_.size());
  for (std::size_t i = 0; i < links_.size(); ++i) {
    offsets_[links_[i].first + 1] += 1;
    parts_[i] = links_[i].second;
  }
  for (std::size_t r = 0; r < rows; ++r) offsets_[r + 1] += offsets_[r];
  m_out_.resize(rows);
  l_out_.resize(rows);
  sink_rows_.clear();
  for (std::size_t q = 0; input.sinks != nullptr && q < home_of_.size(); ++q) {
    sink_rows_.insert(sink_rows_.end(), input.sinks, input.sinks + model.n_heads);
  }
  backend_->merge({offsets_, parts_, part_m_.data(), part_l_.data(), part_o_.data(), model.d_v, sink_rows_.empty() ? nullptr : sink_rows_.data(), m_out_.data(),
                   l_out_.data(), out.o.data()});
  backend_->sync();
  for (std::size_t r = 0; r < rows; ++r) {
    if (!(l_out_[r] > 0)) continue;
    out.lse[r] = m_out_[r] + log_fixed(l_out_[r]);
    for (std::uint32_t d = 0; d < model.d_v; ++d) out.o[r * model.d_v + d] /= l_out_[r];
  }
  last_lse_ = out.lse;
}

}  // namespace moekv
