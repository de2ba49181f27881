// TraceRecorder: writes what a model did in the loop as a native trace with logits, q, k and v, so that it can be replayed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "engine/step_batch.hpp"
#include "model/decoder.hpp"
#include "model/token_source.hpp"
#include "trace/writer.hpp"

namespace moekv {

/// One on every process; process 0 writes. The experts recorded are those that computed, the logits the model's own.
class TraceRecorder {
 public:
  /// Nothing appears under `path` before `finish`. q, k and v are stored as bf16 or fp16.
  TraceRecorder(const std::string& path, const TokenSource& tokens, const DecoderSpec& model, KvType kv_type, const std::string& generator,
                Transport& transport);
  ~TraceRecorder();

  /// What the tokens of `begin_step` made at a layer, token-major.
  void begin_step(std::span<const BatchItem> items);
  void add_qkv(std::uint32_t layer, std::span<const float> q, std::span<const float> k, std::span<const float> v);
  void add_routing(std::uint32_t row, std::span<const float> logits, std::span<const std::uint16_t> ids, std::span<const float> weights);
  /// Collective.
  void end_step();
  /// On process 0: completes the file. Throws UserError for values beyond fp16.
  void finish();

 private:
  /// Rows of one request, in order of position; complete when it has all tokens.
  struct Pending {
    RequestInfo info;
    TokenBlock rows;
  };
  void take(std::span<const std::byte> bytes);
  void write_complete();

  const TokenSource* tokens_;
  DecoderSpec model_;
  Transport* transport_;
  std::unique_ptr<NativeWriter> writer_;  // on process 0
  std::vector<BatchItem> items_;
  std::size_t n_tokens_ = 0;
  TokenBlock step_;                           // of this process's tokens
  std::map<std::uint32_t, Pending> pending_;  // on process 0, by request
};

}  // namespace moekv
