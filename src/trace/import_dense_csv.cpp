// Dense score CSV (DynaNDE and alike): one row per token and layer with a score for every expert; the choice is recomputed with top_k.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "rules/route/gate.hpp"
#include "trace/import_sink.hpp"
#include "trace/row_spool.hpp"
#include "trace/text.hpp"

namespace moekv {
namespace {

constexpr std::string_view expert_prefix = "expert_";

/// What the scores of a file are; judged by its first row.
enum class Scores : std::uint8_t { logits, probabilities, sparse };

class ScoreTable {
 public:
  ScoreTable(const ImportOptions& options, ImportSink& sink) : options_(options), sink_(sink) {}
  void read(const std::string& path);
  void emit();

 private:
  struct Columns {
    std::size_t layer, token;
    std::optional<std::size_t> request;
    std::vector<std::size_t> experts;
  };
  [[nodiscard]] Columns find_columns(const CsvReader& table, const std::string& path) const;
  void read_scores(const CsvReader& table, const Columns& columns);
  void judge(const std::string& place);
  void choose();

  const ImportOptions& options_;
  ImportSink& sink_;
  GateShape gate_;
  Scores kind_ = Scores::sparse;
  std::optional<RowSpool> spool_;
  PassCounter passes_;
  std::map<std::string, std::uint32_t> requests_;
  std::vector<float> scores_, weights_, scratch_;
  std::vector<std::uint16_t> ids_;
  std::uint64_t n_few_ = 0, n_many_ = 0;
};

ScoreTable::Columns ScoreTable::find_columns(const CsvReader& table, const std::string& path) const {
  const auto named = [&](const char* role, std::vector<std::string_view> names) {
    const auto found = options_.fields.find(role);
    return found != options_.fields.end() ? std::vector<std::string_view>{found->second} : std::move(names);
  };
  Columns columns{table.require(named("layer", {"layer_id", "layer"})),
                  table.require(named("token", {"token_id", "token", "position"})),
                  table.find(named("request", {"request_id", "req_id", "request", "seq_id"})),
                  {}};
  for (std::size_t c = 0; c < table.header().size(); ++c) {
    const std::string name = lower(table.header()[c]);
    if (!name.starts_with(expert_prefix)) continue;
    if (number_after(name, expert_prefix) != columns.experts.size())
      throw UserError(path + ":1", fmt::format("column '{}' is out of order", table.header()[c]));
    columns.experts.push_back(c);
  }
  if (columns.experts.empty()) throw UserError(path + ":1", "no columns expert_0, expert_1, ...");
  return columns;
}

void ScoreTable::read_scores(const CsvReader& table, const Columns& columns) {
  scores_.clear();
  for (const auto c : columns.experts) {
    const auto value = parse_real(table[c]);
    if (!value || !std::isfinite(*value))
      throw UserError(table.place(), fmt::format("column '{}': '{}' is not a number", table.header()[c], table[c]));
    scores_.push_back(static_cast<float>(*value));
  }
}

void ScoreTable::judge(const std::string& place) {
  double sum = 0;
  std::size_t n_zero = 0;
  for (const float s : scores_) {
    sum += s;
    n_zero += s == 0.0F ? 1 : 0;
  }
  const bool negative = std::ranges::any_of(scores_, [](float s) { return s < 0.0F; });
  if (negative)
    kind_ = Scores::logits;
  else if (n_zero > 0)
    kind_ = Scores::sparse;
  else
    kind_ = std::abs(sum - 1.0) <= 0.02 ? Scores::probabilities : Scores::logits;
  static constexpr const char* names[] = {"logits", "probabilities over all experts", "scores of the chosen experts (others 0)"};
  sink_.note(fmt::format("{}: scores are taken for {}", place, names[static_cast<int>(kind_)]));
  if (!options_.shape && kind_ == Scores::probabilities) {  // weights are the probabilities themselves
    gate_.order = ScoreOrder::pre;
    gate_.renormalise = false;
  }
  if (!options_.shape && kind_ == Scores::logits) sink_.warn("no model is given: weights are the softmax over the chosen logits");
}

/// ids_ and weights_ of the row in scores_; probabilities become logits (their logarithm).
void ScoreTable::choose() {
  if (kind_ == Scores::probabilities) {
    for (float& p : scores_) p = std::log(std::max(p, 1e-8F));
  }
  if (kind_ != Scores::sparse) {
    choose_from_logits(gate_, 1, scores_, ids_, weights_);
    return;
  }
  ids_.resize(gate_.top_k);
  scratch_.resize(gate_.top_k);
  route::TopList list{ids_.data(), scratch_.data(), gate_.top_k};
  std::uint32_t n_positive = 0;
  for (std::uint32_t e = 0; e < scores_.size(); ++e) {
    if (scores_[e] <= 0.0F) continue;
    ++n_positive;
    list.offer(scores_[e], e);
  }
  list.close();
  n_few_ += n_positive < gate_.top_k ? 1 : 0;
  n_many_ += n_positive > gate_.top_k ? 1 : 0;
  weights_.assign(gate_.top_k, 0.0F);
  std::copy_n(scratch_.begin(), list.n, weights_.begin());
}

void ScoreTable::read(const std::string& path) {
  CsvReader table(path);
  const Columns columns = find_columns(table, path);
  std::optional<std::uint16_t> named_layer;
  if (options_.inputs.size() > 1) named_layer = number_after(std::filesystem::path(path).filename().string(), "layer");
  if (named_layer) sink_.note(fmt::format("{}: layer {} by the file name", path, *named_layer));
  while (table.next()) {
    read_scores(table, columns);
    if (!spool_) {
      gate_ = sink_.resolve_gate(static_cast<std::uint32_t>(columns.experts.size()), 0, path);
      judge(table.place());
      spool_.emplace(gate_.top_k, kind_ == Scores::sparse ? 0 : gate_.n_experts);
    }
    if (scores_.size() != gate_.n_experts)
      throw UserError(table.place(), fmt::format("{} experts, files before have {}", scores_.size(), gate_.n_experts));
    choose();
    const std::uint32_t layer = named_layer.has_value() ? named_layer.value() : table.count(columns.layer);
    if (layer >= 65535) throw UserError(table.place(), fmt::format("layer {} is impossible", layer));
    const std::string name = columns.request ? std::string(table[*columns.request]) : "";
    const std::uint32_t request = requests_.emplace(name, static_cast<std::uint32_t>(requests_.size())).first->second;
    const std::uint32_t position = passes_.position(request, static_cast<std::uint16_t>(layer), table.count(columns.token), table.place());
    spool_->add(request, position, static_cast<std::uint16_t>(layer), ids_.data(), weights_.data(),
                kind_ == Scores::sparse ? nullptr : scores_.data());
  }
}

void ScoreTable::emit() {
  const std::string& place = options_.inputs.front();
  if (!spool_) throw UserError(place, "has a header but no rows");
  spool_->sort(place);
  SourceFacts facts;
  facts.layer_ids = spool_->layers();
  facts.n_layers = static_cast<std::uint32_t>(facts.layer_ids.size());
  facts.n_experts = gate_.n_experts;
  facts.top_k = gate_.top_k;
  facts.has_weights = true;
  facts.has_logits = kind_ != Scores::sparse;
  facts.split_known = false;
  sink_.describe(facts, place);
  if (n_few_ > 0) sink_.warn(fmt::format("{} rows have fewer than {} scores above 0; the other slots are absent", n_few_, gate_.top_k));
  if (n_many_ > 0)
    sink_.warn(fmt::format("{} rows have more than {} scores above 0; the largest were kept (is --topk right?)", n_many_, gate_.top_k));
  if (passes_.restarts() > 0) sink_.warn(fmt::format("the token counter restarts {} times; the parts are appended", passes_.restarts()));
  spool_->hand_over(true, options_.domains.empty() ? 0 : sink_.domain(options_.domains[0]), place, sink_);
}

}  // namespace

bool detect_dense_csv(const InputProbe& probe) {
  const std::string header = lower(probe.first_line);
  return header.find(",expert_0,") != std::string::npos;
}

/// Memory: a few words per (request, layer); rows wait in temporary files. With several inputs the layer may stand in the file name
/// (exporters write layer_id 0 into every file).
void import_dense_csv(const ImportOptions& options, ImportSink& sink) {
  ScoreTable table(options, sink);
  for (const auto& path : options.inputs) table.read(path);
  table.emit();
}

}  // namespace moekv
