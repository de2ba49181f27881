// `moekv trace export`: a native trace as NumPy arrays or JSON lines for other tools.
#include <fmt/format.h>

#include <string>

#include "app/command.hpp"
#include "trace/export.hpp"

namespace moekv {

void add_trace_export(CLI::App& parent, Action& action) {
  struct Options {
    std::string path, npz, jsonl;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand("export", "write a native trace as .npz or .jsonl");
  command->add_option("FILE", options->path, "native trace (*.moekv.h5)")->required();
  auto* formats = command->add_option_group("format");
  formats->add_option("--npz", options->npz, "NumPy arrays: ids, weights, logits, seq_lens, prompt_lens, arrival_ns, moe_layer_ids");
  formats->add_option("--jsonl", options->jsonl, "one JSON line per token and layer, as vLLM's route logger writes");
  formats->require_option(1);
  command->footer("example: moekv trace export traces/gptoss.moekv.h5 --npz gptoss.npz");
  command->callback([options, &action] {
    action.run = [options] {
      const auto trace = open_native_trace(options->path);
      options->npz.empty() ? export_jsonl(*trace, options->jsonl) : export_npz(*trace, options->npz);
      fmt::print("wrote {}\n", options->npz.empty() ? options->jsonl : options->npz);
      return ExitCode::ok;
    };
  });
}

}  // namespace moekv
