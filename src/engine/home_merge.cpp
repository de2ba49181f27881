// Home, phase combine: partial results of all owner ranks, merged in rank order into attention outputs.
#include <algorithm>

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
  out.o.resize(payload_ ? rows * model.d_v : 0);
  out.lse.resize(payload_ ? rows : 0);
  out.probe_reads.assign(home_of_.size(), {});
  answered_.assign(home_of_.size(), 0);
  std::size_t received = 0;
  for (int p = 0; p < transport_->n_processes(); ++p) received += transport_->received(p).size();
  if (geometry_->spec().combine == CombineType::bf16) part_o_.resize(received / 2);  // links point into it
  n_decoded_ = 0;
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
  const std::uint32_t d_v = geometry_->spec().model.d_v;
  PartialRows rows = payload_ ? take_partials(in, std::size_t{segment.n_partials} * slice.q_count) : PartialRows{};
  const std::int64_t bytes = partial_bytes(slice);
  for (const PartialHeader& header : headers) {
    answered_[header.query] = 1;
    if (geometry_->needs_mass() && observed_[header.query] != 0) lse_waiting_.push_back({segment.rank, home_of_[header.query], header.query});
    for (std::uint32_t h = 0; payload_ && h < slice.q_count; ++h, rows.o += d_v) {
      links_.push_back({header.query * n_heads + slice.q_begin + h, {{*rows.m++, *rows.l++}, rows.o}});
    }
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

Home::PartialRows Home::take_partials(WireReader& in, std::size_t rows) {
  const std::size_t values = rows * geometry_->spec().model.d_v;
  const float* m = in.take<float>(rows).data();
  const float* l = in.take<float>(rows).data();
  if (geometry_->spec().combine == CombineType::fp32) return {m, l, in.take<float>(values).data()};
  float* o = part_o_.data() + n_decoded_;
  n_decoded_ += values;
  std::ranges::transform(in.take<std::uint16_t>(values), o, [](std::uint16_t bits) { return float_from_bits(std::uint32_t{bits} << 16); });
  return {m, l, o};
}

void Home::merge_parts(const LayerInput& input, LayerOutput& out) {
  const ModelShape& model = geometry_->spec().model;
  // Parts of an output row stay in the order of arrival, which is that of the ranks.
  offsets_.assign(out.lse.size() + 2, 0);
  for (const Link& link : links_) offsets_[link.row + 2] += 1;
  for (std::size_t r = 2; r < offsets_.size(); ++r) offsets_[r] += offsets_[r - 1];
  parts_.resize(links_.size());
  for (const Link& link : links_) parts_[offsets_[link.row + 1]++] = link.part;
  offsets_.pop_back();
  sink_rows_.clear();
  for (std::size_t q = 0; input.sinks != nullptr && q < home_of_.size(); ++q) {
    sink_rows_.insert(sink_rows_.end(), input.sinks, input.sinks + model.n_heads);
  }
  merge_partials({offsets_, parts_, model.d_v, sink_rows_.empty() ? nullptr : sink_rows_.data(), out.lse.data(), out.o.data()}, geometry_->spec().threads);
  last_lse_ = out.lse;
}

}  // namespace moekv
