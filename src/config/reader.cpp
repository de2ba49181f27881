// Turns the tree of a configuration into a RunSpec: fields by the key table, defaults that depend on others, checks.
#include "config/reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "config/rule_keys.hpp"
#include "config/schema.hpp"
#include "config/tree.hpp"
#include "config/validate.hpp"

namespace moekv {
namespace {

/// Notes the keys that a value such as "last:32" gives beside its own; giving them twice is a problem.
void note_counts(ConfigTree& tree, std::vector<Problem>& problems) {
  for (const Key& key : schema()) {
    if (key.counts.empty()) continue;
    const auto it = tree.given.find(key.path);
    if (it == tree.given.end() || it->second->text.find_first_of(":(") == std::string::npos) continue;
    if (tree.given.emplace(key.counts, it->second).second) continue;
    problems.push_back(
        problem_at(it->second->at, fmt::format("{}: '{}' and {} both give the count", key.path, it->second->text, key.counts), "give it once"));
    tree.failed.insert(key.counts);
  }
}

/// Fills the fields that have a row in the tree, in the order of the table (a rule before its parameters, layers before lists of layers).
void fill(RunSpec& spec, ConfigTree& tree, std::vector<Problem>& problems) {
  std::set<std::string> taken;
  bool layers_failed = false;
  for (const Key& key : schema()) {
    const auto it = tree.given.find(key.path);
    if (it == tree.given.end() || !key.active(spec) || (layers_failed && key.path.starts_with("model.layers."))) continue;
    taken.insert(key.path);
    const std::size_t before = problems.size();
    Complaints complain(key.path, problems);
    key.read(*it->second, spec, complain);
    if (problems.size() == before) continue;
    tree.failed.insert(key.path);
    layers_failed = layers_failed || key.path.starts_with("model.layers.");
  }
  for (const Key& key : schema()) {  // parameters of rules that were not chosen
    if (key.rule.empty()) continue;
    const auto it = tree.given.find(key.path);
    if (it == tree.given.end() || tree.failed.contains(key.selector) || !taken.insert(key.path).second) continue;
    const auto selector = std::find_if(schema().begin(), schema().end(), [&](const Key& k) { return k.path == key.selector; });
    problems.push_back(problem_at(it->second->at,
                                  fmt::format("{}: is a parameter of '{}', but {} is {}", key.path, key.rule, key.selector, selector->write(spec)),
                                  "remove it, or choose the rule it belongs to"));
    tree.failed.insert(key.path);
  }
}

void default_model(RunSpec& spec, const ConfigTree& tree) {
  ModelShape& model = spec.model;
  const auto absent = [&](const char* path) { return !tree.given.contains(path); };
  if (model.mla()) {
    if (absent("model.n_kv_heads")) model.n_kv_heads = 1;
    if (absent("model.d_k") && absent("model.head_dim")) model.d_k = model.latent.d_c + model.latent.d_rope;
    if (absent("model.d_v") && absent("model.head_dim")) model.d_v = model.latent.d_c;
  }
}

/// K and V that nobody gave a codec are raw in the payload's type; MLA has one latent plane, so V follows K.
void default_codecs(RunSpec& spec, const ConfigTree& tree) {
  const auto absent = [&](const char* path) { return !tree.given.contains(path); };
  if (!absent("compression.codec")) return;
  for (const Codec& codec : default_rules<Codec>()) {
    if (classes_of(codec) > 1 || plane_of(codec, Role::k, spec.model.d_k) != PlaneFormat{spec.payload.element}) continue;
    if (absent("compression.k")) spec.compression.k = codec;
    if (absent("compression.v")) spec.compression.v = codec;
  }
  if (spec.model.mla() && absent("compression.v")) spec.compression.v = spec.compression.k;
}

/// Defaults that depend on other keys. What is given stays.
void fill_defaults(RunSpec& spec, const ConfigTree& tree, const std::string& path, int n_processes) {
  const auto absent = [&](const char* key) { return !tree.given.contains(key); };
  if (absent("name")) spec.name = std::filesystem::path(path).stem().string();
  if (absent("trace.synthetic.seed")) spec.trace.synthetic.seed = spec.seed;
  if (absent("eviction.seed")) spec.eviction.seed = spec.seed;
  if (absent("payload.generator.seed")) spec.payload.generator.seed = spec.seed;
  if (absent("probe.seed")) spec.probe.seed = spec.seed;
  if (absent("score.seed")) spec.score.seed = spec.seed;
  default_model(spec, tree);
  if (spec.cluster.network.source.empty()) spec.cluster.network.source = "built in; the figures of configs/clusters/h200-ndr400.yaml";
  if (spec.cluster.ranks == 0) spec.cluster.ranks = static_cast<std::uint32_t>(std::max(1, n_processes));
  if (absent("placement.map")) {
    spec.placement.map = spec.placement.layout == Layout::expert  ? ShardMap::expert_affine
                         : spec.placement.layout == Layout::token ? ShardMap::block_cyclic
                                                                  : ShardMap::none;
  }
  default_codecs(spec, tree);
  if (spec.backend == "count" && absent("probe.samples")) spec.probe.samples = 0;
  if (absent("prefill.chunk_tokens")) spec.prefill.chunk_tokens = std::min(spec.prefill.chunk_tokens, spec.batch.max_num_batched_tokens);
  if (absent("batch.max_num_seqs")) spec.batch.max_num_seqs = std::min(spec.batch.max_num_seqs, spec.batch.max_num_batched_tokens);
  if (absent("batch.concurrency")) spec.batch.concurrency = std::min(spec.batch.concurrency, spec.batch.max_num_seqs);
}

/// What is made of text that stands in `tree` already: fields, defaults, checks, provenance.
RunSpec finish(ConfigTree& tree, const std::string& name, int n_processes, std::vector<Problem>& problems) {
  RunSpec spec;
  fill(spec, tree, problems);
  note_counts(tree, problems);
  fill_defaults(spec, tree, name, n_processes);
  validate({spec, tree, name, n_processes}, problems);
  if (!problems.empty()) throw UserError(std::move(problems));
  spec.config_path = name;
  spec.config_yaml = tree.text;
  ResolvedText resolved = resolve(spec);
  spec.resolved_yaml = std::move(resolved.yaml);
  spec.config_digest = std::move(resolved.digest);
  return spec;
}

/// One line of text that names a library file in `section`; the fields of that section are then filled. Throws where the file is bad.
RunSpec read_line(const std::string& section, const std::string& line) {
  RunSpec spec;
  ConfigTree tree;
  std::vector<Problem> problems;
  auto source = std::make_shared<TextSource>();
  source->name = "<command line>:" + section;
  source->command_line = true;
  tree.text = line;
  if (!parse_tree(source, {}, tree, problems)) throw UserError(std::move(problems));
  fill(spec, tree, problems);
  default_model(spec, tree);
  const ValidateInput input{spec, tree, source->name, 1};
  Checks checks(input, problems);
  if (section == "model" && !tree.failed.contains(section)) check_model(checks);
  if (!problems.empty()) throw UserError(std::move(problems));
  return spec;
}

}  // namespace

RunSpec read_run_spec(const std::string& path, const std::vector<std::string>& overrides, int n_processes) {
  ConfigTree tree;
  std::vector<Problem> problems;
  if (!read_tree(path, overrides, tree, problems)) throw UserError(std::move(problems));
  return finish(tree, path, n_processes, problems);
}

RunSpec parse_run_spec(const std::string& text, const std::string& name, int n_processes, const std::vector<std::string>& overrides) {
  ConfigTree tree;
  std::vector<Problem> problems;
  auto source = std::make_shared<TextSource>();
  source->name = name;
  tree.text = text;
  if (!parse_tree(source, overrides, tree, problems)) throw UserError(std::move(problems));
  return finish(tree, name, n_processes, problems);
}

RunSpec make_run_spec(ConfigTree tree, const std::vector<Assignment>& values, const std::string& name, int n_processes) {
  std::vector<Problem> problems;
  complete_tree(values, tree, problems);
  return finish(tree, name, n_processes, problems);
}

ModelShape read_model(const std::string& name) { return read_line("model", "model: " + quote(name)).model; }

ClusterModel read_cluster(const std::string& name) { return read_line("cluster.network", "cluster: {network: " + quote(name) + "}").cluster.network; }

}  // namespace moekv
