// RecordingTarget: an import's result in memory, so that importers are tested without files.
#pragma once

#include <string>
#include <vector>

#include "trace/import_target.hpp"

namespace moekv::testing {

struct RecordedRequest {
  RequestInfo info;
  std::vector<std::uint64_t> hash_ids;
  std::uint32_t n_tokens = 0;
  std::vector<std::uint16_t> ids;
  std::vector<float> weights, logits, q, k, v;
  std::vector<std::int32_t> token_ids;
};

class RecordingTarget final : public TraceTarget {
 public:
  WriterSpec spec;
  std::vector<RecordedRequest> requests;
  std::vector<std::string> log, domains;
  bool finished = false;

  void open(const WriterSpec& s) override { spec = s; }
  void begin_request(const RequestInfo& info, std::span<const std::uint64_t> hash_ids) override {
    requests.push_back({});
    requests.back().info = info;
    requests.back().hash_ids.assign(hash_ids.begin(), hash_ids.end());
  }
  void append(const TokenBlock& b) override {
    RecordedRequest& r = requests.back();
    r.n_tokens += b.n_tokens;
    const auto add = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    add(r.ids, b.ids), add(r.weights, b.weights), add(r.logits, b.logits);
    add(r.q, b.q), add(r.k, b.k), add(r.v, b.v), add(r.token_ids, b.token_ids);
  }
  void note(const std::string& line) override { log.push_back(line); }
  void finish(const std::vector<std::string>& names) override {
    domains = names;
    finished = true;
  }
  [[nodiscard]] std::string log_text() const {
    std::string text;
    for (const auto& line : log) text += line + "\n";
    return text;
  }
};

}  // namespace moekv::testing
