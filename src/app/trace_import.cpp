// `moekv trace import`: foreign recordings become native traces; says what was assumed and what looks wrong.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>

#include "app/command.hpp"
#include "config/reader.hpp"
#include "core/text.hpp"
#include "trace/importers.hpp"

namespace moekv {
namespace {

struct ImportArguments {
  ImportOptions options;
  std::string out, model;
  std::vector<std::string> fields;
  bool list = false, quiet = false;
};

/// A line on a terminal, rewritten five times a second; elsewhere one line every 30 s.
class Progress {
 public:
  void show(const ImportProgress& done) {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::milliseconds(30'000))) return;
    last_ = now;
    fmt::print(stderr, "{}{} requests, {} tokens{}", terminal_ ? "\r" : "", done.requests, done.tokens, terminal_ ? "" : "\n");
    std::fflush(stderr);
    shown_ = true;
  }
  ~Progress() {
    if (shown_ && terminal_) std::fputs("\r\033[K", stderr);
  }

 private:
  bool terminal_ = ::isatty(STDERR_FILENO) != 0, shown_ = false;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

ExitCode list_formats() {
  for (const Importer& i : importers()) fmt::print("{:<14}{}\n", i.name, i.description);
  return ExitCode::ok;
}

void split_fields(const std::vector<std::string>& fields, ImportOptions& options) {
  for (const auto& field : fields) {
    const std::size_t equals = field.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == field.size()) {
      throw UserError("--field", fmt::format("'{}' is not ROLE=NAME", field), "for example --field ids=topk_ids");
    }
    options.fields[field.substr(0, equals)] = field.substr(equals + 1);
  }
}

ExitCode run_import(ImportArguments& arguments) {
  if (arguments.list) return list_formats();
  ImportOptions& options = arguments.options;
  if (options.inputs.empty() || arguments.out.empty())
    throw UserError("<command line>", "an input and -o OUT are needed", "see moekv trace import --help");
  if (!arguments.model.empty()) options.shape = read_model(arguments.model);
  split_fields(arguments.fields, options);
  options.generator = "moekv trace import";
  ImportReport report;
  {
    Progress progress;
    options.progress = [&progress](const ImportProgress& done) { progress.show(done); };
    report = import_trace(options, arguments.out);
  }
  for (const auto& line : report.warnings) fmt::print(stderr, "warning: {}\n", printable(line));
  if (!arguments.quiet) {
    for (const auto& line : report.notes) fmt::print("{}\n", line);
  }
  fmt::print("{}: {} requests, {} tokens\n", arguments.out, report.requests, report.tokens);
  return ExitCode::ok;
}

void add_meaning_options(Command& command, ImportArguments& a) {
  ImportOptions& o = a.options;
  command.add_option("--format", o.format, "input format; recognised when left out (--list-formats)");
  command.add_option("--model", a.model, "model file of configs/models (moekv list models) or its path: experts, layers, shape");
  command.add_option("--experts", o.n_experts, "experts per MoE layer, where neither input nor model says it");
  command.add_option("--topk", o.top_k, "experts per token, likewise");
  command.add_option("--moe-layers", o.moe_layers, "model layer of each routing layer of the input")->delimiter(',');
  command.add_option("--field", a.fields, "ROLE=NAME: what a column, field or member is called in the input (repeatable)");
  command.add_option("--layout", o.layout, "npz: tlk or ltk, the order of token and layer axis");
  command.add_option("--prompt-lens", o.prompt_lens, "npz: prompt_lens lie 'inside' the rows or 'before' them");
  command.add_option("--time-unit", o.time_unit, "request CSV: s, ms, us or ns");
  command.add_option("--weight-kind", o.weight_kind, "raw_softmax, renorm, sigmoid or none; judged by the first rows when left out");
  command.add_option("--prompt-share", o.prompt_share, "this share of every request's tokens counts as prompt")->between(0.0, 1.0);
}

void add_change_options(Command& command, ImportOptions& o) {
  command.add_option("--layers", o.keep_layers, "model layers to write; all when left out")->delimiter(',');
  command.add_option("--skip-requests", o.skip_requests, "leave out the first ones");
  command.add_option("--max-requests", o.max_requests, "stop after so many");
  command.add_option("--min-tokens", o.min_tokens, "leave out shorter requests");
  command.add_option("--max-tokens", o.max_tokens, "cut longer requests to their first tokens");
  command.add_option("--deinterleave", o.deinterleave, "rows of so many sequences alternate: take them apart")->between(1, 65536);
  command.add_flag("--drop-warmup", o.drop_warmup, "leave out runs of 64 or more tokens with one identical expert set");
  command.add_flag("--pseudo-logits", o.pseudo_logits, "invent logits that give the recorded choice, for routers that need them; labelled");
  command.add_option("--seed", o.seed, "seed of the pseudo logits")->capture_default_str();
}

void add_origin_options(Command& command, ImportOptions& o) {
  command.add_option("--model-name", o.model_name, "name of the model, stored");
  command.add_option("--workload", o.workload, "what was run, stored");
  command.add_option("--source", o.source, "where the recording comes from, stored");
  command.add_option("--source-uri", o.source_uri, "its address, stored");
  command.add_option("--source-commit", o.source_commit, "its revision, stored");
  command.add_option("--license", o.license, "its licence, stored");
  command.add_option("--domain", o.domains, "name of the domain of all requests; the input's own when left out");
}

}  // namespace

void add_trace_import(Command& parent, Action& action) {
  auto arguments = std::make_shared<ImportArguments>();
  Command* command = parent.add_subcommand("import", "convert a recording of routing or requests to a native trace");
  command->footer(
      "Examples:\n"
      "  moekv trace import law.tar.gz -o law.moekv.h5 --model deepseek-v2-lite --prompt-share 0.5\n"
      "  moekv trace import moe.jsonl.gz -o moe.moekv.h5 --experts 60 --drop-warmup\n"
      "  moekv trace import trace.npz -o trace.moekv.h5 --model tinymoe --max-requests 4 --max-tokens 256\n"
      "  moekv trace import requests.csv -o requests.moekv.h5 --field arrival=when --field prompt=in --field output=out --time-unit ms");
  command->add_option("INPUT", arguments->options.inputs, "files or folders of one recording");
  command->add_option("-o,--out", arguments->out, "native trace to write (*.moekv.h5)");
  command->add_flag("--list-formats", arguments->list, "list the formats and stop");
  command->add_flag("--quiet", arguments->quiet, "print warnings and totals only");
  add_meaning_options(*command, *arguments);
  add_change_options(*command, arguments->options);
  add_origin_options(*command, arguments->options);
  command->callback([arguments, &action] { action.run = [arguments] { return run_import(*arguments); }; });
}

}  // namespace moekv
