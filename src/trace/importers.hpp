// Importers: foreign recordings of routing or requests become native traces. One import_<format>.cpp and one line in the table per format.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/model_shape.hpp"
#include "trace/import_target.hpp"

namespace moekv {

struct ImportProgress {
  std::uint64_t requests = 0, tokens = 0;
};

/// What the user says about the input. Zero, empty or unset = taken from the model, else from the input, else an error that asks for it.
struct ImportOptions {
  std::vector<std::string> inputs;  // files or folders, in order
  std::string format;               // name in the table; empty = recognise
  std::optional<ModelShape> shape;
  std::uint32_t n_experts = 0, top_k = 0;
  std::vector<std::uint16_t> moe_layers;   // model layer of each routing layer of the input
  std::vector<std::uint16_t> keep_layers;  // model layers to write; empty = all
  std::string model_name, workload, source, source_uri, source_commit, license;
  std::vector<std::string> domains;                     // one name for all requests, or one per input
  std::map<std::string, std::string> fields;            // role -> column, field or member name in the input
  std::string layout;                                   // npz: "tlk" or "ltk"
  std::string time_unit;                                // generic request CSV: "s", "ms", "us", "ns"
  std::string prompt_lens;                              // npz: "inside" the rows or "before" them (decode-only recording)
  std::string weight_kind;                              // "raw_softmax", "renorm", "sigmoid"; empty = judged by the first rows
  double prompt_share = -1.0;                           // >= 0: this share of each request's tokens counts as prompt
  std::uint32_t deinterleave = 1;                       // > 1: rows of that many sequences alternate; take them apart
  bool drop_warmup = false;                             // leave out runs of >= 64 tokens with one identical expert set
  bool pseudo_logits = false;                           // invent logits that fit the recorded choice (routing.md section 4.1), labelled
  std::uint64_t seed = 1;                               // of pseudo logits
  std::uint64_t skip_requests = 0, max_requests = 0;    // max 0 = all
  std::uint32_t min_tokens = 0;                         // leave out shorter requests
  std::uint32_t max_tokens = 0;                         // cut longer requests
  double weight_floor = 0.0;                            // half the printed resolution of the weights; smaller ones count as this
  std::string generator;                                // tool, version and command line, stored in the trace
  std::function<void(const ImportProgress&)> progress;  // may be empty
};

struct ImportReport {
  std::string format;
  std::uint64_t requests = 0, tokens = 0;
  std::vector<std::string> notes;     // facts: what was read, assumed, left out
  std::vector<std::string> warnings;  // suspicions the user should look at
};

/// The start of an input, for recognising its format.
struct InputProbe {
  std::string path;
  bool folder = false;
  std::string head;        // first 64 KiB, decompressed; empty for folders
  std::string first_line;  // of head
};
[[nodiscard]] InputProbe probe_input(const std::string& path);

class ImportSink;

struct Importer {
  std::string_view name;
  bool (*detect)(const InputProbe& probe);
  void (*run)(const ImportOptions& options, ImportSink& sink);
  std::string_view description;
};
[[nodiscard]] std::span<const Importer> importers();

/// Imports into the native trace `output`. Bad input is UserError with file and line or row, all problems (up to 20) at once;
/// then nothing is written.
ImportReport import_trace(const ImportOptions& options, const std::string& output);
/// The same into any target, without the transformations that need a second pass (deinterleave, drop_warmup, pseudo_logits).
ImportReport import_into(const ImportOptions& options, TraceTarget& target);

// The formats, one import_<format>.cpp each.
bool detect_npz(const InputProbe&);
void import_npz(const ImportOptions&, ImportSink&);
bool detect_route_jsonl(const InputProbe&);
void import_route_jsonl(const ImportOptions&, ImportSink&);
bool detect_megatron(const InputProbe&);
void import_megatron(const ImportOptions&, ImportSink&);
bool detect_esft(const InputProbe&);
void import_esft(const ImportOptions&, ImportSink&);
bool detect_gptoss(const InputProbe&);
void import_gptoss(const ImportOptions&, ImportSink&);
bool detect_dense_csv(const InputProbe&);
void import_dense_csv(const ImportOptions&, ImportSink&);
bool detect_mooncake(const InputProbe&);
void import_mooncake(const ImportOptions&, ImportSink&);
bool detect_azure(const InputProbe&);
void import_azure(const ImportOptions&, ImportSink&);
bool detect_burstgpt(const InputProbe&);
void import_burstgpt(const ImportOptions&, ImportSink&);
bool detect_request_csv(const InputProbe&);
void import_request_csv(const ImportOptions&, ImportSink&);
bool detect_native(const InputProbe&);
void import_native(const ImportOptions&, ImportSink&);

}  // namespace moekv
