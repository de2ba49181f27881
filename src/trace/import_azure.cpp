// Azure LLM inference traces: CSV with TIMESTAMP, ContextTokens, GeneratedTokens.
#include <fmt/format.h>

#include "trace/request_feed.hpp"
#include "trace/text.hpp"

namespace moekv {

bool detect_azure(const InputProbe& probe) { return lower(probe.first_line).starts_with("timestamp,contexttokens,generatedtokens"); }

/// Streams: memory does not depend on the length.
void import_azure(const ImportOptions& options, ImportSink& sink) {
  sink.describe({}, options.inputs.front());
  RequestFeed feed(sink);
  for (const auto& path : options.inputs) {
    CsvReader table(path);
    const std::size_t time = table.require({"TIMESTAMP"}), prompt = table.require({"ContextTokens"}), output = table.require({"GeneratedTokens"});
    while (!sink.full() && table.next()) {
      const auto arrival = parse_timestamp_ns(table[time]);
      if (!arrival) throw UserError(table.place(), fmt::format("'{}' is not a time like 2023-11-16 18:15:46.6805900", table[time]));
      RequestInfo request;
      request.prompt_tokens = table.count(prompt);
      request.output_tokens = table.count(output);
      feed.add(*arrival, request, table.place());
    }
  }
  feed.finish();
}

}  // namespace moekv
