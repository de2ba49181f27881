// Reads the perceptron of pikv.quest_mlp.
#include "engine/rule_weights.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.hpp"
#include "io/hdf5.hpp"

namespace moekv {
namespace {

std::vector<float> read(const h5::File& file, const std::string& path, const std::string& name, const h5::Dims& wanted) {
  const h5::Dataset dataset = file.dataset(name);
  const h5::Dims dims = dataset.dims();
  if (dims != wanted) {
    throw UserError(path + ":/" + name, fmt::format("has shape [{}], expected [{}]", fmt::join(dims, ", "), fmt::join(wanted, ", ")),
                    "check eviction.weights_path against the model: hidden is [n, d_k + d_v], out is [n]");
  }
  return dataset.read<float>();
}

}  // namespace

RuleWeights::RuleWeights(const std::string& path, const ModelShape& model) {
  if (path.empty()) return;
  const h5::File file = h5::File::open(path, h5::Access::foreign);
  for (const char* name : {"hidden", "out"}) {
    if (!file.has(name)) throw UserError(path + ":/" + name, "is missing", "a perceptron has hidden [n, d_k + d_v] and out [n]");
  }
  const h5::Dims shape = file.dataset("out").dims();
  const std::uint64_t n = shape.empty() ? 0 : shape[0];
  hidden_ = read(file, path, "hidden", {n, std::uint64_t{model.d_k} + model.d_v});
  out_ = read(file, path, "out", {n});
  if (file.has("hidden_bias")) hidden_bias_ = read(file, path, "hidden_bias", {n});
  if (file.has("out_bias")) out_bias_ = read(file, path, "out_bias", {1}).front();
}

evict::Perceptron RuleWeights::view() const {
  if (hidden_.empty()) return {};
  return {hidden_.data(), hidden_bias_.empty() ? nullptr : hidden_bias_.data(), out_.data(), out_bias_, static_cast<std::uint32_t>(out_.size())};
}

}  // namespace moekv
