// `moekv trace export`: a native trace as NumPy arrays or JSON lines, or the page accesses of a logged run, for other tools.
#include <fmt/format.h>

#include <string>

#include "app/command.hpp"
#include "io/pending_file.hpp"
#include "results/oracle_general.hpp"
#include "trace/export.hpp"

namespace moekv {
namespace {

struct ExportOptions {
  std::string path, npz, jsonl, format, out;
  std::int64_t shard = -1;
};

/// --npz FILE and --jsonl FILE are short for --format npz or jsonl and --out FILE.
ExitCode export_file(ExportOptions o) {
  if (o.format.empty()) {
    o.format = o.npz.empty() ? "jsonl" : "npz";
    o.out = o.npz.empty() ? o.jsonl : o.npz;
  } else if (o.out.empty()) {
    throw UserError("<command line>", "--format needs --out", "name the file to write");
  }
  require_apart(o.out, {&o.path, 1});
  if (o.format == "oracleGeneral") {
    const OracleGeneralCounts counts = write_oracle_general(AccessLogFile(o.path), o.shard, o.out);
    fmt::print("wrote {}: {} accesses of {} pages\n", o.out, counts.accesses, counts.pages);
    return ExitCode::ok;
  }
  const auto trace = open_native_trace(o.path);
  o.format == "jsonl" ? export_jsonl(*trace, o.out) : export_npz(*trace, o.out);
  fmt::print("wrote {}\n", o.out);
  return ExitCode::ok;
}

}  // namespace

void add_trace_export(Command& parent, Action& action) {
  auto options = std::make_shared<ExportOptions>();
  Command* command = parent.add_subcommand("export", "write a native trace as .npz or .jsonl, or logged page accesses for libCacheSim");
  command->add_option("FILE", options->path, "native trace (*.moekv.h5); for oracleGeneral an access log (moekv run --access-log)")->required();
  auto* formats = command->add_option_group("format");
  formats->add_option("--npz", options->npz, "NumPy arrays: ids, weights, logits, seq_lens, prompt_lens, arrival_ns, moe_layer_ids");
  formats->add_option("--jsonl", options->jsonl, "one JSON line per token and layer, as vLLM's route logger writes");
  Option* format = formats->add_option("--format", options->format, "npz, jsonl, or oracleGeneral: page accesses in libCacheSim's binary format")
                       ->one_of({"npz", "jsonl", "oracleGeneral"});
  formats->require_option(1);
  Option* out = command->add_option("--out,-o", options->out, "file to write with --format")->needs(format);
  command->add_option("--shard", options->shard, "oracleGeneral: accesses of this shard only; default: of all")
      ->needs(format)
      ->needs(out)
      ->between(0, 4294967295.0);
  command->footer(
      "examples:\n  moekv trace export traces/gptoss.moekv.h5 --npz gptoss.npz\n"
      "  moekv run configs/quickstart.yaml backend=count probe.samples=0 eviction.policy=lru --out run.h5 --access-log log.h5\n"
      "  moekv trace export log.h5 --format oracleGeneral --out pages.bin\n"
      "  cachesim pages.bin oracleGeneral fifo,lru,lfu,clock,sieve,s3fifo,arc,twoq,belady 64,256 --ignore-obj-size 1");
  command->callback([options, &action] { action.run = [options] { return export_file(*options); }; });
}

}  // namespace moekv
