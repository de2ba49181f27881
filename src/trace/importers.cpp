// The table of formats, recognition, and the import as a whole.
#include "trace/importers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "io/gzip.hpp"
#include "io/pending_file.hpp"
#include "trace/import_sink.hpp"

namespace moekv {
namespace {

// One line per format. Recognition asks in this order, so the particular stand before the general.
constexpr Importer table[] = {
    {"native", detect_native, import_native, "a native trace again: cut it, take sequences apart, add pseudo logits"},
    {"npz", detect_npz, import_npz, "NumPy .npz/.npy: ids [T,L,K], [L,T,K] or [T,K]; weights, logits, seq_lens, prompt_lens, token_ids, q, k, v"},
    {"esft", detect_esft, import_esft, "ESFT expert_weights_<layer>.txt in a folder or .tar(.gz)"},
    {"megatron", detect_megatron, import_megatron, "Megatron router_trace_rank<r>.jsonl, with logits_rank<r>.bin where recorded"},
    {"gptoss-json", detect_gptoss, import_gptoss, "gpt-oss nested JSON router_data (decode tokens only)"},
    {"mooncake", detect_mooncake, import_mooncake, "requests: Mooncake JSON lines with hash_ids"},
    {"route-jsonl", detect_route_jsonl, import_route_jsonl,
     "JSON lines as vLLM's: req_id, token_idx, layer, and topk_ids (topk_weights), logits or both"},
    {"dense-csv", detect_dense_csv, import_dense_csv, "CSV with a score per expert (DynaNDE): layer_id, token_id, expert_0, ..."},
    {"azure", detect_azure, import_azure, "requests: Azure CSV TIMESTAMP, ContextTokens, GeneratedTokens"},
    {"burstgpt", detect_burstgpt, import_burstgpt, "requests: BurstGPT CSV, versions 1 and 3"},
    {"request-csv", detect_request_csv, import_request_csv, "requests: any CSV, columns by --field arrival=, prompt=, output=, session="},
};

const Importer& importer_named(const std::string& name) {
  std::vector<std::string_view> known;
  for (const Importer& i : table) {
    if (i.name == name) return i;
    known.push_back(i.name);
  }
  throw UserError("--format", fmt::format("unknown format '{}'", name), suggest_name(name, known));
}

const Importer& recognise(const std::string& input, const ImportOptions& options) {
  const InputProbe probe = probe_input(input);
  if (!probe.folder && probe.head.empty()) throw UserError(input, "is empty");
  std::string known;
  for (const Importer& i : table) {
    if (i.detect(probe)) return i;
    known += (known.empty() ? "" : ", ") + std::string(i.name);
  }
  for (const char* role : {"arrival", "prompt", "output"}) {
    if (options.fields.contains(role)) return importer_named("request-csv");  // no other format has such columns
  }
  throw UserError(input, "the format is not recognised", "name it with --format: " + known + "; --list-formats says what each looks like");
}

}  // namespace

InputProbe probe_input(const std::string& path) {
  if (!std::filesystem::exists(path)) throw UserError(path, "does not exist");
  InputProbe probe{path, std::filesystem::is_directory(path), "", ""};
  if (probe.folder) return probe;
  probe.head = read_head(path, 65536);
  std::string_view text = probe.head;
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  text.remove_prefix(std::min(text.find_first_not_of("\r\n \t"), text.size()));
  probe.first_line = std::string(text.substr(0, text.find_first_of("\r\n")));
  return probe;
}

std::span<const Importer> importers() { return table; }

namespace {

/// A file that is removed when the import ends in any way.
struct Stage {
  std::string path;
  ~Stage() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
};

bool needs_second_pass(const ImportOptions& options) { return options.deinterleave > 1 || options.drop_warmup || options.pseudo_logits; }

/// The log of a first pass ahead of that of the second.
class LoggedTarget final : public TraceTarget {
 public:
  LoggedTarget(TraceTarget& target, const std::vector<std::string>& log) : target_(target), log_(log) {}
  void open(const WriterSpec& spec) override {
    target_.open(spec);
    for (const auto& line : log_) target_.note(line);
  }
  void begin_request(const RequestInfo& request, std::span<const std::uint64_t> hash_ids) override { target_.begin_request(request, hash_ids); }
  void append(const TokenBlock& block) override { target_.append(block); }
  void note(const std::string& line) override { target_.note(line); }
  void finish(const std::vector<std::string>& domain_names) override { target_.finish(domain_names); }

 private:
  TraceTarget& target_;
  const std::vector<std::string>& log_;
};

/// Imports as recorded into a file beside the output, then reads that once more with the transformations and cuts.
ImportReport import_staged(const ImportOptions& options, const std::string& output) {
  const Stage stage{output + ".stage.h5"};
  ImportOptions plain = options;
  plain.deinterleave = 1;
  plain.drop_warmup = plain.pseudo_logits = false;
  plain.skip_requests = plain.max_requests = plain.min_tokens = plain.max_tokens = 0;
  const ImportReport first = import_into(plain, *make_native_target(stage.path));
  ImportOptions second = options;
  second.inputs = {stage.path};
  second.format = "native";
  second.moe_layers.clear();
  second.keep_layers.clear();
  second.fields.clear();
  second.prompt_share = -1.0;
  if (first.format == "esft") second.weight_floor = 5e-5;
  std::vector<std::string> log = first.notes;
  for (const auto& line : first.warnings) log.push_back("before transformation: " + line);
  const auto target = make_native_target(output);
  LoggedTarget logged(*target, log);
  ImportReport report = import_into(second, logged);
  report.format = first.format;
  report.notes.insert(report.notes.begin(), log.begin(), log.end());
  return report;
}

}  // namespace

ImportReport import_trace(const ImportOptions& options, const std::string& output) {
  require_apart(output, options.inputs);
  const bool native =
      options.format == "native" || (options.format.empty() && !options.inputs.empty() && detect_native(probe_input(options.inputs[0])));
  if (needs_second_pass(options) && !native) return import_staged(options, output);
  return import_into(options, *make_native_target(output));
}

ImportReport import_into(const ImportOptions& options, TraceTarget& target) {
  if (options.inputs.empty()) throw UserError("", "no input is given");
  const Importer& importer = options.format.empty() ? recognise(options.inputs.front(), options) : importer_named(options.format);
  ImportSink sink(options, target);
  std::string inputs;
  for (const auto& path : options.inputs) inputs += (inputs.empty() ? "" : ", ") + std::filesystem::path(path).filename().string();
  sink.note(fmt::format("imported as {} from {}", importer.name, inputs));
  importer.run(options, sink);
  ImportReport report = sink.finish();
  report.format = importer.name;
  return report;
}

}  // namespace moekv
