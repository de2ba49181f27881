// gpt-oss nested JSON: router_data = [{"token_<pos>": {"layer_<l>": {selected_experts, selected_probs}}}], decode tokens only.
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "io/byte_istream.hpp"
#include "trace/import_sink.hpp"
#include "trace/text.hpp"

namespace moekv {
namespace {

/// Receives parser events of one file and hands each finished record to the sink. Memory: one record's rows.
class RecordHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  RecordHandler(const ImportOptions& options, ImportSink& sink, std::string path) : options_(options), sink_(sink), path_(std::move(path)) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t value) override { return number(static_cast<double>(value)); }
  bool number_unsigned(number_unsigned_t value) override { return number(static_cast<double>(value)); }
  bool number_float(number_float_t value, const string_t&) override { return number(value); }
  bool string(string_t& value) override {
    if (depth_ == record_depth_ && (key_ == "category" || key_ == "dataset")) names_[key_] = value;
    n_generated_ += target_ == Target::generated ? 1 : 0;
    return true;
  }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    ++depth_;
    if (record_depth_ == 0) record_depth_ = depth_;
    return true;
  }
  bool key(string_t& value) override {
    key_ = value;
    if (depth_ == record_depth_) in_router_ = value == "router_data";
    if (in_router_ && value.starts_with("token_")) start_token(value);
    if (in_router_ && value.starts_with("layer_")) layer_ = number_of(value, "layer_");
    target_ = Target::none;
    if (in_router_ && value == "selected_experts") target_ = Target::ids;
    if (in_router_ && value == "selected_probs") target_ = Target::weights;
    if (depth_ == record_depth_ && value == "generated_only") target_ = Target::generated;
    return true;
  }
  bool end_object() override {
    if (in_router_ && depth_ == token_depth_) end_token();
    if (depth_ == record_depth_) end_record();
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    target_ = Target::none;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    throw UserError(path_, fmt::format("not valid JSON at byte {}: {}", position, e.what()), "is the file complete?");
  }

 private:
  enum class Target : std::uint8_t { none, ids, weights, generated };
  struct Row {
    std::vector<std::uint16_t> ids;
    std::vector<float> weights;
  };

  [[nodiscard]] std::string place() const { return fmt::format("{}: record {}, token_{}", path_, n_records_ + 1, token_); }
  std::uint16_t number_of(const std::string& name, std::string_view prefix) const {
    const auto value = number_after(name, prefix);
    if (!value) throw UserError(place(), fmt::format("'{}' has no number", name));
    return *value;
  }
  bool number(double value) {
    if (target_ == Target::weights) rows_[layer_].weights.push_back(static_cast<float>(value));
    if (target_ != Target::ids) return true;
    if (!(value >= 0 && value < ExpertId::invalid)) throw UserError(place(), fmt::format("layer_{}: {} is not an expert id", layer_, value));
    rows_[layer_].ids.push_back(static_cast<std::uint16_t>(value));
    return true;
  }
  void start_token(const std::string& name) {
    token_depth_ = depth_ + 1;
    const auto value = parse_integer(std::string_view(name).substr(6));
    if (!value || *value < 0) throw UserError(place(), fmt::format("'{}' has no number", name));
    if (n_tokens_ == 0)
      first_token_ = *value;
    else if (*value != token_ + 1)
      ++n_gaps_;
    token_ = *value;
    rows_.clear();
  }
  void end_token() {
    token_depth_ = 0;
    if (layers_.empty()) {
      for (const auto& [layer, row] : rows_) layers_.push_back(layer);
      top_k_ = rows_.empty() ? 0 : rows_.begin()->second.ids.size();
    }
    std::size_t at = 0;
    for (const auto& [layer, row] : rows_) {
      if (at >= layers_.size() || layers_[at++] != layer) throw UserError(place(), fmt::format("layer_{} is not in the record's first token", layer));
      if (row.ids.size() != top_k_ || row.weights.size() != top_k_) {
        throw UserError(place(),
                        fmt::format("layer_{}: {} experts and {} probabilities, expected {}", layer, row.ids.size(), row.weights.size(), top_k_));
      }
      ids_.insert(ids_.end(), row.ids.begin(), row.ids.end());
      weights_.insert(weights_.end(), row.weights.begin(), row.weights.end());
    }
    if (at != layers_.size()) throw UserError(place(), fmt::format("{} layers, expected {}", at, layers_.size()));
    ++n_tokens_;
  }
  void end_record();

  const ImportOptions& options_;
  ImportSink& sink_;
  std::string path_, key_;
  std::map<std::string, std::string> names_;
  std::uint32_t depth_ = 0, record_depth_ = 0, token_depth_ = 0;
  bool in_router_ = false, described_ = false;
  Target target_ = Target::none;
  std::uint16_t layer_ = 0;
  std::int64_t token_ = 0, first_token_ = 0;
  std::uint64_t n_records_ = 0, n_gaps_ = 0, n_generated_ = 0;
  std::map<std::uint16_t, Row> rows_;  // of the current token
  std::vector<std::uint16_t> layers_;
  std::size_t top_k_ = 0;
  std::vector<std::uint16_t> ids_;  // of the record, [tokens][layers][top_k]
  std::vector<float> weights_;
  std::uint32_t n_tokens_ = 0;

 public:
  /// Facts are described once for all files; later files must have the same layers.
  std::vector<std::uint16_t> described_layers;
};

void RecordHandler::end_record() {
  const std::string where = fmt::format("{}: record {}", path_, ++n_records_);
  record_depth_ = 0;
  in_router_ = false;
  if (layers_.empty()) throw UserError(where, "no router_data with token_<n> and layer_<l>", "is this a gpt-oss expert recording?");
  if (described_layers.empty()) {
    SourceFacts facts;
    facts.layer_ids = layers_;
    facts.n_layers = static_cast<std::uint32_t>(layers_.size());
    facts.top_k = static_cast<std::uint32_t>(top_k_);
    facts.has_weights = true;
    sink_.describe(facts, where);
    described_layers = layers_;
  }
  if (layers_ != described_layers || top_k_ != sink_.top_k()) throw UserError(where, "has other layers or another top_k than the records before");
  if (n_gaps_ > 0) sink_.warn(fmt::format("{}: token numbers jump {} times; the rows are taken as consecutive", where, n_gaps_));
  sink_.note(fmt::format("{}: decode tokens {} to {} become positions 0 to {}, prompt length 0", where, first_token_, token_, n_tokens_ - 1));
  if (n_generated_ == n_tokens_ + 1ULL) sink_.note(where + ": the last generated token has no row (it was never fed back)");
  std::string name = names_["dataset"];
  if (!names_["category"].empty()) name += (name.empty() ? "" : "/") + names_["category"];
  if (!options_.domains.empty()) name = options_.domains[0];
  RequestInfo request;
  request.output_tokens = n_tokens_;
  request.domain = sink_.domain(name.empty() ? "unnamed" : name);
  if (sink_.begin_request(request, where)) {
    const std::size_t row = layers_.size() * top_k_;
    for (std::size_t begin = 0; begin < n_tokens_; begin += block_tokens) {
      const std::size_t end = std::min<std::size_t>(n_tokens_, begin + block_tokens);
      TokenBlock block;
      block.n_tokens = static_cast<std::uint32_t>(end - begin);
      block.ids.assign(ids_.begin() + static_cast<std::ptrdiff_t>(begin * row), ids_.begin() + static_cast<std::ptrdiff_t>(end * row));
      block.weights.assign(weights_.begin() + static_cast<std::ptrdiff_t>(begin * row), weights_.begin() + static_cast<std::ptrdiff_t>(end * row));
      sink_.append(std::move(block), where);
    }
  }
  ids_.clear();
  weights_.clear();
  layers_.clear();
  names_.clear();
  n_tokens_ = 0;
  n_gaps_ = n_generated_ = 0;
}

}  // namespace

bool detect_gptoss(const InputProbe& probe) {
  const bool json = probe.head.starts_with("{") || probe.head.starts_with("[");
  const auto has = [&](const char* word) { return probe.head.find(word) != std::string::npos; };
  return json && (has("\"router_data\"") || has("\"selected_experts\"") || has("\"generated_only\""));
}

/// Each input holds one record, an array of records, or one record after the other.
void import_gptoss(const ImportOptions& options, ImportSink& sink) {
  std::vector<std::uint16_t> layers;
  for (const auto& path : options.inputs) {
    ByteIstream stream(open_byte_stream(path));
    RecordHandler handler(options, sink, path);
    handler.described_layers = layers;
    while ((stream >> std::ws).peek() != std::char_traits<char>::eof() && !sink.full()) {
      nlohmann::json::sax_parse(stream, &handler, nlohmann::json::input_format_t::json, false);
    }
    layers = handler.described_layers;
    if (sink.full()) break;
  }
}

}  // namespace moekv
