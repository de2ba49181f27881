// Builds the JSON object of a run in the order of its parts.
#include "results/json.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/json_text.hpp"
#include "results/record_table.hpp"

namespace moekv {
namespace {

using Json = nlohmann::ordered_json;

/// JSON has no NaN and no infinity.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
Json number(std::int64_t value) { return value; }

Json facts_json(const Facts& facts) {
  Json object = Json::object();
  for (const Fact& fact : facts.list()) {
    object[fact.name] = std::visit([](const auto& value) { return Json(value); }, fact.value);
  }
  return object;
}

Json metrics_json(const std::vector<Summary>& summary) {
  Json object = Json::object();
  for (const Summary& s : summary) {
    Json& metric = object[s.name];
    metric = {{"value", number(s.value)}, {"unit", s.unit}, {"claim_class", std::string(to_string(s.claim))}, {"definition", s.definition}};
    if (std::isfinite(s.model)) metric["model"] = s.model;
    if (s.numerator == 0 && s.denominator == 0) continue;
    metric["numerator"] = number(s.numerator);
    metric["denominator"] = number(s.denominator);
  }
  return object;
}

Json records_json(const RunOutcome& outcome) {
  Json object = Json::object();
  for_each_record(outcome, [&](const char* name, const auto& rows) {
    using Record = typename std::decay_t<decltype(rows)>::value_type;
    Json& table = object[name];
    for_each_field(Record::metrics, [&](const auto& m) {
      Json& column = table[std::string(m.name)] = Json::array();
      for (const Record& row : rows) column.push_back(number(row.*m.member));
    });
  });
  return object;
}

}  // namespace

std::string to_json(const RunFile& run, JsonRecords records, int indent) {
  const RunOutcome& out = run.outcome;
  Json json;
  json["facts"] = facts_json(run.facts);
  json["provenance"] = facts_json(run.provenance);
  for (const HostFacts& h : run.hosts) {
    Json host;
    for_each_field(HostFacts::fields, [&](const auto& field) { host[std::string(field.name)] = h.*field.member; });
    json["hosts"].push_back(std::move(host));
  }
  for (const Parameter& p : run.parameters) json["parameters"][p.name] = p.text;
  json["status"] = std::string(run_status_names[static_cast<std::size_t>(run.status)]);
  json["digest"] = to_hex(out.digest);
  json["window_digests"] = Json::array();
  for (const Digest128& digest : out.window_digests) json["window_digests"].push_back(to_hex(digest));
  json["labels"] = out.labels;
  json["notes"] = out.notes;
  json["violations"] = out.violations;
  json["metrics"] = metrics_json(out.summary);
  if (records == JsonRecords::yes) json["records"] = records_json(out);
  return json_text(json, indent);
}

std::string numbers_json(const RunOutcome& outcome, int indent) {
  Json json;
  json["metrics"] = metrics_json(outcome.summary);
  json["records"] = records_json(outcome);
  for_each_record(outcome, [&](const char* name, const auto& rows) {
    if (rows.empty()) json["records"].erase(name);
  });
  return json_text(json, indent);
}

}  // namespace moekv
