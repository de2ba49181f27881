// NumPy recordings: ids [T, L, K] or [L, T, K] (or [T, K]) with weights, full gate logits, sequence lengths, token ids and q, k, v.
#include <fmt/format.h>

#include <algorithm>

#include "trace/npz_recording.hpp"

namespace moekv {
namespace npz {

/// Slabs come as [tokens][others in file order]; with layers first that is again [tokens][layers][...].
void Recording::read_ids(std::uint64_t begin, std::uint64_t end, TokenBlock& block) {
  ids_->read_ints(layer_first_ ? 1 : 0, begin, end, integers_);
  const bool byte_sentinel = ids_->header().kind == NpyKind::unsigned_int && ids_->header().item_bytes == 1 && sink_.n_experts() <= 255;
  block.ids.resize(integers_.size());
  for (std::size_t i = 0; i < integers_.size(); ++i) {
    const std::int64_t id = integers_[i];
    if (id > 65535)
      throw UserError(ids_->name(), fmt::format("token {}: {} is not an expert id", begin + i * block.n_tokens / integers_.size(), id),
                      "is this the member with the ids?");
    block.ids[i] = id < 0 || (byte_sentinel && id == 255) ? ExpertId::invalid : static_cast<std::uint16_t>(id);
  }
}

TokenBlock Recording::read_block(std::uint64_t begin, std::uint64_t end) {
  const std::uint32_t axis = layer_first_ ? 1 : 0;
  TokenBlock block;
  block.n_tokens = static_cast<std::uint32_t>(end - begin);
  const auto n_rows = static_cast<std::uint32_t>(block.n_tokens * n_layers_);
  if (ids_ != nullptr) read_ids(begin, end, block);
  if (weights_ != nullptr) weights_->read_floats(axis, begin, end, block.weights);
  if (logits_ != nullptr) {
    logits_->read_floats(axis, begin, end, block.logits);
    if (ids_ == nullptr)
      choose_from_logits(sink_.gate(), n_rows, block.logits, block.ids, block.weights);
    else if (weights_ == nullptr)
      weights_from_logits(sink_.gate(), n_rows, block.logits, block.ids, block.weights);
  }
  if (token_ids_ != nullptr) {
    token_ids_->read_ints(0, begin, end, integers_);
    block.token_ids.assign(integers_.begin(), integers_.end());
  }
  if (q_ != nullptr) q_->read_floats(axis, begin, end, block.q);
  if (k_ != nullptr) k_->read_floats(axis, begin, end, block.k);
  if (v_ != nullptr) v_->read_floats(axis, begin, end, block.v);
  return block;
}

void Recording::emit() {
  std::uint64_t values = 0;  // per token, of the widest array
  for (const NpyArray* a : {ids_, weights_, logits_, q_, k_, v_}) {
    if (a != nullptr) values = std::max(values, a->header().n_items() / std::max<std::uint64_t>(n_tokens_, 1));
  }
  const std::uint64_t step = std::clamp<std::uint64_t>((16ULL << 20) / std::max<std::uint64_t>(values, 1), 16, 1024);
  std::uint64_t begin = 0;
  for (std::size_t s = 0; s < seq_lens_.size() && !sink_.full(); ++s) {
    const std::uint64_t end = begin + static_cast<std::uint64_t>(seq_lens_[s]);
    RequestInfo request;
    const std::int64_t prompt = prompt_lens_.empty() ? seq_lens_[s] : decode_only_ ? 0 : prompt_lens_[s];
    request.prompt_tokens = static_cast<std::uint32_t>(prompt);
    request.output_tokens = static_cast<std::uint32_t>(seq_lens_[s] - prompt);
    if (!arrivals_.empty()) request.arrival_ns = arrivals_[s];
    if (!options_.domains.empty())
      request.domain = sink_.domain(options_.domains[0]);
    else if (!domains_.empty())
      request.domain = sink_.domain(domains_[s]);
    const std::string place = fmt::format("{}: sequence {}", path_, s);
    const bool wanted = sink_.begin_request(request, place);
    for (std::uint64_t at = begin; wanted && at < end; at += step) sink_.append(read_block(at, std::min(end, at + step)), place);
    begin = end;
  }
}

namespace {

bool alike(const SourceFacts& a, const SourceFacts& b) {
  return a.n_layers == b.n_layers && a.layer_ids == b.layer_ids && a.top_k == b.top_k && a.has_weights == b.has_weights &&
         a.has_logits == b.has_logits && a.kv_layers == b.kv_layers && a.has_token_ids == b.has_token_ids;
}

}  // namespace
}  // namespace npz

bool detect_npz(const InputProbe& probe) { return looks_like_npy(probe.head) || looks_like_zip(probe.head); }

/// Memory: blocks of at most 16 Mi values. C-ordered [T, L, K] members stream; deflated members in another order are unpacked to a
/// temporary file once. Several .npy files whose names are roles (ids.npy, weights.npy) are one recording; others are one each.
void import_npz(const ImportOptions& options, ImportSink& sink) {
  std::vector<std::pair<std::string, NpyArrays>> sets;
  NpyArrays together;
  for (const auto& path : options.inputs) {
    NpyArrays arrays = open_arrays(path);
    const std::string stem = arrays.size() == 1 ? arrays.begin()->first : "";
    const bool role = options.inputs.size() > 1 && std::ranges::any_of(npz::role_names(), [&](const auto& r) {
                        return std::ranges::count(r.second, stem) > 0 || (options.fields.contains(r.first) && options.fields.at(r.first) == stem);
                      });
    if (role)
      together.merge(arrays);
    else
      sets.emplace_back(path, std::move(arrays));
  }
  if (!together.empty()) sets.emplace_back(options.inputs.front(), std::move(together));
  std::optional<SourceFacts> first;
  for (auto& [path, arrays] : sets) {
    if (sink.full()) break;
    npz::Recording recording(options, sink, std::move(arrays), path);
    const SourceFacts facts = recording.facts();
    if (!first)
      sink.describe(facts, path);
    else if (!npz::alike(facts, *first)) {
      throw UserError(path, "has other layers, top_k or members than " + options.inputs.front(), "import it on its own");
    }
    if (!first) first = facts;
    recording.note_unused();
    recording.emit();
  }
}

}  // namespace moekv
