// Megatron router_trace_rank<r>.jsonl: one record per (step, block, layer) with all ids, and optionally bf16 logits in a side file.
#include <fmt/format.h>

#include <bit>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "io/zip.hpp"
#include "trace/import_sink.hpp"
#include "trace/json_line.hpp"
#include "trace/row_spool.hpp"
#include "trace/text.hpp"

namespace moekv {
namespace {

using Json = nlohmann::json;
constexpr std::size_t max_line_bytes = std::size_t{512} << 20;

/// Where a step's tokens go: a step of several tokens opens a request, steps of one token after it are its output.
struct OpenRequest {
  std::uint32_t index = 0, prompt_tokens = 0, begin = 0, step_tokens = 0;
  std::int64_t step = -1;
};

class RouterTrace {
 public:
  RouterTrace(const ImportOptions& options, ImportSink& sink) : options_(options), sink_(sink) {}
  void read(const std::string& path);
  void emit();

 private:
  void record(const Json& line, const std::string& path, const std::string& place);
  void place_step(std::int64_t step, std::uint32_t n_tokens, const std::string& place);
  void read_logits(const Json& line, const std::string& path, std::uint32_t n_tokens, const std::string& place);
  [[nodiscard]] std::int64_t number(const Json& line, const char* field, const std::string& place) const;

  const ImportOptions& options_;
  ImportSink& sink_;
  GateShape gate_;
  std::optional<RowSpool> spool_;
  std::unique_ptr<ByteSource> logits_file_;
  std::string logits_of_;  // trace file the side file belongs to
  std::uint32_t top_k_ = 0;
  bool has_logits_ = false;
  OpenRequest open_;
  std::vector<std::uint32_t> prompts_;  // by request
  std::uint64_t n_other_ = 0, n_equal_steps_ = 0;
  std::vector<std::byte> raw_;
  std::vector<float> logits_;
};

std::int64_t RouterTrace::number(const Json& line, const char* field, const std::string& place) const {
  const auto found = line.find(field);
  if (found == line.end() || !found->is_number_integer())
    throw UserError(place, fmt::format("no integer '{}'", field), "is this a Megatron router trace?");
  return found->get<std::int64_t>();
}

void RouterTrace::place_step(std::int64_t step, std::uint32_t n_tokens, const std::string& place) {
  if (step == open_.step) {
    if (n_tokens != open_.step_tokens)
      throw UserError(place, fmt::format("step {} has {} tokens here and {} in another layer", step, n_tokens, open_.step_tokens));
    return;
  }
  if (step < open_.step) throw UserError(place, fmt::format("step {} comes after step {}", step, open_.step), "is the file in order?");
  n_equal_steps_ += n_tokens > 1 && n_tokens == open_.step_tokens ? 1 : 0;
  if (n_tokens > 1 || prompts_.empty()) {
    open_.index = static_cast<std::uint32_t>(prompts_.size());
    open_.begin = 0;
    prompts_.push_back(n_tokens);
  } else {
    open_.begin += open_.step_tokens;
  }
  open_.step = step;
  open_.step_tokens = n_tokens;
}

/// logits_rank<r>.bin beside the trace file, with what stands before "router_trace" in its name before it too.
std::string side_file(const std::filesystem::path& trace, std::int64_t rank) {
  const std::string name = trace.filename().string();
  const std::size_t at = name.find("router_trace");
  return (trace.parent_path() / fmt::format("{}logits_rank{}.bin", at == std::string::npos ? "" : name.substr(0, at), rank)).string();
}

/// Fills logits_ [n_tokens][n_experts] from the side file.
void RouterTrace::read_logits(const Json& line, const std::string& path, std::uint32_t n_tokens, const std::string& place) {
  const auto shape = line.find("logit_shape");
  if (shape == line.end() || !shape->is_array() || shape->size() != 2 || !(*shape)[0].is_number_unsigned() || !(*shape)[1].is_number_unsigned()) {
    throw UserError(place, "'logit_shape' is not [tokens, experts]");
  }
  const auto n_experts = (*shape)[1].get<std::uint64_t>();
  const auto offset = number(line, "logit_offset", place), bytes = number(line, "logit_bytes", place);
  if ((*shape)[0].get<std::uint64_t>() != n_tokens || n_experts != gate_.n_experts || offset < 0 ||
      bytes != static_cast<std::int64_t>(2ULL * n_tokens * n_experts)) {
    throw UserError(
        place, fmt::format("logit_shape {} and logit_bytes {} do not fit {} tokens and {} experts", shape->dump(), bytes, n_tokens, gate_.n_experts));
  }
  if (logits_of_ != path) {
    const auto named = options_.fields.find("logits");
    logits_file_ = open_file_source(named != options_.fields.end() ? named->second : side_file(path, number(line, "rank", place)));
    logits_of_ = path;
  }
  raw_.resize(static_cast<std::size_t>(bytes));
  logits_file_->read_at(static_cast<std::uint64_t>(offset), raw_);
  logits_.resize(std::size_t{n_tokens} * gate_.n_experts);
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(raw_[2 * i]) | static_cast<std::uint32_t>(raw_[2 * i + 1]) << 8;
    logits_[i] = std::bit_cast<float>(bits << 16);
  }
}

void RouterTrace::record(const Json& line, const std::string& path, const std::string& place) {
  const auto text = [&](const char* field) {
    return line.contains(field) && line[field].is_string() ? line[field].get<std::string>() : std::string();
  };
  if ((!text("block").empty() && text("block") != "decoder") || (!text("stage").empty() && text("stage") != "pre_dispatch")) {
    ++n_other_;
    return;
  }
  const auto indices = line.find("top_indices");
  if (indices == line.end() || !indices->is_array()) throw UserError(place, "no list 'top_indices'", "is this a Megatron router trace?");
  const auto n_tokens = static_cast<std::uint32_t>(indices->size()), top_k = static_cast<std::uint32_t>(number(line, "topk", place));
  if (number(line, "num_tokens", place) != n_tokens)
    throw UserError(place, fmt::format("'num_tokens' is {}, 'top_indices' has {}", line["num_tokens"].dump(), n_tokens));
  if (n_tokens == 0) return;
  if (!spool_) {
    has_logits_ = line.contains("logit_offset");
    const auto experts =
        has_logits_ && line["logit_shape"].is_array() && line["logit_shape"].size() == 2 ? line["logit_shape"][1].get<std::uint32_t>() : 0;
    gate_ = sink_.resolve_gate(experts, top_k, place);
    top_k_ = top_k;
    spool_.emplace(top_k_, has_logits_ ? gate_.n_experts : 0);
  }
  if (top_k != top_k_) throw UserError(place, fmt::format("topk is {}, before it was {}", top_k, top_k_));
  if (line.contains("logit_offset") != has_logits_) throw UserError(place, "only some of the records have logits");
  place_step(number(line, "step", place), n_tokens, place);
  if (has_logits_) read_logits(line, path, n_tokens, place);
  const auto layer = number(line, "layer", place);
  if (layer < 0 || layer >= 65535) throw UserError(place, fmt::format("layer {} is impossible", layer));
  std::vector<std::uint16_t> ids(top_k_);
  for (std::uint32_t t = 0; t < n_tokens; ++t) {
    const Json& row = (*indices)[t];
    if (!row.is_array() || row.size() != top_k_) throw UserError(place, fmt::format("top_indices[{}] has not {} entries", t, top_k_));
    for (std::uint32_t j = 0; j < top_k_; ++j) {
      const std::int64_t id = row[j].is_number_integer() ? row[j].get<std::int64_t>() : -2;
      if (id < -1 || id >= ExpertId::invalid) throw UserError(place, fmt::format("top_indices[{}]: {} is not an expert id", t, row[j].dump()));
      ids[j] = static_cast<std::uint16_t>(id);
    }
    spool_->add(open_.index, open_.begin + t, static_cast<std::uint16_t>(layer), ids.data(), nullptr,
                has_logits_ ? logits_.data() + std::size_t{t} * gate_.n_experts : nullptr);
  }
}

void RouterTrace::read(const std::string& path) {
  LineReader lines(open_byte_stream(path), max_line_bytes);
  open_.step = -1;
  open_.step_tokens = 0;
  std::string unfinished;
  for (std::string_view text; lines.next(text);) {
    if (text.empty()) continue;
    if (!unfinished.empty()) throw UserError(unfinished, "line is not a JSON object");
    const Json line = parse_json_line(text, lines.place());
    if (line.is_object())
      record(line, path, lines.place());
    else
      unfinished = lines.place();
  }
  if (!unfinished.empty()) sink_.warn(unfinished + ": the last line is incomplete and left out (was the recorder killed?)");
}

void RouterTrace::emit() {
  const std::string& place = options_.inputs.front();
  if (!spool_) throw UserError(place, "no record of a decoder layer", "is this a Megatron router trace?");
  spool_->sort(place);
  SourceFacts facts;
  facts.layer_ids = spool_->layers();
  facts.n_layers = static_cast<std::uint32_t>(facts.layer_ids.size());
  facts.n_experts = has_logits_ ? gate_.n_experts : 0;
  facts.top_k = top_k_;
  facts.has_weights = facts.has_logits = has_logits_;
  sink_.describe(facts, place);
  if (n_other_ > 0) sink_.note(fmt::format("{} records of other blocks or stages (mtp) were left out", n_other_));
  if (has_logits_ && !options_.shape) sink_.warn("the format has no weights and no model is given: weights are the softmax over the chosen logits");
  if (n_equal_steps_ > 1) {
    sink_.warn(fmt::format(
        "{} steps have as many tokens as the step before: batched decoding or training micro-batches? Each step became one request", n_equal_steps_));
  }
  const std::uint16_t domain = options_.domains.empty() ? 0 : sink_.domain(options_.domains[0]);
  spool_->hand_over(false, domain, place, sink_, prompts_, [&](TokenBlock& block) {
    if (has_logits_) weights_from_logits(gate_, block.n_tokens * facts.n_layers, block.logits, block.ids, block.weights);
  });
}

}  // namespace

bool detect_megatron(const InputProbe& probe) {
  if (!probe.folder) return probe.first_line.starts_with("{") && probe.first_line.find("\"top_indices\"") != std::string::npos;
  return std::filesystem::exists(std::filesystem::path(probe.path) / "router_trace_rank0.jsonl");
}

/// Memory: one record (all tokens of a step in one layer); rows wait in temporary files. A folder stands for its rank files.
void import_megatron(const ImportOptions& options, ImportSink& sink) {
  RouterTrace trace(options, sink);
  for (const auto& input : options.inputs) {
    if (!std::filesystem::is_directory(input)) {
      trace.read(input);
      continue;
    }
    for (std::uint32_t rank = 0;; ++rank) {
      const auto path = std::filesystem::path(input) / fmt::format("router_trace_rank{}.jsonl", rank);
      if (!std::filesystem::exists(path)) break;
      trace.read(path.string());
    }
  }
  trace.emit();
}

}  // namespace moekv
