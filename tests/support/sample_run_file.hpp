// The hand-made sample run as a result file's content.
#pragma once

#include "engine/summarise.hpp"
#include "results/run_file.hpp"
#include "support/sample_run.hpp"

namespace moekv {

inline RunFile sample_run() {
  const auto transport = make_local_transport();
  Provenance provenance = collect_provenance({"moekv", "run", "sample.yaml"}, *transport);
  provenance.parameters = {{"eviction.policy", "lru", "", "rule"},
                           {"cluster.ranks", "2", "1", "logical ranks"},
                           {"eviction.access_mass", "0.0001", "1", "eps"},
                           {"placement.fold", "true", "1", "fold ids"},
                           {"trace.path",
                            "gr\xc3\xbc\xc3\x9f"
                            "e\xff.h5",
                            "", "bytes that are no UTF-8"}};
  TraceInfo trace;
  trace.path = "t.h5";
  trace.digest = "abc";
  add_trace_facts(trace, provenance);
  RunOutcome outcome = sample_outcome();
  outcome.summary = summarise(sample_spec(), outcome);
  outcome.summary[5].model = 12.5;
  return make_run_file(sample_spec(), std::move(outcome), std::move(provenance));
}

}  // namespace moekv
