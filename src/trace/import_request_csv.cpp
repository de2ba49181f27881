// Any CSV of requests: columns for arrival, prompt and output tokens (and session) by option or by their usual names.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "trace/request_feed.hpp"
#include "trace/text.hpp"

namespace moekv {
namespace {

struct Role {
  std::string_view name;
  std::vector<std::string_view> usual;
};

const std::vector<Role>& roles() {
  static const std::vector<Role> all{
      {"arrival",
       {"arrival_time_ns", "arrival_ns", "arrival_us", "arrival_ms", "arrival_time", "arrival_s", "arrival", "arrived_at", "timestamp_ms",
        "timestamp", "time"}},
      {"prompt", {"input_toks", "input_tokens", "prompt_tokens", "prompt_len", "input_length", "num_prefill_tokens", "context_tokens"}},
      {"output", {"output_toks", "output_tokens", "completion_tokens", "output_len", "output_length", "num_decode_tokens", "generated_tokens"}},
      {"session", {"session", "session_id", "conversation_id"}}};
  return all;
}

/// Column names of a role: the option's, or the usual ones.
std::vector<std::string_view> names_of(const Role& role, const ImportOptions& options) {
  const auto given = options.fields.find(std::string(role.name));
  return given != options.fields.end() ? std::vector<std::string_view>{given->second} : role.usual;
}

/// Nanoseconds per unit: by option, else by the column's ending, else seconds.
std::int64_t unit_of(const std::string& column, const ImportOptions& options) {
  constexpr std::pair<std::string_view, std::int64_t> units[] = {{"ns", 1}, {"us", 1000}, {"ms", 1'000'000}, {"s", 1'000'000'000}};
  for (const auto& [name, ns] : units) {
    if (options.time_unit == name || (options.time_unit.empty() && lower(column).ends_with(fmt::format("_{}", name)))) return ns;
  }
  if (!options.time_unit.empty()) throw UserError("--time-unit", fmt::format("unknown unit '{}'", options.time_unit), "allowed: ns, us, ms, s");
  return 1'000'000'000;
}

}  // namespace

bool detect_request_csv(const InputProbe& probe) {
  std::vector<std::string_view> fields;
  std::vector<std::string> unquoted;
  split_csv(probe.first_line, fields, unquoted);
  int found = 0;
  for (const Role& role : roles()) {
    for (const auto field : fields) found += role.name != "session" && std::ranges::count(role.usual, lower(field)) > 0 ? 1 : 0;
  }
  return found >= 2;
}

/// Streams: memory does not depend on the length (sessions: one entry each). Without an arrival column arrivals are unknown.
void import_request_csv(const ImportOptions& options, ImportSink& sink) {
  std::vector<std::string_view> known;
  for (const Role& role : roles()) known.push_back(role.name);
  for (const auto& [role, column] : options.fields) {
    if (std::ranges::count(known, role) == 0) throw UserError("--field", fmt::format("unknown role '{}'", role), suggest_name(role, known));
  }
  sink.describe({}, options.inputs.front());
  RequestFeed feed(sink);
  std::unordered_map<std::string, std::int32_t> sessions;
  for (const auto& path : options.inputs) {
    CsvReader table(path);
    const bool timed = options.fields.contains("arrival") || table.find(roles()[0].usual).has_value();
    const std::size_t time = timed ? table.require(names_of(roles()[0], options)) : 0;
    const std::size_t prompt = table.require(names_of(roles()[1], options)), output = table.require(names_of(roles()[2], options));
    const auto session =
        options.fields.contains("session") ? std::optional(table.require(names_of(roles()[3], options))) : table.find(roles()[3].usual);
    const std::int64_t unit = timed ? unit_of(table.header()[time], options) : 1;
    while (!sink.full() && table.next()) {
      RequestInfo request;
      request.prompt_tokens = table.count(prompt);
      request.output_tokens = table.count(output);
      if (session && !table[*session].empty()) {
        request.session = sessions.emplace(std::string(table[*session]), static_cast<std::int32_t>(sessions.size())).first->second;
      }
      if (!timed) {
        sink.begin_request(request, table.place());
        continue;
      }
      auto arrival = parse_time_ns(table[time], unit);
      if (!arrival) arrival = parse_timestamp_ns(table[time]);
      if (!arrival) throw UserError(table.place(), fmt::format("column '{}': '{}' is not a time", table.header()[time], table[time]));
      feed.add(*arrival, request, table.place());
    }
  }
  feed.finish();
}

}  // namespace moekv
