// Calibration sequences are generated under request numbers that no trace has; a file may hold one matrix for all layers or heads.
#include "engine/codec_tables.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "core/error.hpp"
#include "device/fit_table.hpp"
#include "io/hdf5.hpp"
#include "rules/codec/element.hpp"
#include "trace/qkv.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t calibration_tokens = 512, calibration_queries = 64, calibration_sequences = 4;
constexpr std::uint32_t calibration_request = 0xFFFFFF00U;

/// Rows of all heads of one layer.
struct Calibration {
  std::vector<float> k, v, q;  // [token][head][d]
};

Calibration calibrate(QkvSource& source, const ModelShape& model, LayerId layer) {
  Calibration c;
  for (std::uint32_t s = 0; s < calibration_sequences; ++s) {
    const RequestId request(calibration_request + s);
    std::vector<float> k(std::size_t{calibration_tokens} * model.n_kv_heads * model.d_k),
        v(std::size_t{calibration_tokens} * model.n_kv_heads * model.d_v);
    std::vector<float> q(std::size_t{calibration_queries} * model.n_heads * model.d_k);
    source.keys_values(layer, request, 0, calibration_tokens, {}, k.data(), v.data());
    source.queries(layer, request, calibration_tokens - calibration_queries, calibration_tokens, {}, q.data());
    c.k.insert(c.k.end(), k.begin(), k.end());
    if (!model.mla()) c.v.insert(c.v.end(), v.begin(), v.end());
    c.q.insert(c.q.end(), q.begin(), q.end());
  }
  return c;
}

/// Heads [first, first + count) of rows [token][n_heads][d], densely.
std::vector<float> rows_of(const std::vector<float>& all, std::uint32_t n_heads, std::uint32_t d, std::uint32_t first, std::uint32_t count) {
  std::vector<float> rows;
  for (std::size_t at = 0; at < all.size(); at += std::size_t{n_heads} * d) {
    rows.insert(rows.end(), &all[at + std::size_t{first} * d], &all[at + std::size_t{first} * d] + std::size_t{count} * d);
  }
  return rows;
}

void fit_head(const BlockFormat& f, const ModelShape& model, const Calibration& c, std::uint32_t head, std::byte* table) {
  const std::vector<float> k = rows_of(c.k, model.n_kv_heads, model.d_k, head, 1);
  const std::vector<float> q = rows_of(c.q, model.n_heads, model.d_k, head * model.group_size(), model.group_size());
  const auto n = [](const std::vector<float>& rows, std::uint32_t d) { return static_cast<std::uint32_t>(rows.size() / d); };
  const auto fitted = [](const PlaneFormat& p) { return p.scope == TableScope::run && p.has_table() && p.fit != TableFit::loaded; };
  if (fitted(f.k)) fit_table(f.k, model.d_k, {k.data(), n(k, model.d_k), q.data(), n(q, model.d_k), f.first_rotated()}, table);
  if (f.latent || !fitted(f.v)) return;
  const std::vector<float> v = rows_of(c.v, model.n_kv_heads, model.d_v, head, 1);
  fit_table(f.v, model.d_v, {v.data(), n(v, model.d_v), nullptr, 0}, table + f.shared_k_table());
}

/// One array of a file: [layers, heads, ...], where 1 layer or head stands for all.
class LoadedArray {
 public:
  LoadedArray(const h5::File& file, const std::string& path, const std::string& name, const h5::Dims& wanted) : name_(path + ":/" + name) {
    if (!file.has(name))
      throw UserError(name_, "is missing", "a loaded codec needs down and up of every plane it is given for, and bias where it is affine");
    const h5::Dataset dataset = file.dataset(name);
    const h5::Dims dims = dataset.dims();
    bool fits = dims.size() == wanted.size();
    for (std::size_t i = 0; fits && i < dims.size(); ++i) fits = dims[i] == wanted[i] || (i < 2 && dims[i] == 1);
    if (!fits)
      throw UserError(name_, fmt::format("has shape [{}], expected [{}]", fmt::join(dims, ", "), fmt::join(wanted, ", ")),
                      "check compression.maps_path and the rank against the model");
    layers_ = dims[0];
    heads_ = dims[1];
    values_ = dataset.read<float>();
    size_ = values_.size() / (layers_ * heads_);
  }
  /// The first `n` values of a layer and head as fp16 at `out`; returns what follows.
  std::byte* copy(std::uint64_t layer, std::uint64_t head, std::size_t n, std::byte* out) const {
    const float* from = &values_[((layers_ > 1 ? layer : 0) * heads_ + (heads_ > 1 ? head : 0)) * size_];
    for (std::size_t i = 0; i < n; ++i) store_u16(out + 2 * i, fp16_from_float(from[i]));
    return out + 2 * n;
  }

 private:
  std::string name_;
  std::uint64_t layers_ = 1, heads_ = 1;
  std::size_t size_ = 0;
  std::vector<float> values_;
};

/// The loaded map of one plane. The file holds the maps of format `f`; a format with fewer coordinates takes their first rows.
class LoadedPlane {
 public:
  LoadedPlane(const std::string& path, const std::string& plane, const PlaneFormat& f, std::uint32_t d, const ModelShape& model)
      : file_(h5::File::open(path, h5::Access::foreign)), d_(d) {
    const h5::Dims matrix = {model.n_layers(), model.n_kv_heads, stored_width(f, d), d};
    if (f.centre) bias_.emplace(file_, path, plane + "/bias", h5::Dims{model.n_layers(), model.n_kv_heads, d});
    down_.emplace(file_, path, plane + "/down", matrix);
    up_.emplace(file_, path, plane + "/up", matrix);
  }
  void copy(LayerId layer, std::uint32_t head, const PlaneFormat& f, std::byte* table) const {
    const std::size_t values = std::size_t{stored_width(f, d_)} * d_;
    if (bias_) table = bias_->copy(layer.value, head, d_, table);
    up_->copy(layer.value, head, values, down_->copy(layer.value, head, values, table));
  }

 private:
  h5::File file_;
  std::uint32_t d_;
  std::optional<LoadedArray> bias_, down_, up_;
};

}  // namespace

CodecTables::CodecTables(const Geometry& geometry)
    : n_kv_heads_(geometry.spec().model.n_kv_heads), n_layers_(static_cast<std::uint32_t>(geometry.layers().size())) {
  for (std::uint32_t c = 0; c < geometry.n_classes(); ++c) add_class(geometry, c);
}

void CodecTables::add_class(const Geometry& geometry, std::uint32_t page_class) {
  const RunSpec& spec = geometry.spec();
  const BlockFormat format = geometry.sealed_format(1, page_class), largest = geometry.sealed_format(1, geometry.largest_class());
  const auto shared = [](const PlaneFormat& f) { return f.has_table() && f.scope == TableScope::run; };
  const bool of_k = shared(format.k), of_v = !format.latent && shared(format.v);
  if (!of_k && !of_v) return;
  std::optional<LoadedPlane> k, v;
  if (of_k && format.k.fit == TableFit::loaded) k.emplace(spec.compression.maps_path, "k", largest.k, format.d_k, spec.model);
  if (of_v && format.v.fit == TableFit::loaded) v.emplace(spec.compression.maps_path, "v", largest.v, format.d_v, spec.model);
  const bool fits = (of_k && !k) || (of_v && !v);
  const auto source = fits ? make_qkv_generator(spec.payload.generator, spec.model, spec.threads) : nullptr;
  for (const ReplayLayer& layer : geometry.layers()) {
    const Calibration rows = source ? calibrate(*source, spec.model, layer.layer) : Calibration{};
    for (std::uint32_t head = 0; head < n_kv_heads_; ++head) {
      std::vector<std::byte>& table = heads_.emplace_back(format.shared_head_bytes());
      if (source) fit_head(format, spec.model, rows, head, table.data());
      if (k) k->copy(layer.layer, head, format.k, table.data());
      if (v) v->copy(layer.layer, head, format.v, table.data() + format.shared_k_table());
    }
  }
}

std::vector<std::byte> CodecTables::of(std::uint32_t layer, std::uint32_t first, std::uint32_t count, std::uint32_t page_class) const {
  std::vector<std::byte> bytes;
  for (std::uint32_t head = first; head < first + count; ++head) {
    const std::vector<std::byte>& table = heads_[(std::size_t{page_class} * n_layers_ + layer) * n_kv_heads_ + head];
    bytes.insert(bytes.end(), table.begin(), table.end());
  }
  return bytes;
}

}  // namespace moekv
