// Writes trace statistics into the trace's own file.
#include <filesystem>

#include "core/error.hpp"
#include "io/hdf5.hpp"
#include "io/pending_file.hpp"
#include "trace/stats.hpp"

namespace moekv {
namespace {

void write_ranks(h5::Group& group, const std::string& name, const TraceStats& stats, std::vector<double> LayerStats::*ranks, const char* definition) {
  const std::vector<double>& median = stats.median.*ranks;
  if (median.empty()) return;
  std::vector<double> values;
  for (const LayerStats& layer : stats.layers) {
    values.insert(values.end(), (layer.*ranks).begin(), (layer.*ranks).end());
    values.resize(values.size() + median.size() - (layer.*ranks).size(), LayerStats::undefined);
  }
  h5::Dataset dataset = group.write(name, std::span<const double>(values), {stats.layers.size(), median.size()});
  dataset.set("unit", "1");
  dataset.set("definition", definition);
  dataset.set("median", median);
}

void write_stats(h5::Group group, const TraceStats& stats) {
  group.set("n_tokens", static_cast<std::int64_t>(stats.n_tokens));
  group.set("n_requests", stats.n_requests);
  group.write("moe_layer_ids", std::vector<std::int16_t>(stats.moe_layers.begin(), stats.moe_layers.end()));
  for_each_field(LayerStats::fields, [&](const auto& field) {
    std::vector<double> values;
    for (const LayerStats& layer : stats.layers) values.push_back(layer.*field.member);
    h5::Dataset dataset = group.write(std::string(field.name), values);
    dataset.set("unit", field.unit);
    dataset.set("definition", field.doc);
    dataset.set("median", stats.median.*field.member);
  });
  write_ranks(group, "reuse_by_rank", stats, &LayerStats::reuse_by_rank, "P(the expert of gate rank i is chosen by the next token)");
  write_ranks(group, "weight_by_rank", stats, &LayerStats::weight_by_rank, "mean of the sorted gate weights, each token's divided by their sum");
}

}  // namespace

void store_stats(const std::string& path, const TraceStats& stats) {
  PendingFile pending(path);
  std::error_code failed;
  std::filesystem::copy_file(path, pending.temporary_path(), std::filesystem::copy_options::overwrite_existing, failed);
  if (failed) throw SystemError("copy " + path + " to " + pending.temporary_path() + ": " + failed.message());
  h5::File file = h5::File::open(pending.temporary_path(), h5::Access::update);
  if (file.has("stats")) file.remove("stats");
  write_stats(file.create_group("stats"), stats);
  file.close();
  pending.commit();
}

}  // namespace moekv
