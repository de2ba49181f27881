// ImportSink: what all importers share: which layers are kept, checks of every row, cuts, suspicions, and the order of writing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "trace/import_target.hpp"
#include "trace/importers.hpp"
#include "trace/traps.hpp"

namespace moekv {

/// What an importer knows about its rows before the first one.
struct SourceFacts {
  std::uint32_t n_layers = 0;              // routing layers per token in the blocks; 0 = a request trace without rows
  std::vector<std::uint16_t> layer_ids;    // their model layers where the format names them
  std::uint32_t n_experts = 0, top_k = 0;  // where the format names them
  bool has_weights = false, has_logits = false, has_token_ids = false, has_hash_ids = false;
  bool split_known = true;  // false: the format does not say which tokens were prompt
  std::uint32_t hash_block_tokens = 512;
  std::vector<std::uint16_t> kv_layers;  // model layers of q, k, v in the blocks
  std::string model_name;
  std::optional<ModelShape> shape;  // where the input shows it
  std::string workload, source, source_uri, license;
  bool joined = false;
};

/// Importers call describe once, then begin_request and append per request. Rows with ids beyond n_experts, repeated ids or bad
/// weights are collected as problems and thrown together (UserError).
class ImportSink {
 public:
  ImportSink(const ImportOptions& options, TraceTarget& target) : options_(options), target_(target) {}

  /// n_experts and top_k as options, model and facts agree on; a UserError at `place` where they are unknown or disagree.
  [[nodiscard]] GateShape resolve_gate(std::uint32_t n_experts, std::uint32_t top_k, const std::string& place) const;
  void describe(SourceFacts facts, const std::string& place);
  [[nodiscard]] const GateShape& gate() const { return gate_; }
  [[nodiscard]] std::uint32_t n_experts() const { return gate_.n_experts; }
  [[nodiscard]] std::uint32_t top_k() const { return gate_.top_k; }

  /// True when --max-requests are complete: the importer may stop.
  [[nodiscard]] bool full() const { return options_.max_requests > 0 && n_begun_ >= options_.max_requests; }
  /// The next request. False = it is left out (skipped, too short): its rows need not be appended.
  bool begin_request(RequestInfo request, const std::string& place, std::span<const std::uint64_t> hash_ids = {});
  /// Index of a domain name, added when new.
  [[nodiscard]] std::uint16_t domain(const std::string& name);
  /// The next tokens of the current request, all layers of the input. `place` begins messages about these rows.
  void append(TokenBlock block, const std::string& place);

  void note(std::string line) { report_.notes.push_back(std::move(line)); }
  void warn(std::string line) { report_.warnings.push_back(std::move(line)); }
  /// A problem that makes the import fail at its end, or at once when there are many.
  void problem(Problem p);
  /// Writes what is pending and the log; throws the problems when there are any.
  ImportReport finish();

 private:
  void resolve_layers(const std::string& place);
  void drop_zero_layers(const TokenBlock& block);
  void open_target(const TokenBlock* first);
  void select_columns(TokenBlock& block) const;
  void check_rows(const TokenBlock& block, const std::string& place);
  void check_row(const TokenBlock& block, std::size_t row, const std::string& place);
  void start_pending();

  const ImportOptions& options_;
  TraceTarget& target_;
  SourceFacts facts_;
  GateShape gate_;
  std::vector<std::uint32_t> columns_;        // of the input, in the order written
  std::vector<std::uint16_t> column_layers_;  // model layer of each input column
  std::vector<std::uint32_t> zero_columns_;   // taken for dense layers
  std::optional<TrapDetector> traps_;
  bool opened_ = false;
  bool wanted_ = false;           // the current request is written
  bool request_pending_ = false;  // begun here, not yet in the target
  RequestInfo request_;
  std::vector<std::uint64_t> hash_ids_;
  std::uint32_t left_tokens_ = 0;  // of the current request, still to be written
  std::uint64_t n_seen_ = 0, n_begun_ = 0, n_short_ = 0, n_cut_ = 0, n_absent_ = 0, position_ = 0;
  WeightKind weight_kind_ = WeightKind::none;
  std::vector<std::string> domain_names_;
  std::vector<Problem> problems_;
  ImportReport report_;
};

/// A row that names no choice: all slots expert 0 (zero fill), or all absent.
[[nodiscard]] bool is_filler(std::span<const std::uint16_t> row);

/// ids, weights from logits by the model's gate, for sources that record logits only (rules/route/gate.hpp). Gates with a group limit
/// can be recomputed; a selection bias cannot be known.
void choose_from_logits(const GateShape& gate, std::uint32_t n_rows, const std::vector<float>& logits, std::vector<std::uint16_t>& ids,
                        std::vector<float>& weights);
/// Weights of recorded ids from their logits.
void weights_from_logits(const GateShape& gate, std::uint32_t n_rows, const std::vector<float>& logits, const std::vector<std::uint16_t>& ids,
                         std::vector<float>& weights);

}  // namespace moekv
