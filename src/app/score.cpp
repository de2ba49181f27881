// moekv score: a model runs with its attention answered by the sharded caches, and its loss is measured.
#include <memory>

#include "app/run.hpp"

namespace moekv {

void add_score(Command& parent, Action& action) {
  auto options = std::make_shared<RunOptions>();
  options->command = "score";
  Command* score = parent.add_subcommand("score", "run a model with the configured caches in its attention and write its loss to one result file");
  add_run_options(*score, *options);
  score->add_option("--record", options->record, "also write a native trace with logits, q, k and v, which moekv run replays");
  score->footer(
      "The configuration names the model file (model.path) and the tokens (trace.tokens); configs/models/README.md describes both.\n"
      "examples:\n  moekv score configs/examples/score.yaml --out h2o.h5\n  mpirun -n 4 moekv score configs/examples/score.yaml "
      "eviction.policy=streaming eviction.budget=25% --out streaming.h5\n"
      "  moekv score configs/examples/score.yaml eviction=null --out dense.h5 --record dense.moekv.h5      # then: moekv trace info dense.moekv.h5");
  score->callback([options, &action] {
    action.collective = true;
    action.run = [options] { return run_configuration(*options); };
  });
}

}  // namespace moekv
