// Mooncake traces: JSON lines with timestamp (ms), input_length, output_length and hash_ids of 512-token prefix blocks, which are kept.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "io/gzip.hpp"
#include "trace/json_line.hpp"
#include "trace/request_feed.hpp"

namespace moekv {
namespace {

using Json = nlohmann::json;
constexpr std::uint32_t hash_block_tokens = 512;

std::uint32_t tokens_of(const Json& line, const char* field, const std::string& place) {
  const auto found = line.find(field);
  if (found == line.end() || !found->is_number_unsigned() || found->get<std::uint64_t>() >= (1ULL << 31)) {
    throw UserError(place, fmt::format("'{}' is {}, not a number of tokens", field, found == line.end() ? "missing" : found->dump()));
  }
  return found->get<std::uint32_t>();
}

}  // namespace

bool detect_mooncake(const InputProbe& probe) {
  const Json line = Json::parse(probe.first_line, nullptr, false);
  return line.is_object() && line.contains("input_length") && line.contains("output_length");
}

/// Streams: memory does not depend on the length.
void import_mooncake(const ImportOptions& options, ImportSink& sink) {
  SourceFacts facts;
  facts.has_hash_ids = true;
  facts.hash_block_tokens = hash_block_tokens;
  sink.describe(facts, options.inputs.front());
  RequestFeed feed(sink);
  std::uint64_t n_odd = 0;
  std::vector<std::uint64_t> hash_ids;
  for (const auto& path : options.inputs) {
    LineReader lines(open_byte_stream(path));
    for (std::string_view text; !sink.full() && lines.next(text);) {
      if (text.empty()) continue;
      const Json line = parse_json_line(text, lines.place());
      if (!line.is_object()) throw UserError(lines.place(), "line is not a JSON object", "is the file complete?");
      RequestInfo request;
      request.prompt_tokens = tokens_of(line, "input_length", lines.place());
      request.output_tokens = tokens_of(line, "output_length", lines.place());
      const auto time = line.find("timestamp");
      if (time == line.end() || !time->is_number() || time->get<double>() < 0 || time->get<double>() > 9e12)
        throw UserError(lines.place(), "'timestamp' is not a time in ms");
      hash_ids.clear();
      if (const auto ids = line.find("hash_ids"); ids != line.end()) {
        for (const auto& id : *ids) {
          if (!id.is_number_unsigned()) throw UserError(lines.place(), fmt::format("hash_ids: {} is not an integer >= 0", id.dump()));
          hash_ids.push_back(id.get<std::uint64_t>());
        }
      }
      n_odd += hash_ids.size() != (request.prompt_tokens + hash_block_tokens - 1) / hash_block_tokens ? 1 : 0;
      feed.add(static_cast<std::int64_t>(time->get<double>() * 1e6), request, lines.place(), hash_ids);
    }
  }
  if (n_odd > 0) sink.warn(fmt::format("{} requests have not one hash per {} prompt tokens", n_odd, hash_block_tokens));
  feed.finish();
}

}  // namespace moekv
