// The common part of all importers: layers, cuts, checks, log.
#include "trace/import_sink.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "trace/native_format.hpp"

namespace moekv {
namespace {

template <class T>
void truncate(std::vector<T>& values, std::uint32_t n_old, std::uint32_t n_new) {
  values.resize(values.size() / n_old * n_new);
}

/// Of rows [tokens][columns][width] keeps the given columns, in their order.
template <class T>
void keep_columns(std::vector<T>& values, std::uint32_t n_tokens, std::uint32_t n_columns, const std::vector<std::uint32_t>& kept) {
  if (values.empty()) return;
  const std::size_t width = values.size() / n_tokens / n_columns;
  std::vector<T> out;
  out.reserve(n_tokens * kept.size() * width);
  for (std::size_t t = 0; t < n_tokens; ++t) {
    for (const auto c : kept) {
      const auto from = values.begin() + static_cast<std::ptrdiff_t>((t * n_columns + c) * width);
      out.insert(out.end(), from, from + static_cast<std::ptrdiff_t>(width));
    }
  }
  values = std::move(out);
}

/// What most rows of the first block look like; sums to 1 or to the gate's scale are renormalised.
WeightKind judge_weights(const TokenBlock& block, std::uint32_t top_k, float scale) {
  std::uint64_t one = 0, below = 0, above = 0;
  for (std::size_t row = 0; row + top_k <= block.weights.size(); row += top_k) {
    float sum = 0.0F;
    for (std::uint32_t j = 0; j < top_k; ++j) sum += block.weights[row + j];
    const bool whole = std::abs(sum - 1.0F) <= 0.01F || std::abs(sum - scale) <= 0.01F * scale;
    if (sum > 0.0F) ++(whole ? one : (sum < 1.0F ? below : above));
  }
  if (above > one + below) return WeightKind::sigmoid;
  return one >= below ? WeightKind::renorm : WeightKind::raw_softmax;
}

WeightKind weight_kind_named(const std::string& name) {
  for (std::size_t i = 0; i < native::weight_kinds.size(); ++i) {
    if (name == native::weight_kinds[i]) return static_cast<WeightKind>(i);
  }
  throw UserError("--weight-kind", fmt::format("unknown weight kind '{}'", name), suggest_name(name, {"raw_softmax", "renorm", "sigmoid", "none"}));
}

/// One value that several sources may name; they must agree.
std::uint32_t agreed(const char* what, const char* option, std::uint32_t asked, std::uint32_t model, std::uint32_t input, const std::string& place) {
  const std::uint32_t value = asked > 0 ? asked : (input > 0 ? input : model);
  if (value == 0) throw UserError(place, fmt::format("{} is not in this input", what), fmt::format("give it with {} or --model", option));
  if ((model > 0 && model != value) || (input > 0 && input != value)) {
    const auto said = [](std::uint32_t v) { return v > 0 ? std::to_string(v) : std::string("nothing"); };
    throw UserError(place, fmt::format("{} disagree: the input says {}, {} {}, the model {}", what, said(input), option, said(asked), said(model)));
  }
  return value;
}

}  // namespace

GateShape ImportSink::resolve_gate(std::uint32_t n_experts, std::uint32_t top_k, const std::string& place) const {
  GateShape gate = options_.shape ? options_.shape->gate : GateShape{};
  gate.n_experts = agreed("the number of experts", "--experts", options_.n_experts, gate.n_experts, n_experts, place);
  gate.top_k = agreed("the number of chosen experts", "--topk", options_.top_k, gate.top_k, top_k, place);
  if (gate.n_experts >= ExpertId::invalid || gate.top_k > gate.n_experts) {
    throw UserError(place, fmt::format("{} of {} experts is impossible", gate.top_k, gate.n_experts));
  }
  return gate;
}

void ImportSink::describe(SourceFacts facts, const std::string& place) {
  facts_ = std::move(facts);
  if (facts_.n_layers == 0) return;
  gate_ = resolve_gate(facts_.n_experts, facts_.top_k, place);
  resolve_layers(place);
  if (!facts_.split_known && options_.prompt_share < 0) {
    warn("the input does not say which tokens were prompt: all count as prompt (--prompt-share 0.5 makes the second half output)");
  }
}

/// Gives every input column its model layer and decides which columns are written.
void ImportSink::resolve_layers(const std::string& place) {
  const std::uint32_t n = facts_.n_layers;
  std::vector<std::uint16_t> moe;
  const std::uint32_t n_model = options_.shape ? options_.shape->n_layers() : 0;
  for (std::uint32_t l = 0; l < n_model; ++l) {
    if (options_.shape->layers[l].moe) moe.push_back(static_cast<std::uint16_t>(l));
  }
  columns_.resize(n);
  for (std::uint32_t c = 0; c < n; ++c) columns_[c] = c;
  column_layers_ = !options_.moe_layers.empty() ? options_.moe_layers : facts_.layer_ids;
  if (column_layers_.empty() && moe.size() == n) column_layers_ = moe;
  if (column_layers_.empty()) {
    if (n_model > 0 && n_model != n) {
      throw UserError(place, fmt::format("the input has {} layers, the model {} with experts of {}", n, moe.size(), n_model),
                      "name them with --moe-layers");
    }
    for (std::uint32_t c = 0; c < n; ++c) column_layers_.push_back(static_cast<std::uint16_t>(c));
    if (n_model == 0)
      note(fmt::format("no layer numbers known: the {} layers count as model layers 0 to {} (--model or --moe-layers says otherwise)", n, n - 1));
  }
  if (column_layers_.size() != n) {
    throw UserError(place, fmt::format("--moe-layers names {} layers, the input has {}", column_layers_.size(), n));
  }
  std::erase_if(columns_, [&](std::uint32_t c) {
    const std::uint16_t layer = column_layers_[c];
    const bool dense = n_model > 0 && (layer >= n_model || !options_.shape->layers[layer].moe);
    if (dense) note(fmt::format("layer {} has no experts in the model: left out", layer));
    return dense || (!options_.keep_layers.empty() && std::ranges::count(options_.keep_layers, layer) == 0);
  });
  std::ranges::sort(columns_, {}, [&](std::uint32_t c) { return column_layers_[c]; });
  for (std::size_t i = 1; i < columns_.size(); ++i) {
    if (column_layers_[columns_[i]] == column_layers_[columns_[i - 1]])
      throw UserError(place, fmt::format("layer {} comes twice", column_layers_[columns_[i]]));
  }
  if (columns_.empty()) throw UserError(place, fmt::format("none of the layers {} is to be written", fmt::join(column_layers_, ", ")));
}

/// Recorders fill layers without experts with zeros: all slots expert 0, which no choice of several distinct experts can be.
void ImportSink::drop_zero_layers(const TokenBlock& block) {
  if (gate_.top_k < 2) return;
  const std::uint32_t k = gate_.top_k;
  std::erase_if(columns_, [&](std::uint32_t c) {
    bool any_zero = false;
    for (std::size_t t = 0; t < block.n_tokens; ++t) {
      const std::span row(block.ids.data() + (t * facts_.n_layers + c) * k, k);
      if (!is_filler(row)) return false;
      any_zero = any_zero || row[0] == 0;
    }
    if (!any_zero) return false;
    zero_columns_.push_back(c);
    warn(fmt::format("layer {} is filled with zeros: taken for a layer without experts and left out", column_layers_[c]));
    return true;
  });
  if (columns_.empty())
    throw UserError(options_.inputs.empty() ? "" : options_.inputs[0], "every layer is filled with zeros", "is this the right member or field?");
}

void ImportSink::open_target(const TokenBlock* first) {
  WriterSpec spec;
  TraceInfo& info = spec.info;
  if (options_.shape)
    info.shape = *options_.shape;
  else if (facts_.shape)
    info.shape = *facts_.shape;
  info.shape.gate = facts_.n_layers > 0 ? gate_ : info.shape.gate;
  info.model_name = !options_.model_name.empty() ? options_.model_name : !info.shape.name.empty() ? info.shape.name : facts_.model_name;
  info.workload = !options_.workload.empty() ? options_.workload : facts_.workload;
  info.source = !options_.source.empty() ? options_.source : facts_.source;
  info.source_uri = !options_.source_uri.empty() ? options_.source_uri : facts_.source_uri;
  info.license = !options_.license.empty() ? options_.license : facts_.license;
  info.joined = facts_.joined;
  info.pseudo_logits = options_.pseudo_logits && facts_.has_logits;
  info.level = facts_.has_logits ? RoutingLevel::logits : facts_.has_weights ? RoutingLevel::weights : RoutingLevel::ids;
  info.n_experts = gate_.n_experts;
  info.top_k = gate_.top_k;
  for (const auto c : columns_) info.moe_layers.push_back(column_layers_[c]);
  info.kv_layers = facts_.kv_layers;
  if (first != nullptr && !first->weights.empty()) spec.weight_kind = judge_weights(*first, gate_.top_k, gate_.scale);
  if (!options_.weight_kind.empty()) spec.weight_kind = weight_kind_named(options_.weight_kind);
  spec.generator = options_.generator;
  spec.source_commit = options_.source_commit;
  spec.has_token_ids = facts_.has_token_ids;
  spec.has_hash_ids = facts_.has_hash_ids;
  spec.hash_block_tokens = facts_.hash_block_tokens;
  if (options_.pseudo_logits) spec.seed = static_cast<std::int64_t>(options_.seed);
  if (!info.moe_layers.empty()) traps_.emplace(info.moe_layers, gate_.n_experts, gate_.top_k);
  weight_kind_ = spec.weight_kind;
  if (facts_.has_weights) note(fmt::format("weights are written as {}", native::weight_kinds[static_cast<std::size_t>(weight_kind_)]));
  target_.open(spec);
  opened_ = true;
}

std::uint16_t ImportSink::domain(const std::string& name) {
  const auto found = std::ranges::find(domain_names_, name);
  if (found != domain_names_.end()) return static_cast<std::uint16_t>(found - domain_names_.begin());
  if (domain_names_.size() >= 65535) throw UserError(name, "more than 65535 domains");
  domain_names_.push_back(name);
  return static_cast<std::uint16_t>(domain_names_.size() - 1);
}

bool ImportSink::begin_request(RequestInfo request, const std::string& place, std::span<const std::uint64_t> hash_ids) {
  if (left_tokens_ > 0) problem({place, fmt::format("the request before lacks its last {} tokens", left_tokens_), "the input is incomplete"});
  left_tokens_ = 0;
  std::uint32_t total = request.total_tokens();
  const bool short_one = total == 0 || total < options_.min_tokens;
  n_short_ += short_one ? 1 : 0;
  wanted_ = !short_one && n_seen_++ >= options_.skip_requests && !full();
  if (!wanted_) return false;
  ++n_begun_;
  if (options_.max_tokens > 0 && total > options_.max_tokens) {
    total = options_.max_tokens;
    ++n_cut_;
  }
  request.prompt_tokens =
      options_.prompt_share >= 0 ? static_cast<std::uint32_t>(std::llround(options_.prompt_share * total)) : std::min(request.prompt_tokens, total);
  request.output_tokens = total - request.prompt_tokens;
  request_ = request;
  hash_ids_.assign(hash_ids.begin(), hash_ids.end());
  request_pending_ = true;
  position_ = 0;
  left_tokens_ = facts_.n_layers > 0 ? total : 0;
  if (facts_.n_layers == 0) {
    if (!opened_) open_target(nullptr);
    report_.tokens += total;
    start_pending();
  }
  if (traps_) traps_->begin_request();
  return true;
}

void ImportSink::start_pending() {
  if (request_pending_ && problems_.empty()) target_.begin_request(request_, hash_ids_);
  request_pending_ = false;
  ++report_.requests;
  if (options_.progress) options_.progress({report_.requests, report_.tokens});
}

void ImportSink::append(TokenBlock block, const std::string& place) {
  const std::uint32_t n = std::min(block.n_tokens, left_tokens_);
  if (!wanted_ || n == 0) return;
  if (n < block.n_tokens) {
    for (auto* v : {&block.weights, &block.cand_logit, &block.lse, &block.logits, &block.q, &block.k, &block.v}) truncate(*v, block.n_tokens, n);
    truncate(block.ids, block.n_tokens, n);
    truncate(block.cand_ids, block.n_tokens, n);
    truncate(block.token_ids, block.n_tokens, n);
    block.n_tokens = n;
  }
  if (!opened_) {
    drop_zero_layers(block);
    open_target(&block);
  }
  if (request_pending_) start_pending();
  check_rows(block, place);
  select_columns(block);
  const std::size_t row = columns_.size() * gate_.top_k;
  for (std::uint32_t t = 0; t < n; ++t) traps_->add(block.ids.data() + t * row, block.weights.empty() ? nullptr : block.weights.data() + t * row);
  if (problems_.empty()) target_.append(block);
  left_tokens_ -= n;
  position_ += n;
  report_.tokens += n;
}

void ImportSink::select_columns(TokenBlock& block) const {
  bool all = columns_.size() == facts_.n_layers;
  for (std::uint32_t i = 0; all && i < columns_.size(); ++i) all = columns_[i] == i;
  if (all) return;
  keep_columns(block.ids, block.n_tokens, facts_.n_layers, columns_);
  keep_columns(block.weights, block.n_tokens, facts_.n_layers, columns_);
  keep_columns(block.logits, block.n_tokens, facts_.n_layers, columns_);
}

ImportReport ImportSink::finish() {
  if (left_tokens_ > 0)
    problem({options_.inputs.empty() ? "" : options_.inputs.back(), fmt::format("the last request lacks its last {} tokens", left_tokens_),
             "the input is incomplete"});
  if (!problems_.empty()) throw UserError(problems_);
  if (report_.requests == 0) {
    throw UserError(options_.inputs.empty() ? "" : options_.inputs[0],
                    fmt::format("no request is left to import ({} read, {} empty or shorter than asked for)", n_seen_ + n_short_, n_short_));
  }
  if (n_short_ > 0) note(fmt::format("{} requests were empty or shorter than {} tokens: left out", n_short_, std::max(options_.min_tokens, 1U)));
  if (n_cut_ > 0) note(fmt::format("{} requests were cut to their first {} tokens", n_cut_, options_.max_tokens));
  if (options_.prompt_share >= 0) note(fmt::format("share of tokens that count as prompt, set by hand: {}", options_.prompt_share));
  if (n_absent_ > 0) note(fmt::format("{} slots hold no expert (sentinel or missing row)", n_absent_));
  if (traps_) {
    for (auto& line : traps_->notes()) note(std::move(line));
    for (auto& line : traps_->warnings()) warn(std::move(line));
  }
  for (const auto& line : report_.notes) target_.note(line);
  for (const auto& line : report_.warnings) target_.note("warning: " + line);
  target_.finish(domain_names_);
  return report_;
}

}  // namespace moekv
