// `moekv trace join`: a request trace gets routing rows of recordings; with --concat recordings become longer sequences.
#include <fmt/format.h>

#include "app/command.hpp"
#include "io/pending_file.hpp"
#include "trace/join.hpp"

namespace moekv {
namespace {

struct JoinArguments {
  JoinOptions options;
  std::string out;
  bool concat = false;
};

ExitCode run_join(JoinArguments& a) {
  a.options.generator = "moekv trace join";
  if (a.concat != a.options.requests.empty()) {
    throw UserError("<command line>", a.concat ? "--concat takes no request trace" : "a request trace is needed",
                    "either --requests-from FILE or --concat");
  }
  if (a.options.prompt_share >= 0 && !a.concat) throw UserError("--prompt-share", "the request trace says what is prompt", "use it with --concat");
  const std::string inputs[] = {a.options.routing, a.options.requests};
  require_apart(a.out, inputs);
  const JoinReport report = a.concat ? concat_recordings(a.options, a.out) : join_requests(a.options, a.out);
  for (const auto& line : report.notes) fmt::print("{}\n", line);
  fmt::print("{}: {} requests, {} tokens\n", a.out, report.requests, report.tokens);
  return ExitCode::ok;
}

}  // namespace

void add_trace_join(Command& parent, Action& action) {
  auto a = std::make_shared<JoinArguments>();
  Command* command = parent.add_subcommand("join", "give a request trace routing rows, or concatenate recordings");
  command->footer(
      "Examples:\n"
      "  moekv trace join gptoss.moekv.h5 --requests-from AzureLLMInferenceTrace_conv.csv -o azure_gptoss.moekv.h5 --requests 100\n"
      "  moekv trace join gptoss.moekv.h5 --concat --requests 8 --tokens 1024 --prompt-share 0.5 -o long.moekv.h5");
  command->add_option("ROUTING", a->options.routing, "native trace whose recordings give the rows")->required();
  command->add_option("-o,--out", a->out, "native trace to write (*.moekv.h5)")->required();
  command->add_option("--requests-from", a->options.requests, "request trace: native, or any format that trace import recognises");
  command->add_flag("--concat", a->concat, "make longer sequences of the recordings instead");
  command->add_option("--requests", a->options.n_requests, "--concat: number of sequences; else at most so many requests");
  command->add_option("--tokens", a->options.n_tokens, "--concat: tokens of each sequence; else longer requests are cut to this");
  command->add_option("--prompt-share", a->options.prompt_share, "--concat: share of prompt tokens; that of the recordings when left out")
      ->between(0.0, 1.0);
  command->add_option("--seed", a->options.seed, "seed of the choice and order of recordings")->capture_default_str();
  command->callback([a, &action] { action.run = [a] { return run_join(*a); }; });
}

}  // namespace moekv
