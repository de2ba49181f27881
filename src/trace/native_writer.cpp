// NativeWriter: checks each row as a reader would, buffers rows to whole chunks, and lets the file appear only when it is complete.
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <optional>

#include "core/error.hpp"
#include "io/hdf5.hpp"
#include "io/pending_file.hpp"
#include "trace/native_column.hpp"
#include "trace/native_format.hpp"
#include "trace/native_schema.hpp"
#include "trace/writer.hpp"

namespace moekv {

using native::Column;
using native::IdColumn;
using native::RealColumn;

class NativeWriter::Impl {
 public:
  Impl(const std::string& path, WriterSpec spec);
  void begin_request(const RequestInfo& request, std::span<const std::uint64_t> hash_ids);
  void append(const TokenBlock& block);
  void finish();
  void name_domains(const std::vector<std::string>& names) { spec_.domain_names = names; }
  std::vector<std::string> log;

 private:
  void create_requests_and_tokens();
  void create_routing();
  void create_kv();
  void require_complete_request() const;
  void check_sizes(const TokenBlock& b) const;
  void add_ids(IdColumn& column, const std::vector<std::uint16_t>& ids, std::uint32_t per_choice, const char* name);
  void add_reals(RealColumn& column, const std::vector<float>& values, const char* name, float low = -std::numeric_limits<float>::infinity());
  void add_kv(const TokenBlock& b);
  void flush();
  [[noreturn]] void refuse(const std::string& what, const std::string& suggestion = {}) const {
    throw UserError(pending_.final_path(), what, suggestion);
  }
  /// "request 3 position 17" for element i of n, spread over the tokens of the block being appended.
  [[nodiscard]] std::string place(std::size_t i, std::size_t n) const;

  PendingFile pending_;
  WriterSpec spec_;
  std::optional<h5::File> file_;
  std::uint64_t n_requests_ = 0, n_tokens_ = 0, n_hashes_ = 0;
  RequestInfo current_;
  std::uint32_t position_ = 0;      // rows of the current request so far
  std::uint32_t block_tokens_ = 0;  // tokens of the block being appended

  std::optional<Column<std::int64_t>> arrival_ns_;
  std::optional<Column<std::uint32_t>> prompt_len_, output_len_, position_column_;
  std::optional<Column<std::int32_t>> session_, token_id_;
  std::optional<Column<std::uint16_t>> domain_;
  std::optional<Column<std::uint64_t>> token_offset_, hash_offset_, hash_ids_;
  std::optional<Column<std::uint8_t>> phase_;
  std::optional<Column<float>> lse_;
  std::optional<IdColumn> ids_, cand_ids_;
  std::optional<RealColumn> weights_, cand_logit_, logits_, q_, k_, v_, ckv_, kpe_;
};

NativeWriter::Impl::Impl(const std::string& path, WriterSpec spec) : pending_(path), spec_(std::move(spec)) {
  if (auto problems = native::problems_of(spec_, path); !problems.empty()) throw UserError(std::move(problems));
  file_ = h5::File::create(pending_.temporary_path());
  native::write_facts(*file_, spec_);
  create_requests_and_tokens();
  if (spec_.info.has_routing()) create_routing();
  if (!spec_.info.kv_layers.empty()) create_kv();
}

void NativeWriter::Impl::create_requests_and_tokens() {
  h5::Group requests = file_->create_group("requests");
  arrival_ns_.emplace(requests, "arrival_ns", h5::Dims{});
  prompt_len_.emplace(requests, "prompt_len", h5::Dims{});
  output_len_.emplace(requests, "output_len", h5::Dims{});
  session_.emplace(requests, "session", h5::Dims{});
  domain_.emplace(requests, "domain", h5::Dims{});
  token_offset_.emplace(requests, "token_offset", h5::Dims{});
  token_offset_->add(0);
  if (spec_.has_hash_ids) {
    hash_offset_.emplace(requests, "hash_offset", h5::Dims{});
    hash_offset_->add(0);
    hash_ids_.emplace(requests, "hash_ids", h5::Dims{});
    hash_ids_->dataset().set("block_tokens", spec_.hash_block_tokens);
  }
  h5::Group tokens = file_->create_group("tokens");
  position_column_.emplace(tokens, "position", h5::Dims{});
  phase_.emplace(tokens, "phase", h5::Dims{});
  if (spec_.has_token_ids) token_id_.emplace(tokens, "token_id", h5::Dims{});
}

void NativeWriter::Impl::create_routing() {
  const TraceInfo& t = spec_.info;
  const std::uint64_t layers = t.moe_layers.size();
  h5::Group routing = file_->create_group("routing");
  ids_.emplace(routing, "expert_ids", h5::Dims{layers, t.top_k}, t.n_experts);
  if (t.level >= RoutingLevel::weights) weights_.emplace(routing, "weights", h5::Dims{layers, t.top_k});
  if (t.level == RoutingLevel::candidates) {
    cand_ids_.emplace(routing, "cand_ids", h5::Dims{layers, t.n_candidates}, t.n_experts);
    cand_logit_.emplace(routing, "cand_logit", h5::Dims{layers, t.n_candidates});
    lse_.emplace(routing, "lse", h5::Dims{layers});
  }
  if (t.level == RoutingLevel::logits) logits_.emplace(routing, "logits", h5::Dims{layers, t.n_experts});
}

void NativeWriter::Impl::create_kv() {
  const ModelShape& s = spec_.info.shape;
  const std::uint64_t layers = spec_.info.kv_layers.size();
  h5::Group kv = file_->create_group("kv");
  kv.set("rope_applied", std::uint8_t{1});
  kv.set("scale", s.softmax_scale);
  kv.write("layer_ids", std::vector<std::int16_t>(spec_.info.kv_layers.begin(), spec_.info.kv_layers.end()));
  const auto type = spec_.kv_type == KvType::fp16 ? native::RealType::fp16 : native::RealType::bf16;
  const auto create = [&](std::optional<RealColumn>& column, const char* name, const h5::Dims& row) {
    column.emplace(kv, name, row, type, native::Planes::apart);
  };
  create(q_, "q", {layers, s.n_heads, s.d_k});
  if (s.mla()) {
    create(ckv_, "ckv", {layers, s.latent.d_c});
    if (s.latent.d_rope > 0) create(kpe_, "kpe", {layers, s.latent.d_rope});
  } else {
    create(k_, "k", {layers, s.n_kv_heads, s.d_k});
    create(v_, "v", {layers, s.n_kv_heads, s.d_v});
  }
}

void NativeWriter::Impl::require_complete_request() const {
  if (n_requests_ == 0 || position_ == current_.total_tokens() || !spec_.info.has_routing()) return;
  refuse(fmt::format("request {} has rows for {} tokens, but prompt {} + output {}", n_requests_ - 1, position_, current_.prompt_tokens,
                     current_.output_tokens),
         "append a row for every token");
}

void NativeWriter::Impl::begin_request(const RequestInfo& request, std::span<const std::uint64_t> hash_ids) {
  require_complete_request();
  if (request.total_tokens() == 0) refuse(fmt::format("request {} has no tokens", n_requests_), "leave it out");
  if (n_requests_ == native::most_requests) refuse(fmt::format("more than {} requests", native::most_requests), "split the trace");
  if (!hash_ids.empty() && !spec_.has_hash_ids) refuse("hash ids were not announced", "set has_hash_ids");
  current_ = request;
  position_ = 0;
  ++n_requests_;
  n_tokens_ += request.total_tokens();
  arrival_ns_->add(request.arrival_ns);
  prompt_len_->add(request.prompt_tokens);
  output_len_->add(request.output_tokens);
  session_->add(request.session);
  domain_->add(request.domain);
  token_offset_->add(n_tokens_);
  if (!spec_.has_hash_ids) return;
  for (const auto h : hash_ids) hash_ids_->add(h);
  n_hashes_ += hash_ids.size();
  hash_offset_->add(n_hashes_);
}

void NativeWriter::Impl::check_sizes(const TokenBlock& b) const {
  const TraceInfo& t = spec_.info;
  const ModelShape& s = t.shape;
  const std::uint64_t rows = std::uint64_t{b.n_tokens} * t.moe_layers.size();
  const std::uint64_t kv_rows = std::uint64_t{b.n_tokens} * t.kv_layers.size();
  const std::uint64_t candidates = t.level == RoutingLevel::candidates ? rows * t.n_candidates : 0;
  const auto expect = [&](std::size_t have, std::uint64_t want, const char* name) {
    if (have != want) refuse(fmt::format("{} has {} values for {} tokens, expected {}", name, have, b.n_tokens, want));
  };
  expect(b.ids.size(), rows * t.top_k, "ids");
  expect(b.weights.size(), weights_ ? rows * t.top_k : 0, "weights");
  expect(b.cand_ids.size(), candidates, "cand_ids");
  expect(b.cand_logit.size(), candidates, "cand_logit");
  expect(b.lse.size(), lse_ ? rows : 0, "lse");
  expect(b.logits.size(), logits_ ? rows * t.n_experts : 0, "logits");
  expect(b.token_ids.size(), spec_.has_token_ids ? b.n_tokens : 0, "token_ids");
  expect(b.q.size(), kv_rows * s.n_heads * s.d_k, "q");
  expect(b.k.size(), kv_rows * s.n_kv_heads * s.d_k, "k");
  expect(b.v.size(), s.mla() ? 0 : kv_rows * s.n_kv_heads * s.d_v, "v");
}

std::string NativeWriter::Impl::place(std::size_t i, std::size_t n) const {
  return fmt::format("request {} position {}", n_requests_ - 1, position_ + i / (n / block_tokens_));
}

void NativeWriter::Impl::add_ids(IdColumn& column, const std::vector<std::uint16_t>& ids, std::uint32_t per_choice, const char* name) {
  const auto& layers = spec_.info.moe_layers;
  for (std::size_t i = 0; i < ids.size(); i += per_choice) {
    const std::span<const std::uint16_t> choice(ids.data() + i, per_choice);
    const native::ChoiceFault fault = native::fault_of(choice, spec_.info.n_experts);
    if (fault != native::ChoiceFault::none) {
      const std::string why =
          fault == native::ChoiceFault::repeated ? "an expert occurs twice" : fmt::format("not below {} experts", spec_.info.n_experts);
      refuse(fmt::format("{} of {} layer {}: {{{}}}: {}", name, place(i, ids.size()), layers[i / per_choice % layers.size()], fmt::join(choice, ", "),
                         why),
             "check the number of experts and the axes of the source");
    }
    for (const auto id : choice) column.add(id);
  }
}

void NativeWriter::Impl::add_reals(RealColumn& column, const std::vector<float>& values, const char* name, float low) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] >= low && column.add(values[i])) continue;
    refuse(fmt::format("{} of {}: {} cannot be stored", name, place(i, values.size()), values[i]),
           low == 0.0F ? "weights are finite and not negative" : "values are finite and at most 65504; q, k, v may be stored as bf16");
  }
}

void NativeWriter::Impl::add_kv(const TokenBlock& b) {
  const LatentShape& latent = spec_.info.shape.latent;
  add_reals(*q_, b.q, "q");
  if (latent.d_c == 0) {
    add_reals(*k_, b.k, "k");
    add_reals(*v_, b.v, "v");
    return;
  }
  const std::size_t width = std::size_t{latent.d_c} + latent.d_rope;
  for (std::size_t i = 0; i < b.k.size(); ++i) {
    RealColumn& column = i % width < latent.d_c ? *ckv_ : *kpe_;
    if (!column.add(b.k[i])) refuse(fmt::format("latent of {}: {} cannot be stored", place(i, b.k.size()), b.k[i]), "store it as bf16");
  }
}

void NativeWriter::Impl::append(const TokenBlock& b) {
  if (n_requests_ == 0) refuse("rows before the first request", "call begin_request first");
  if (!spec_.info.has_routing()) refuse("rows in a request trace", "name the layers they belong to");
  if (b.n_tokens > current_.total_tokens() - position_) {
    refuse(fmt::format("request {} has more than its {} tokens", n_requests_ - 1, current_.total_tokens()), "check its lengths");
  }
  check_sizes(b);
  if (b.n_tokens == 0) return;
  block_tokens_ = b.n_tokens;
  const TraceInfo& t = spec_.info;
  add_ids(*ids_, b.ids, t.top_k, "experts");
  if (weights_) add_reals(*weights_, b.weights, "weight", 0.0F);
  if (cand_ids_) {
    add_ids(*cand_ids_, b.cand_ids, t.n_candidates, "candidates");
    add_reals(*cand_logit_, b.cand_logit, "candidate logit");
    for (const float x : b.lse) std::isfinite(x) ? lse_->add(x) : refuse("lse is not finite");
  }
  if (logits_) add_reals(*logits_, b.logits, "logit");
  if (q_) add_kv(b);
  for (const auto id : b.token_ids) token_id_->add(id);
  for (std::uint32_t i = 0; i < b.n_tokens; ++i, ++position_) {
    position_column_->add(position_);
    phase_->add(position_ < current_.prompt_tokens ? std::uint8_t{0} : std::uint8_t{1});
  }
}

void NativeWriter::Impl::flush() {
  const auto each = [](auto&... columns) { ((columns ? columns->flush() : void()), ...); };
  each(arrival_ns_, prompt_len_, output_len_, session_, domain_, token_offset_, hash_offset_, hash_ids_, position_column_, phase_, token_id_);
  each(ids_, weights_, cand_ids_, cand_logit_, lse_, logits_, q_, k_, v_, ckv_, kpe_);
}

void NativeWriter::Impl::finish() {
  require_complete_request();
  if (n_requests_ == 0) refuse("a trace needs at least one request", "check the source's filter");
  flush();
  for (auto& name : spec_.domain_names) name = native::clipped(name);
  if (!spec_.domain_names.empty()) file_->group("requests").write("domain_names", spec_.domain_names);
  file_->create_group("provenance").write("import_log", log);
  file_->close();
  pending_.commit();
}

NativeWriter::NativeWriter(const std::string& path, WriterSpec spec) : impl_(std::make_unique<Impl>(path, std::move(spec))) {}
NativeWriter::~NativeWriter() = default;
void NativeWriter::begin_request(const RequestInfo& request, std::span<const std::uint64_t> hash_ids) { impl_->begin_request(request, hash_ids); }
void NativeWriter::append(const TokenBlock& block) { impl_->append(block); }
void NativeWriter::name_domains(const std::vector<std::string>& names) { impl_->name_domains(names); }
void NativeWriter::note(const std::string& line) { impl_->log.push_back(native::clipped(line)); }
void NativeWriter::finish() { impl_->finish(); }

}  // namespace moekv
