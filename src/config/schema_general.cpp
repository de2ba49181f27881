// Keys at the top of a configuration and of `trace`.
#include "config/custom_keys.hpp"
#include "config/schema.hpp"

namespace moekv {

void add_general_keys(std::vector<Key>& keys) {
  const auto label = [&](Key key) {
    key.decides = false;
    keys.push_back(std::move(key));
  };
  label(field_key("name", "", "name of the run in results; default: the name of the file", [](auto& s) -> auto& { return s.name; }));
  keys.push_back(
      field_key("seed", "", "seed of every hash of the run, and the default of every other seed", [](auto& s) -> auto& { return s.seed; }));
  label(text_choice_key("backend", "host: CPU; count: no payload, decisions, bytes and modelled time only; cuda: one GPU per process",
                        {"host", "count", "cuda"}, [](auto& s) -> auto& { return s.backend; }));
  label(text_choice_key("transport",
                        "auto = local for one process, else mpi; nccl: from GPU to GPU, one for each process; ipc: from GPU to GPU of one node",
                        {"auto", "local", "mpi", "nccl", "ipc"}, [](auto& s) -> auto& { return s.transport; }));
  label(field_key("threads", "", "OpenMP threads of a process; 0 = as the environment says", [](auto& s) -> auto& { return s.threads; }, {0, 4096}));
  label(field_key("graphs", "", "backend cuda launches batches of work that come back as CUDA graphs", [](auto& s) -> auto& { return s.graphs; }));
  keys.push_back(field_key("step_order", "", "standard: evictions of a step are executed as the next one admits; pikv: before the step attends, as Algorithm 1",
                           [](auto& s) -> auto& { return s.step_order; }));
  keys.push_back(field_key("combine.dtype", "", "type of the partial results o on the wire", [](auto& s) -> auto& { return s.combine; }));
}

namespace {

void add_synthetic_keys(std::vector<Key>& keys) {
  const auto add = [&](Key key) { keys.push_back(std::move(key)); };
  add(text_choice_key("trace.synthetic.preset", "calibrated (flame, dsv2lite, gptoss) or plain distribution of the experts",
                      {"flame", "dsv2lite", "gptoss", "uniform", "zipf", "k_hot", "power_law", "deepep_ratio", "bootstrap"},
                      [](auto& s) -> auto& { return s.trace.synthetic.preset; }));
  add(field_key("trace.synthetic.n_requests", "", "requests", [](auto& s) -> auto& { return s.trace.synthetic.n_requests; }, {1, 1e9}));
  add(field_key("trace.synthetic.prompt_tokens", "tokens", "prompt length (mean)", [](auto& s) -> auto& { return s.trace.synthetic.prompt_tokens; },
                {0, 1 << 30}));
  add(field_key("trace.synthetic.output_tokens", "tokens", "output length (mean)", [](auto& s) -> auto& { return s.trace.synthetic.output_tokens; },
                {0, 1 << 30}));
  add(field_key("trace.synthetic.length_sigma", "1", "lognormal spread of both lengths; 0 = all equal",
                [](auto& s) -> auto& { return s.trace.synthetic.length_sigma; }, {0, 5}));
  add(text_choice_key("trace.synthetic.arrivals", "arrival times; none = unknown", {"none", "poisson", "gamma"},
                      [](auto& s) -> auto& { return s.trace.synthetic.arrivals; }));
  add(field_key("trace.synthetic.rate_per_s", "1/s", "requests per second", [](auto& s) -> auto& { return s.trace.synthetic.rate_per_s; },
                {1e-6, 1e9}));
  add(field_key("trace.synthetic.arrival_cv", "1", "coefficient of variation of the gaps (gamma)",
                [](auto& s) -> auto& { return s.trace.synthetic.arrival_cv; }, {0.01, 100}));
  add(field_key("trace.synthetic.zipf_s", "1", "exponent (zipf)", [](auto& s) -> auto& { return s.trace.synthetic.zipf_s; }, {0, 10}));
  add(field_key("trace.synthetic.hot_experts", "", "number of hot experts (k_hot)", [](auto& s) -> auto& { return s.trace.synthetic.hot_experts; },
                {1, most_experts}));
  add(field_key("trace.synthetic.hot_share", "1", "their share of the choices (k_hot)", [](auto& s) -> auto& { return s.trace.synthetic.hot_share; },
                {0, 1}));
  add(field_key("trace.synthetic.power_alpha", "1", "exponent (power_law)", [](auto& s) -> auto& { return s.trace.synthetic.power_alpha; }, {0, 10}));
  add(field_key("trace.synthetic.overload_ratio", "1", "load of one of 8 expert-parallel ranks over the mean (deepep_ratio)",
                [](auto& s) -> auto& { return s.trace.synthetic.overload_ratio; }, {1, 8}));
  add(field_key("trace.synthetic.n_domains", "", "text domains of the calibrated presets",
                [](auto& s) -> auto& { return s.trace.synthetic.n_domains; }, {1, 65535}));
  add(path_key(
      "trace.synthetic.bootstrap_path", "native trace whose 64-token blocks are resampled (bootstrap)",
      +[](RunSpec& s) -> std::string& { return s.trace.synthetic.bootstrap_path; }));
  add(field_key("trace.synthetic.seed", "", "default: seed", [](auto& s) -> auto& { return s.trace.synthetic.seed; }));
}

}  // namespace

void add_trace_keys(std::vector<Key>& keys) {
  const auto add = [&](Key key) { keys.push_back(std::move(key)); };
  add(path_key(
      "trace.path", "native trace file (*.moekv.h5); instead of trace.synthetic", +[](RunSpec& s) -> std::string& { return s.trace.path; }));
  add(path_key(
      "trace.tokens", "npz or HDF5 file of token sequences that the model of model.path is scored on; instead of trace.path",
      +[](RunSpec& s) -> std::string& { return s.trace.tokens; }));
  add(field_key("trace.prompt_tokens", "tokens", "of each sequence of trace.tokens are its prompt, the others are decoded one by one; 0 = half",
                [](auto& s) -> auto& { return s.trace.prompt_tokens; }, {0, 1 << 30}));
  add(field_key("trace.first_request", "", "requests before it are left out", [](auto& s) -> auto& { return s.trace.first_request; }));
  add(field_key("trace.max_requests", "", "0 = all", [](auto& s) -> auto& { return s.trace.max_requests; }));
  add(field_key("trace.max_prompt_tokens", "tokens", "longer prompts are cut, counted and said; 0 = as recorded",
                [](auto& s) -> auto& { return s.trace.max_prompt_tokens; }));
  add(field_key("trace.max_output_tokens", "tokens", "longer outputs are cut; 0 = as recorded",
                [](auto& s) -> auto& { return s.trace.max_output_tokens; }));
  Key layers;
  layers.path = "trace.layers";
  layers.type = "list of layers";
  layers.doc = "model layers to replay: [0, 4-7]; default: all that hold KV";
  layers.read = [](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    const auto n = static_cast<std::uint32_t>(spec.model.layers.size());
    (void)read_layers(node, n > 0 ? n : 65535, spec.trace.layers, complain);
  };
  layers.write = [](const RunSpec& spec) { return write_layers(spec.trace.layers); };
  add(layers);
  add_synthetic_keys(keys);
}

}  // namespace moekv
