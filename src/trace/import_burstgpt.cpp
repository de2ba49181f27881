// BurstGPT traces: CSV in seconds; version 1 without, version 3 with "Session ID" and "Elapsed time". Failed requests have no output.
#include <fmt/format.h>

#include <unordered_map>

#include "trace/request_feed.hpp"
#include "trace/text.hpp"

namespace moekv {

bool detect_burstgpt(const InputProbe& probe) {
  const std::string header = lower(probe.first_line);
  return header.find("request tokens") != std::string::npos && header.find("response tokens") != std::string::npos;
}

/// Memory: one entry per session (version 3), else none. The log type (conversation, API) becomes the domain.
void import_burstgpt(const ImportOptions& options, ImportSink& sink) {
  sink.describe({}, options.inputs.front());
  RequestFeed feed(sink);
  std::unordered_map<std::string, std::int32_t> sessions;
  for (const auto& path : options.inputs) {
    CsvReader table(path);
    const std::size_t time = table.require({"Timestamp"}), prompt = table.require({"Request tokens"}), output = table.require({"Response tokens"});
    const auto session = table.find({"Session ID"}), log = table.find({"Log Type"});
    while (!sink.full() && table.next()) {
      const auto arrival = parse_time_ns(table[time], 1'000'000'000);
      if (!arrival) throw UserError(table.place(), fmt::format("'{}' is not a time in seconds", table[time]));
      RequestInfo request;
      request.prompt_tokens = table.count(prompt);
      request.output_tokens = table.count(output);
      if (session && !table[*session].empty()) {
        request.session = sessions.emplace(std::string(table[*session]), static_cast<std::int32_t>(sessions.size())).first->second;
      }
      if (log) request.domain = sink.domain(std::string(table[*log]));
      feed.add(*arrival, request, table.place());
    }
  }
  feed.finish();
}

}  // namespace moekv
