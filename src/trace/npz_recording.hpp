// Recording: the arrays of one NumPy recording, sorted into roles, with the facts and blocks that its importer hands on.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "io/npz.hpp"
#include "trace/import_sink.hpp"

namespace moekv::npz {

/// Members by role, under the names that recorders use.
[[nodiscard]] const std::map<std::string, std::vector<std::string>>& role_names();

/// One recording: arrays of one .npz, or of .npy files that belong together.
class Recording {
 public:
  Recording(const ImportOptions& options, ImportSink& sink, NpyArrays arrays, std::string path);
  [[nodiscard]] SourceFacts facts();
  void emit();
  void note_unused();

 private:
  [[nodiscard]] NpyArray* find(const std::string& role);
  [[nodiscard]] bool layer_first(const std::vector<std::uint64_t>& shape);
  void check_shape(NpyArray& array, const char* role, std::uint64_t width) const;
  [[nodiscard]] std::vector<std::int64_t> lengths(const char* role);
  void read_lengths();
  void read_marks();
  void kv_facts(SourceFacts& facts);
  TokenBlock read_block(std::uint64_t begin, std::uint64_t end);
  void read_ids(std::uint64_t begin, std::uint64_t end, TokenBlock& block);

  const ImportOptions& options_;
  ImportSink& sink_;
  NpyArrays arrays_;
  std::string path_;
  std::set<std::string> used_;
  NpyArray *ids_ = nullptr, *weights_ = nullptr, *logits_ = nullptr, *token_ids_ = nullptr, *q_ = nullptr, *k_ = nullptr, *v_ = nullptr;
  std::uint64_t n_tokens_ = 0, n_layers_ = 0;
  bool layer_first_ = false;  // [L, T, .]
  std::vector<std::int64_t> seq_lens_, prompt_lens_, arrivals_;
  std::vector<std::uint16_t> layer_ids_;
  bool decode_only_ = false;  // prompt_lens lie before the rows
  std::vector<std::string> domains_;
  std::vector<std::int64_t> integers_;
  std::vector<float> reals_;
};

}  // namespace moekv::npz
