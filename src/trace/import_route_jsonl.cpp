// Route logs as JSON lines (vLLM logger patches): an optional meta line, then one line per token and layer, with the experts, their gate
// logits or both; field names can be renamed.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "io/gzip.hpp"
#include "trace/import_sink.hpp"
#include "trace/json_line.hpp"
#include "trace/row_spool.hpp"

namespace moekv {
namespace {

using Json = nlohmann::json;

/// Names of the fields in the log, by role.
struct Fields {
  std::string type = "type", request = "req_id", token = "token_idx", layer = "layer", ids = "topk_ids", weights = "topk_weights", logits = "logits";

  explicit Fields(const std::map<std::string, std::string>& renamed) {
    const std::map<std::string_view, std::string*> roles{{"type", &type}, {"request", &request}, {"token", &token},  {"layer", &layer},
                                                         {"ids", &ids},   {"weights", &weights}, {"logits", &logits}};
    std::vector<std::string_view> known;
    known.reserve(roles.size());
    for (const auto& [role, name] : roles) known.push_back(role);
    for (const auto& [role, name] : renamed) {
      if (!roles.contains(role)) throw UserError("--field", fmt::format("unknown role '{}'", role), suggest_name(role, known));
      *roles.at(role) = name;
    }
  }
};

class RouteLog {
 public:
  RouteLog(const ImportOptions& options, ImportSink& sink) : options_(options), sink_(sink), fields_(options.fields) {}
  void read(const std::string& path);
  void emit();

 private:
  void meta(const Json& line);
  void row(const Json& line, const std::string& place);
  std::uint64_t whole(const Json& line, const std::string& field, const std::string& place) const;
  void read_slots(const Json& line, const std::string& place);
  void read_logits(const Json& line, const std::string& place);
  void begin(bool has_ids, const std::string& place);

  const ImportOptions& options_;
  ImportSink& sink_;
  Fields fields_;
  std::optional<RowSpool> spool_;
  std::map<std::string, std::uint32_t> requests_;
  PassCounter passes_;
  std::string model_;
  std::uint32_t top_k_ = 0, n_logits_ = 0;
  bool has_weights_ = false;
  std::uint64_t n_other_ = 0;
  GateShape gate_;  // where rows have logits
  std::vector<std::uint16_t> ids_;
  std::vector<float> weights_, logits_;
};

std::uint64_t RouteLog::whole(const Json& line, const std::string& field, const std::string& place) const {
  const auto found = line.find(field);
  if (found == line.end())
    throw UserError(place, fmt::format("no field '{}'", field),
                    "rename fields with --field ROLE=NAME (roles: type, request, token, layer, ids, weights, logits)");
  if (!found->is_number_integer() || (found->is_number_integer() && !found->is_number_unsigned()))
    throw UserError(place, fmt::format("'{}' is {}, not an integer >= 0", field, found->dump()));
  return found->get<std::uint64_t>();
}

void RouteLog::meta(const Json& line) {
  if (const auto name = line.find("model_id"); name != line.end() && name->is_string()) model_ = name->get<std::string>();
}

/// Slots of one row; -1 (and null weights) stand for no expert.
void RouteLog::read_slots(const Json& line, const std::string& place) {
  const auto found = line.find(fields_.ids);
  if (found == line.end() || !found->is_array() || found->empty())
    throw UserError(place, fmt::format("'{}' is not a list of experts", fields_.ids), "rename it with --field ids=NAME");
  ids_.clear();
  for (const auto& id : *found) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < -1 || id.get<std::int64_t>() >= ExpertId::invalid)
      throw UserError(place, fmt::format("'{}': {} is not an expert id", fields_.ids, id.dump()));
    ids_.push_back(static_cast<std::uint16_t>(id.get<std::int64_t>()));  // -1 becomes ExpertId::invalid
  }
  weights_.clear();
  const auto w = line.find(fields_.weights);
  if (w == line.end()) return;
  if (!w->is_array() || w->size() != ids_.size())
    throw UserError(place, fmt::format("'{}' has {} values for {} experts", fields_.weights, w->size(), ids_.size()));
  for (const auto& value : *w) {
    if (!value.is_number()) throw UserError(place, fmt::format("'{}': {} is not a number", fields_.weights, value.dump()));
    weights_.push_back(value.get<float>());
  }
}

void RouteLog::read_logits(const Json& line, const std::string& place) {
  logits_.clear();
  const auto found = line.find(fields_.logits);
  if (found == line.end()) return;
  if (!found->is_array() || found->empty()) throw UserError(place, fmt::format("'{}' is not a list of numbers", fields_.logits));
  for (const auto& value : *found) {
    if (!value.is_number()) throw UserError(place, fmt::format("'{}': {} is not a number", fields_.logits, value.dump()));
    logits_.push_back(value.get<float>());
  }
}

/// The first row decides what all have.
void RouteLog::begin(bool has_ids, const std::string& place) {
  n_logits_ = static_cast<std::uint32_t>(logits_.size());
  top_k_ = has_ids ? static_cast<std::uint32_t>(ids_.size()) : 0;
  if (n_logits_ > 0) gate_ = sink_.resolve_gate(n_logits_, top_k_, place);
  if (!has_ids) top_k_ = gate_.top_k;
  has_weights_ = n_logits_ > 0 || !weights_.empty();
  spool_.emplace(top_k_, n_logits_);
}

/// Rows without experts have those that the gate chooses from their logits.
void RouteLog::row(const Json& line, const std::string& place) {
  read_logits(line, place);
  const bool has_ids = logits_.empty() || line.contains(fields_.ids);
  if (has_ids) read_slots(line, place);
  if (!spool_) begin(has_ids, place);
  if (logits_.size() != n_logits_) throw UserError(place, fmt::format("{} logits, rows before have {}", logits_.size(), n_logits_));
  if (!has_ids)
    choose_from_logits(gate_, 1, logits_, ids_, weights_);
  else if (n_logits_ > 0 && weights_.empty() && ids_.size() == top_k_)
    weights_from_logits(gate_, 1, logits_, ids_, weights_);
  if (ids_.size() != top_k_ || weights_.empty() == has_weights_) {
    throw UserError(
        place, fmt::format("{} experts and {} weights, rows before have {} and {}", ids_.size(), weights_.size(), top_k_, has_weights_ ? top_k_ : 0));
  }
  const auto id = line.find(fields_.request);
  const std::string name = id == line.end() ? "" : id->is_string() ? id->get<std::string>() : id->dump();
  const std::uint32_t request = requests_.emplace(name, static_cast<std::uint32_t>(requests_.size())).first->second;
  const std::uint64_t layer = whole(line, fields_.layer, place);
  if (layer >= 65535) throw UserError(place, fmt::format("layer {} is impossible", layer));
  const std::uint32_t position = passes_.position(request, static_cast<std::uint16_t>(layer), whole(line, fields_.token, place), place);
  spool_->add(request, position, static_cast<std::uint16_t>(layer), ids_.data(), has_weights_ ? weights_.data() : nullptr,
              n_logits_ > 0 ? logits_.data() : nullptr);
}

void RouteLog::read(const std::string& path) {
  LineReader lines(open_byte_stream(path));
  std::string unfinished;  // place of a line that is no JSON: forgiven only at the very end
  for (std::string_view text; lines.next(text);) {
    if (text.empty()) continue;
    if (!unfinished.empty()) throw UserError(unfinished, "line is not a JSON object");
    const Json line = parse_json_line(text, lines.place());
    if (!line.is_object()) {
      unfinished = lines.place();
      continue;
    }
    const auto type = line.find(fields_.type);
    const std::string kind = type != line.end() && type->is_string() ? type->get<std::string>() : "route";
    if (kind == "meta")
      meta(line);
    else if (kind == "route")
      row(line, lines.place());
    else
      ++n_other_;
  }
  if (!unfinished.empty()) sink_.warn(unfinished + ": the last line is incomplete and left out (was the recorder killed?)");
}

void RouteLog::emit() {
  const std::string& place = options_.inputs.front();
  if (!spool_) throw UserError(place, "no route line", "is this a route log?");
  spool_->sort(place);
  SourceFacts facts;
  facts.layer_ids = spool_->layers();
  facts.n_layers = static_cast<std::uint32_t>(facts.layer_ids.size());
  facts.top_k = top_k_;
  facts.n_experts = n_logits_;
  facts.has_weights = has_weights_;
  facts.has_logits = n_logits_ > 0;
  facts.split_known = false;
  facts.model_name = model_;
  sink_.describe(facts, place);
  if (n_other_ > 0) sink_.note(fmt::format("{} lines of another type were left out", n_other_));
  if (passes_.restarts() > 0) {
    sink_.warn(fmt::format("the token counter restarts {} times within a request: the logger counts rows per forward pass; passes are appended",
                           passes_.restarts()));
  }
  if (passes_.gaps() > 0) sink_.warn(fmt::format("the token counter jumps {} times: rows are missing there", passes_.gaps()));
  spool_->hand_over(has_weights_, options_.domains.empty() ? 0 : sink_.domain(options_.domains[0]), place, sink_);
}

}  // namespace

bool detect_route_jsonl(const InputProbe& probe) {
  const Json line = Json::parse(probe.first_line, nullptr, false);
  if (!line.is_object() || line.contains("top_indices") || line.contains("router_data")) return false;
  return line.contains("topk_ids") || line.contains("layers_logged") || (line.contains("logits") && line.contains("layer")) ||
         (line.contains("type") && (line["type"] == "meta" || line["type"] == "route"));
}

/// Memory: a few words per (request, layer); rows wait in temporary files. Several inputs are one log in parts.
void import_route_jsonl(const ImportOptions& options, ImportSink& sink) {
  RouteLog log(options, sink);
  for (const auto& path : options.inputs) log.read(path);
  log.emit();
}

}  // namespace moekv
