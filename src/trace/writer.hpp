// NativeWriter: writes the native HDF5 trace in chunks, so a trace larger than memory is written in constant memory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "trace/source.hpp"

namespace moekv {

/// What the rows of one token say about their weights (root attribute weight_kind).
enum class WeightKind : std::uint8_t { none, raw_softmax, renorm, sigmoid };

/// Element type of recorded q, k, v in the file.
enum class KvType : std::uint8_t { fp16, bf16 };

/// Fixed facts of a trace to be written; `info.shape`, `info.moe_layers`, n_experts, top_k and level must be filled. Without layers
/// (TraceInfo::has_routing false) only requests are written, no rows.
struct WriterSpec {
  TraceInfo info;
  WeightKind weight_kind = WeightKind::none;
  std::string generator;        // tool, version, argv
  std::string source_commit;
  std::string source_sha256;
  std::string created_utc;      // empty = now
  std::vector<std::string> domain_names;
  std::int64_t seed = -1;
  bool has_token_ids = false;
  bool has_hash_ids = false;    // prefix identity, blocks of hash_block_tokens
  std::uint32_t hash_block_tokens = 512;
  KvType kv_type = KvType::fp16;  // only with info.kv_layers; values beyond fp16 are refused
};

/// Rows of consecutive tokens of the current request, token-major. Unused levels stay empty.
struct TokenBlock {
  std::uint32_t n_tokens = 0;
  std::vector<std::uint16_t> ids;          // [tokens][Lm][K]
  std::vector<float> weights;              // [tokens][Lm][K]
  std::vector<std::uint16_t> cand_ids;     // [tokens][Lm][M]
  std::vector<float> cand_logit, lse;      // [tokens][Lm][M], [tokens][Lm]
  std::vector<float> logits;               // [tokens][Lm][E]
  std::vector<std::int32_t> token_ids;     // [tokens]
  std::vector<float> q, k, v;              // [tokens][Lk][heads][d]; MLA: k = latent [tokens][Lk][d_c + d_rope], v empty
};

/// Writes `path` through a temporary file that is renamed by `finish`; without `finish` nothing appears. Canonical order "request".
class NativeWriter {
 public:
  NativeWriter(const std::string& path, WriterSpec spec);
  ~NativeWriter();
  NativeWriter(const NativeWriter&) = delete;
  NativeWriter& operator=(const NativeWriter&) = delete;

  /// Starts the next request; its rows follow by `append`. Positions run 0.. over prompt then output. UserError where the request before
  /// has not all its rows.
  void begin_request(const RequestInfo& request, std::span<const std::uint64_t> hash_ids = {});
  /// UserError for a row that no reader would accept: expert ids out of range or repeated, weights not finite, missing levels.
  void append(const TokenBlock& block);
  /// Domain names that became known while writing; they replace those of the WriterSpec.
  void name_domains(const std::vector<std::string>& names);
  /// A line for /provenance/import_log.
  void note(const std::string& line);
  /// Completes, fsyncs and renames. Throws UserError when request lengths and rows disagree.
  void finish();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moekv
