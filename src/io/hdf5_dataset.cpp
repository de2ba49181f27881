// Datasets of the HDF5 layer: creation with chunks and filters, hyperslab transfer of rows, text, dimension scales.
#include <fmt/format.h>
#include <hdf5_hl.h>

#include <algorithm>
#include <cstdlib>

#include "core/error.hpp"
#include "io/hdf5_detail.hpp"

namespace moekv::h5 {
namespace {

std::uint64_t product(const Dims& dims, std::size_t from) {
  std::uint64_t n = 1;
  for (std::size_t i = from; i < dims.size(); ++i) {
    if (dims[i] != 0 && n > std::numeric_limits<std::uint64_t>::max() / dims[i]) return std::numeric_limits<std::uint64_t>::max();
    n *= dims[i];
  }
  return n;
}

/// A chunk cache that holds two chunks, so that rows appended one by one are compressed once.
Handle access_list(const Storage& storage, Type type) {
  Handle list(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
  const std::uint64_t chunk_bytes = product(storage.chunk, 0) * std::max(element_bytes(type), 16U);
  H5Pset_chunk_cache(list.id(), 521, std::clamp<std::uint64_t>(2 * chunk_bytes, 1U << 20, 1U << 26), 1.0);
  return list;
}

Handle creation_list(const Storage& storage) {
  Handle list(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_attr_creation_order(list.id(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
  H5Pset_obj_track_times(list.id(), false);  // equal data, equal bytes
  if (storage.chunk.empty()) return list;
  const std::vector<hsize_t> chunk(storage.chunk.begin(), storage.chunk.end());
  H5Pset_chunk(list.id(), static_cast<int>(chunk.size()), chunk.data());
  if (storage.shuffle) H5Pset_shuffle(list.id());
  if (storage.deflate_level > 0) H5Pset_deflate(list.id(), static_cast<unsigned>(storage.deflate_level));
  if (storage.fletcher32) H5Pset_fletcher32(list.id());
  return list;
}

}  // namespace

Dataset Group::dataset(const std::string& name) const {
  refuse_foreign_links(name);
  const std::int64_t id = H5Dopen2(handle_.id(), name.c_str(), H5P_DEFAULT);
  Dataset dataset(Handle(check(id, "open dataset '" + name + "'"), H5Dclose), origin_, child(name));
  const Handle creation(H5Dget_create_plist(dataset.id()), H5Pclose);
  if (H5Pget_external_count(creation.id()) > 0 || H5Pget_layout(creation.id()) == H5D_VIRTUAL)
    throw UserError(dataset.where(), "keeps its data in another file", "copy the data into this file, for example with h5repack");
  return dataset;
}

Dataset Group::create_dataset(const std::string& name, Type type, const Dims& dims, const Storage& storage) {
  static const hid_t links = [] {
    const hid_t list = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(list, 1);
    return list;
  }();
  static const hid_t contiguous = creation_list({}).release();
  const bool chunked = !storage.chunk.empty();
  const Handle creation = chunked ? creation_list(storage) : Handle();
  const Handle access = chunked ? access_list(storage, type) : Handle();
  const Handle space = detail::make_space(dims, storage.extendable);
  const std::int64_t id = H5Dcreate2(handle_.id(), name.c_str(), detail::file_type(type), space.id(), links, chunked ? creation.id() : contiguous,
                                     chunked ? access.id() : H5P_DEFAULT);
  return {Handle(check(id, "create dataset '" + name + "'"), H5Dclose), origin_, child(name)};
}

Dataset Group::write(const std::string& name, const std::vector<std::string>& texts) {
  Dataset dataset = create_dataset(name, Type::text, {texts.size()});
  std::vector<const char*> pointers;
  for (const auto& t : texts) pointers.push_back(t.c_str());
  if (!texts.empty()) dataset.transfer_texts(Dataset::Direction::write, 0, texts.size(), pointers.data());
  return dataset;
}

Dataset Group::write(const std::string& name, std::string_view text) {
  Dataset dataset = create_dataset(name, Type::text, {});
  const std::string ended(text);
  const char* pointer = ended.c_str();
  dataset.transfer_texts(Dataset::Direction::write, 0, 1, &pointer);
  return dataset;
}

Dims Dataset::dims() const {
  const Handle space(H5Dget_space(handle_.id()), H5Sclose);
  const auto rank = check(H5Sget_simple_extent_ndims(space.id()), "read the shape");
  std::vector<hsize_t> extent(static_cast<std::size_t>(rank));
  if (rank > 0) check(H5Sget_simple_extent_dims(space.id(), extent.data(), nullptr), "read the shape");
  return {extent.begin(), extent.end()};
}

std::uint64_t Dataset::n_rows() const {
  const Dims shape = dims();
  return shape.empty() ? 1 : shape[0];
}

std::uint64_t Dataset::row_elements() const { return product(dims(), 1); }

Type Dataset::type() const {
  const Handle type(H5Dget_type(handle_.id()), H5Tclose);
  return detail::type_from(check(type.id(), "read the type"));
}

std::uint64_t Dataset::stored_bytes() const { return H5Dget_storage_size(handle_.id()); }

std::uint64_t Dataset::checked_elements(std::uint64_t bytes_each, std::uint64_t limit_bytes) const {
  const std::uint64_t n = product(dims(), 0);
  if (n > limit_bytes / bytes_each) fail(fmt::format("has {} elements, more than the {} bytes allowed in memory", n, limit_bytes));
  return n;
}

std::uint64_t Dataset::rows_of(std::uint64_t n_elements) const {
  const std::uint64_t each = row_elements();
  if (each == 0) return 0;
  if (n_elements % each != 0) fail(fmt::format("{} values are not whole rows of {}", n_elements, each));
  return n_elements / each;
}

std::uint64_t Dataset::grow(std::uint64_t rows) {
  const Dims shape = dims();
  if (shape.empty()) fail("a scalar cannot grow");
  std::vector<hsize_t> extent(shape.begin(), shape.end());
  extent[0] += rows;
  check(H5Dset_extent(handle_.id(), extent.data()), "grow");
  return shape[0];
}

void Dataset::transfer(Direction direction, Type type, std::uint64_t begin, std::uint64_t count, void* data) const {
  const Dims shape = dims();
  const std::uint64_t n_elements = count * product(shape, 1);
  const Handle file_space(H5Dget_space(handle_.id()), H5Sclose);
  Handle memory_space = detail::make_space({});
  if (!shape.empty()) {
    if (begin > shape[0] || count > shape[0] - begin) fail(fmt::format("rows {}..{} do not exist; it has {}", begin, begin + count, shape[0]));
    if (n_elements == 0) return;
    std::vector<hsize_t> start(shape.size(), 0);
    std::vector<hsize_t> extent(shape.begin(), shape.end());
    start[0] = begin;
    extent[0] = count;
    check(H5Sselect_hyperslab(file_space.id(), H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr), "select rows");
    memory_space = Handle(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), H5Sclose);
  }
  const hid_t memory = detail::memory_type(type);
  const hid_t properties = detail::transfer_list(type, n_elements);
  if (direction == Direction::read) {
    check(H5Dread(handle_.id(), memory, memory_space.id(), file_space.id(), properties, data), fmt::format("read rows {}..{}", begin, begin + count));
  } else {
    check(H5Dwrite(handle_.id(), memory, memory_space.id(), file_space.id(), properties, data),
          fmt::format("write rows {}..{}", begin, begin + count));
  }
}

void Dataset::transfer_texts(Direction direction, std::uint64_t begin, std::uint64_t count, void* pointers) const {
  transfer(direction, Type::text, begin, count, pointers);
}

void Dataset::append_texts(const std::vector<std::string>& texts) {
  if (texts.empty()) return;
  std::vector<const char*> pointers;
  for (const auto& t : texts) pointers.push_back(t.c_str());
  const std::uint64_t begin = grow(texts.size());
  transfer_texts(Direction::write, begin, texts.size(), pointers.data());
}

std::vector<std::string> Dataset::read_texts(std::uint64_t limit) const {
  const Handle type(H5Dget_type(handle_.id()), H5Tclose);
  if (H5Tget_class(type.id()) != H5T_STRING) fail("must hold text");
  if (H5Tis_variable_str(type.id()) <= 0) fail("must hold text of variable length");
  const std::uint64_t n = checked_elements(1, limit);
  std::vector<char*> pointers(n, nullptr);
  std::vector<std::string> texts;
  if (n == 0) return texts;
  const Handle memory(H5Tcopy(type.id()), H5Tclose);
  check(H5Dread(handle_.id(), memory.id(), H5S_ALL, H5S_ALL, detail::transfer_list(Type::text, n), pointers.data()), "read");
  for (char* p : pointers) {
    texts.emplace_back(p == nullptr ? "" : p);
    if (p != nullptr) H5free_memory(p);
  }
  return texts;
}

void Dataset::make_scale(const std::string& dimension_name) { check(H5DSset_scale(handle_.id(), dimension_name.c_str()), "make a dimension scale"); }

void Dataset::attach_scale(const Dataset& scale, unsigned axis) {
  if (has_attribute(DIMENSION_LIST)) fail("has a scale already");
  hobj_ref_t scale_reference = 0, own_reference = 0;
  check(H5Rcreate(&scale_reference, scale.handle_.id(), ".", H5R_OBJECT, -1), "refer to scale " + scale.name());
  check(H5Rcreate(&own_reference, handle_.id(), ".", H5R_OBJECT, -1), "refer to itself");
  std::vector<hvl_t> scales(dims().size(), hvl_t{0, nullptr});
  scales.at(axis) = {1, &scale_reference};
  static const hid_t type = H5Tvlen_create(H5T_STD_REF_OBJ);
  const Handle space = detail::make_space({scales.size()});
  const Handle list(H5Acreate2(handle_.id(), DIMENSION_LIST, type, space.id(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  check(list.id(), fmt::format("attach scale {} to axis {}", scale.name(), axis));
  check(H5Awrite(list.id(), type, scales.data()), fmt::format("attach scale {} to axis {}", scale.name(), axis));
  origin_->scale_users->of_scale[scale.name()].push_back({own_reference, axis});
}

void detail::write_scale_users(const Group& file, const Origin& origin) {
  static const hid_t type = [] {
    const hid_t user = H5Tcreate(H5T_COMPOUND, sizeof(ScaleUser));
    H5Tinsert(user, "dataset", offsetof(ScaleUser, dataset), H5T_STD_REF_OBJ);
    H5Tinsert(user, "dimension", offsetof(ScaleUser, axis), H5T_NATIVE_INT);
    return user;
  }();
  for (const auto& [name, users] : origin.scale_users->of_scale) {
    const Handle scale(H5Dopen2(file.id(), name.c_str(), H5P_DEFAULT), H5Dclose);
    const Handle space = make_space({users.size()});
    const Handle list(H5Acreate2(scale.id(), REFERENCE_LIST, type, space.id(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    if (H5Awrite(list.id(), type, users.data()) < 0) fail(origin, name, "cannot note which axes it describes: " + take_error());
  }
}

}  // namespace moekv::h5
