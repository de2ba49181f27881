// Native traces as input: cuts, warm-up removal, taking interleaved sequences apart, pseudo logits.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "trace/import_sink.hpp"
#include "trace/native_file.hpp"
#include "trace/pseudo_logits.hpp"

namespace moekv {
namespace {

/// Positions [begin, end) of one request.
struct Range {
  std::uint32_t begin, end;
};

class NativeInput {
 public:
  NativeInput(const ImportOptions& options, ImportSink& sink, const std::string& path)
      : options_(options),
        sink_(sink),
        path_(path),
        file_(path),
        source_(open_native_trace(path)),
        info_(source_->info()),
        dropped_(source_->n_requests()) {}
  [[nodiscard]] SourceFacts facts();
  void emit();

 private:
  [[nodiscard]] bool transformed() const { return options_.deinterleave > 1 || options_.drop_warmup; }
  TokenBlock read(std::uint32_t request, std::uint32_t begin, std::uint32_t end);
  void read_kv(std::uint32_t request, std::uint32_t begin, std::uint32_t end, TokenBlock& block);
  void survey();
  void emit_request(std::uint32_t request, std::span<const std::uint64_t> hash_ids);
  void emit_strand(std::uint32_t request, std::uint32_t strand, const std::vector<std::uint32_t>& kept, std::span<const std::uint64_t> hash_ids);
  [[nodiscard]] std::vector<std::uint64_t> hashes(std::uint32_t request);

  const ImportOptions& options_;
  ImportSink& sink_;
  std::string path_;
  native::NativeFile file_;
  std::unique_ptr<TraceSource> source_;
  const TraceInfo& info_;
  std::vector<std::vector<Range>> dropped_;  // by request
  std::optional<PseudoLogits> pseudo_;
  std::optional<RowReader> token_ids_, hash_offset_, hash_ids_;
  std::vector<std::string> domains_;
  RoutingRows rows_;
  RecordedKv kv_;
  std::uint32_t n_emitted_ = 0;
};

SourceFacts NativeInput::facts() {
  SourceFacts facts;
  facts.n_layers = static_cast<std::uint32_t>(info_.moe_layers.size());
  facts.layer_ids = info_.moe_layers;
  facts.n_experts = info_.n_experts;
  facts.top_k = info_.top_k;
  facts.has_weights = info_.has_routing() && (info_.level != RoutingLevel::ids || options_.pseudo_logits);
  facts.has_logits = info_.level == RoutingLevel::logits || options_.pseudo_logits;
  facts.model_name = info_.model_name;
  facts.workload = info_.workload;
  facts.source = info_.source;
  facts.source_uri = info_.source_uri;
  facts.license = info_.license;
  facts.joined = info_.joined;
  if (!info_.shape.layers.empty()) facts.shape = info_.shape;
  if (options_.pseudo_logits && info_.level == RoutingLevel::logits) throw UserError(path_, "has logits already", "leave out --pseudo-logits");
  if (info_.level == RoutingLevel::candidates) sink_.warn(path_ + ": the candidate lists are left out; the chosen experts and weights are kept");
  if (transformed() && !info_.kv_layers.empty())
    sink_.warn(path_ + ": positions change, so the recorded q, k, v are left out");
  else
    facts.kv_layers = info_.kv_layers;
  if (file_.has("tokens/token_id") && file_.order == native::TokenOrder::request) token_ids_.emplace(file_.rows("tokens/token_id"));
  facts.has_token_ids = token_ids_.has_value();
  if (file_.has("requests/hash_ids") && file_.has("requests/hash_offset")) {
    hash_ids_.emplace(file_.rows("requests/hash_ids"));
    hash_offset_.emplace(file_.rows("requests/hash_offset"));
    facts.hash_block_tokens = file_.file.dataset("requests/hash_ids").number<std::uint32_t>("block_tokens");
  }
  facts.has_hash_ids = hash_ids_.has_value();
  if (file_.has("requests/domain_names")) domains_ = file_.file.dataset("requests/domain_names").read_texts();
  return facts;
}

void NativeInput::read_kv(std::uint32_t request, std::uint32_t begin, std::uint32_t end, TokenBlock& block) {
  const std::size_t n = end - begin, n_layers = info_.kv_layers.size();
  for (std::size_t l = 0; l < n_layers; ++l) {
    source_->read_kv(RequestId(request), begin, end, LayerId(info_.kv_layers[l]), kv_);
    const auto scatter = [&](const std::vector<float>& from, std::vector<float>& to) {
      const std::size_t width = from.size() / n;
      to.resize(n * n_layers * width);
      for (std::size_t t = 0; t < n; ++t)
        std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(t * width), width,
                    to.begin() + static_cast<std::ptrdiff_t>((t * n_layers + l) * width));
    };
    scatter(kv_.q, block.q);
    scatter(kv_.k, block.k);
    scatter(kv_.v, block.v);
  }
}

TokenBlock NativeInput::read(std::uint32_t request, std::uint32_t begin, std::uint32_t end) {
  const bool logits = info_.level == RoutingLevel::logits;
  source_->read(RequestId(request), begin, end, 0, static_cast<std::uint32_t>(info_.moe_layers.size()), logits ? WantLogits::yes : WantLogits::no,
                rows_);
  TokenBlock block;
  block.n_tokens = end - begin;
  block.ids = rows_.ids;
  block.weights = rows_.weights;
  if (logits) block.logits = rows_.logits;
  if (token_ids_) {
    block.token_ids.resize(block.n_tokens);
    const std::uint64_t first = file_.token_offset[request];
    token_ids_->read(first + begin, first + end, block.token_ids.data());
  }
  if (!transformed() && !info_.kv_layers.empty()) read_kv(request, begin, end, block);
  return block;
}

/// The first pass: warm-up runs (over request boundaries) and what pseudo logits need.
void NativeInput::survey() {
  const auto n_layers = static_cast<std::uint32_t>(info_.moe_layers.size());
  if (options_.pseudo_logits) pseudo_.emplace(n_layers, info_.n_experts, info_.top_k, file_.weight_kind, options_.weight_floor, options_.seed);
  std::vector<std::pair<std::uint32_t, Range>> run;  // parts of the current run, by request
  std::uint64_t signature = 0, length = 0, n_dropped = 0;
  const auto end_run = [&] {
    if (options_.drop_warmup && length >= warmup_run_tokens) {
      for (const auto& [request, range] : run) dropped_[request].push_back(range);
      n_dropped += length;
    }
    run.clear();
    length = 0;
  };
  for (std::uint32_t r = 0; r < source_->n_requests(); ++r) {
    const std::uint32_t total = source_->request(RequestId(r)).total_tokens();
    for (std::uint32_t begin = 0; begin < total; begin += block_tokens) {
      const TokenBlock block = read(r, begin, std::min(begin + block_tokens, total));
      if (pseudo_) pseudo_->observe(block.n_tokens, block.ids, block.weights);
      for (std::uint32_t t = 0; t < block.n_tokens; ++t) {
        const std::uint64_t here = set_signature(block.ids.data() + std::size_t{t} * n_layers * info_.top_k, n_layers, info_.top_k);
        if (length > 0 && here != signature) end_run();
        signature = here;
        ++length;
        if (!run.empty() && run.back().first == r)
          ++run.back().second.end;
        else
          run.push_back({r, {begin + t, begin + t + 1}});
      }
    }
  }
  end_run();
  if (options_.drop_warmup)
    sink_.note(fmt::format("{} warm-up tokens were left out (runs of at least {} tokens with one expert set)", n_dropped, warmup_run_tokens));
}

std::vector<std::uint64_t> NativeInput::hashes(std::uint32_t request) {
  if (!hash_ids_) return {};
  std::uint64_t range[2];
  hash_offset_->read(request, std::uint64_t{request} + 2, range);
  if (range[0] > range[1] || range[1] > hash_ids_->n_rows())
    throw UserError(path_, fmt::format("hash_offset of request {} is out of order", request));
  std::vector<std::uint64_t> ids(range[1] - range[0]);
  hash_ids_->read(range[0], range[1], ids.data());
  return ids;
}

/// Tokens strand, strand + n, strand + 2n, ... of the kept positions, as a request of its own.
void NativeInput::emit_strand(std::uint32_t request, std::uint32_t strand, const std::vector<std::uint32_t>& kept,
                              std::span<const std::uint64_t> hash_ids) {
  RequestInfo info = source_->request(RequestId(request));
  const std::uint32_t prompt = info.prompt_tokens, stride = options_.deinterleave;
  const auto n = static_cast<std::uint32_t>((kept.size() + stride - 1 - strand) / stride);
  info.prompt_tokens = 0;
  for (std::size_t i = strand; i < kept.size(); i += stride) info.prompt_tokens += kept[i] < prompt ? 1 : 0;
  info.output_tokens = n - info.prompt_tokens;
  if (info.domain < domains_.size()) info.domain = sink_.domain(domains_[info.domain]);
  const std::string place = fmt::format("{}: request {}", path_, request);
  if (!sink_.begin_request(info, place, hash_ids)) return;
  const std::uint32_t id = n_emitted_++;
  const std::size_t row = info_.moe_layers.size() * info_.top_k;
  std::uint32_t position = 0;
  for (std::size_t i = strand; i < kept.size();) {
    const std::uint32_t begin = kept[i];
    const TokenBlock all =
        read(request, begin, std::min(begin + block_tokens, info_.has_routing() ? source_->request(RequestId(request)).total_tokens() : begin));
    TokenBlock block;
    for (; i < kept.size() && kept[i] < begin + all.n_tokens; i += stride, ++block.n_tokens) {
      const auto from = static_cast<std::ptrdiff_t>((kept[i] - begin) * row);
      block.ids.insert(block.ids.end(), all.ids.begin() + from, all.ids.begin() + from + static_cast<std::ptrdiff_t>(row));
      if (!all.weights.empty())
        block.weights.insert(block.weights.end(), all.weights.begin() + from, all.weights.begin() + from + static_cast<std::ptrdiff_t>(row));
      if (!all.token_ids.empty()) block.token_ids.push_back(all.token_ids[kept[i] - begin]);
      if (all.logits.empty()) continue;
      const std::size_t width = info_.moe_layers.size() * info_.n_experts, at = (kept[i] - begin) * width;
      block.logits.insert(block.logits.end(), all.logits.begin() + static_cast<std::ptrdiff_t>(at),
                          all.logits.begin() + static_cast<std::ptrdiff_t>(at + width));
    }
    if (pseudo_) pseudo_->fill(id, position, block);
    position += block.n_tokens;
    sink_.append(std::move(block), place);
  }
}

/// A request as it is.
void NativeInput::emit_request(std::uint32_t request, std::span<const std::uint64_t> hash_ids) {
  RequestInfo info = source_->request(RequestId(request));
  const std::uint32_t total = info.total_tokens();
  if (info.domain < domains_.size()) info.domain = sink_.domain(domains_[info.domain]);
  const std::string place = fmt::format("{}: request {}", path_, request);
  if (!sink_.begin_request(info, place, hash_ids) || !info_.has_routing()) return;
  const std::uint32_t id = n_emitted_++;
  for (std::uint32_t begin = 0; begin < total; begin += block_tokens) {
    TokenBlock block = read(request, begin, std::min(begin + block_tokens, total));
    if (pseudo_) pseudo_->fill(id, begin, block);
    sink_.append(std::move(block), place);
  }
}

void NativeInput::emit() {
  if ((transformed() || options_.pseudo_logits) && !info_.has_routing()) throw UserError(path_, "is a request trace: it has no rows to transform");
  if (options_.drop_warmup || options_.pseudo_logits) survey();
  for (std::uint32_t r = 0; r < source_->n_requests() && !sink_.full(); ++r) {
    if (!transformed()) {
      emit_request(r, hashes(r));
      continue;
    }
    std::vector<std::uint32_t> kept;
    std::uint32_t at = 0;
    const std::uint32_t total = source_->request(RequestId(r)).total_tokens();
    for (const Range& range : dropped_[r]) {
      for (; at < range.begin; ++at) kept.push_back(at);
      at = range.end;
    }
    for (; at < total; ++at) kept.push_back(at);
    const auto hash_ids = hashes(r);
    for (std::uint32_t s = 0; s < std::min<std::size_t>(options_.deinterleave, kept.size()); ++s) emit_strand(r, s, kept, hash_ids);
  }
  if (options_.deinterleave > 1) sink_.note(fmt::format("every request was taken apart into {} that alternated", options_.deinterleave));
}

}  // namespace

bool detect_native(const InputProbe& probe) { return probe.head.starts_with("\x89HDF\r\n\x1A\n"); }

/// Memory: blocks of 1024 tokens; with --deinterleave or --drop-warmup also 4 bytes per token of one request. One input.
void import_native(const ImportOptions& options, ImportSink& sink) {
  if (options.inputs.size() != 1) throw UserError(options.inputs.at(1), "native traces are imported one at a time");
  NativeInput input(options, sink, options.inputs[0]);
  sink.describe(input.facts(), options.inputs[0]);
  input.emit();
}

}  // namespace moekv
