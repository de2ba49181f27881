// Opens a model file: collects its datasets, has them checked, reads them with limits.
#include "model/model_file.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "core/error.hpp"
#include "core/units.hpp"
#include "model/model_check.hpp"
#include "rules/codec/element.hpp"

namespace moekv {
namespace {

constexpr std::size_t most_objects = 1 << 16;
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

/// What a file has below its root.
struct Contents {
  std::map<std::string, h5::Dims> dims;  // of datasets by path
  std::vector<std::string> groups;       // paths
  std::uint64_t bytes = 0;
};

void refuse_attributes(const h5::Object& object, std::string_view allowed, std::vector<Problem>& problems) {
  for (const std::string& name : object.attribute_names()) {
    if (name != allowed) problems.push_back({object.where(), fmt::format("attribute '{}' says nothing here", name), model_check::see_format});
  }
}

/// Adds what lies below `group`.
void collect(const h5::Group& group, const std::string& prefix, int depth, Contents& contents, std::vector<Problem>& problems) {
  for (const std::string& name : group.names()) {
    if (contents.dims.size() + contents.groups.size() > most_objects || problems.size() > 32) return;
    if (group.is_group(name)) {
      if (depth > 3) {
        problems.push_back({group.where(), fmt::format("group '{}' is nested too deeply", name), "the format has three levels"});
        continue;
      }
      const h5::Group child = group.group(name);
      if (prefix != "layers/") refuse_attributes(child, "", problems);  // those of layers were read
      contents.groups.push_back(prefix + name);
      collect(child, prefix + name + "/", depth + 1, contents, problems);
      continue;
    }
    const h5::Dataset dataset = group.dataset(name);
    const h5::Dims shape = dataset.dims();
    const ElementFormat type = type_of(dataset, problems);
    refuse_attributes(dataset, dataset.type() == h5::Type::u16 ? "encoding" : "", problems);
    contents.dims[prefix + name] = shape;
    const std::uint64_t own = elements_of(shape) * (element_bits(type) / 8);
    contents.bytes += own;
    if (own / most_deflation > dataset.stored_bytes() || (own > 0 && dataset.stored_bytes() == 0))
      problems.push_back({dataset.where(), "holds no data, or less than its shape needs", "the file is damaged or incomplete"});
  }
}

/// Groups that hold nothing of the format: with datasets in them, these were refused.
void check_groups(const std::string& path, const std::vector<std::string>& groups, std::size_t n_layers, std::vector<Problem>& problems) {
  std::set<std::string> known{"layers"};
  for (std::size_t l = 0; l < n_layers; ++l) {
    for (const char* part : {"", "/attn", "/ffn"}) known.insert(fmt::format("layers/{}{}", l, part));
  }
  for (const std::string& group : groups) {
    if (!known.contains(group)) problems.push_back({fmt::format("{}:/{}", path, group), "unknown group", model_check::see_format});
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
  Contents contents;
  collect(file_, "", 0, contents, problems);
  dims_ = std::move(contents.dims);
  weight_bytes_ = contents.bytes;
  if (problems.empty()) model_check::check_datasets(path, dims_, spec_, problems);
  if (problems.empty()) check_groups(path, contents.groups, spec_.layers.size(), problems);
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
