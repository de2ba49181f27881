// Opens a model file: collects its datasets, has them checked, reads them with limits.
#include "model/model_file.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/error.hpp"
#include "core/units.hpp"
#include "model/model_check.hpp"
#include "rules/codec/element.hpp"

namespace moekv {
namespace {

constexpr std::size_t most_datasets = 1 << 16;
constexpr std::uint64_t most_deflation = 1100;  // bytes that a byte of deflate can stand for

/// Stored type of a dataset; a problem for one that is none of weights.
ElementFormat type_of(const h5::Dataset& dataset, std::vector<Problem>& problems) {
  switch (dataset.type()) {
    case h5::Type::f32:
      return ElementFormat::fp32;
    case h5::Type::f16:
      return ElementFormat::fp16;
    case h5::Type::u16:
      if (dataset.has_attribute("encoding") && dataset.text("encoding") == "bf16") return ElementFormat::bf16;
      break;
    default:
      break;
  }
  problems.push_back({dataset.where(), fmt::format("has elements of type {}", h5::to_string(dataset.type())),
                      "store f32, f16, or bfloat16 as u16 with attribute encoding = \"bf16\""});
  return ElementFormat::fp32;
}

std::uint64_t elements_of(const h5::Dims& dims) {
  std::uint64_t n = 1;
  for (const std::uint64_t d : dims) n = d != 0 && n > (std::uint64_t{1} << 48) / d ? std::uint64_t{1} << 48 : n * d;
  return n;
}

/// Whether no element of `n` has all bits of the exponent set.
template <class Word>
bool no_exponent_full(const std::byte* data, std::size_t n, Word exponent) {
  std::size_t bad = 0;
  for (std::size_t i = 0; i < n; ++i) {
    Word bits = 0;
    std::memcpy(&bits, data + i * sizeof(Word), sizeof(Word));
    bad += (bits & exponent) == exponent ? 1 : 0;
  }
  return bad == 0;
}

bool all_finite(const Tensor& t) {
  if (t.type == ElementFormat::fp32) return no_exponent_full<std::uint32_t>(t.data.data(), t.data.size() / 4, 0x7F800000U);
  return no_exponent_full<std::uint16_t>(t.data.data(), t.data.size() / 2, t.type == ElementFormat::fp16 ? 0x7C00U : 0x7F80U);
}

/// Datasets below `group` by path.
void collect(const h5::Group& group, const std::string& prefix, int depth, std::map<std::string, h5::Dims>& dims, std::uint64_t& bytes,
             std::vector<Problem>& problems) {
  for (const std::string& name : group.names()) {
    if (dims.size() > most_datasets || problems.size() > 32) return;
    if (group.is_group(name)) {
      if (depth > 3) {
        problems.push_back({group.where(), fmt::format("group '{}' is nested too deeply", name), "the format has three levels"});
      } else {
        collect(group.group(name), prefix + name + "/", depth + 1, dims, bytes, problems);
      }
      continue;
    }
    const h5::Dataset dataset = group.dataset(name);
    const h5::Dims shape = dataset.dims();
    const ElementFormat type = type_of(dataset, problems);
    dims[prefix + name] = shape;
    const std::uint64_t own = elements_of(shape) * (element_bits(type) / 8);
    bytes += own;
    if (own / most_deflation > dataset.stored_bytes() || (own > 0 && dataset.stored_bytes() == 0))
      problems.push_back({dataset.where(), "holds no data, or less than its shape needs", "the file is damaged or incomplete"});
  }
}

}  // namespace

ModelShape shape_of(const DecoderSpec& spec, const std::string& path) {
  ModelShape shape;
  shape.name = spec.name;
  shape.path = path;
  shape.hidden = spec.hidden;
  shape.n_heads = spec.n_heads;
  shape.n_kv_heads = spec.n_kv_heads;
  shape.d_k = shape.d_v = spec.head_dim;
  shape.gate = spec.gate;
  shape.rope_theta = spec.rope.theta;
  shape.softmax_scale = spec.attention_scale;
  for (const DecoderLayer& l : spec.layers) {
    const bool window = l.window_tokens > 0;
    shape.layers.push_back({window ? AttentionKind::window : AttentionKind::full, l.window_tokens, l.sinks, l.moe});
  }
  return shape;
}

std::vector<float> Tensor::values() const {
  const std::size_t bytes = element_bits(type) / 8;
  std::vector<float> out(data.size() / bytes);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = load_raw(type, data.data() + i * bytes, 0);
  return out;
}

ModelFile::ModelFile(const std::string& path) : path_(path), file_(h5::File::open(path, h5::Access::foreign)) {
  std::vector<Problem> problems;
  spec_ = model_check::read_spec(file_, problems);
  if (!problems.empty()) throw UserError(std::move(problems));
  collect(file_, "", 0, dims_, weight_bytes_, problems);
  if (problems.empty()) model_check::check_datasets(path, dims_, spec_, problems);
  if (problems.size() > 32) problems.resize(32);
  if (!problems.empty()) throw UserError(std::move(problems));
  const std::uint64_t memory = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  if (weight_bytes_ > memory) {
    throw UserError(path,
                    fmt::format("its weights need {}, this machine has {}", format_bytes(static_cast<std::int64_t>(weight_bytes_)),
                                format_bytes(static_cast<std::int64_t>(memory))),
                    "use a machine with more memory, or a smaller model");
  }
}

Tensor ModelFile::read(const std::string& name) const {
  Tensor tensor;
  if (!has(name)) return tensor;
  const h5::Dataset dataset = file_.dataset(name);
  std::vector<Problem> problems;
  tensor.type = type_of(dataset, problems);
  tensor.dims = dims_.at(name);
  tensor.data.resize(elements_of(tensor.dims) * (element_bits(tensor.type) / 8));
  if (!tensor.data.empty()) dataset.read_raw_rows(0, dataset.n_rows(), tensor.data.data());
  if (!all_finite(tensor)) throw UserError(dataset.where(), "has values that are not finite", "the weights are damaged");
  return tensor;
}

}  // namespace moekv
