// Attributes of the HDF5 layer: numbers with range checks, UTF-8 text of variable length, small arrays.
#include <fmt/format.h>

#include <algorithm>

#include "io/hdf5_detail.hpp"

namespace moekv::h5 {
namespace {

constexpr std::uint64_t most_elements = 65536;

Handle open_attribute(std::int64_t object, const std::string& name) { return {H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose}; }

/// Copies and frees what HDF5 allocated for `n` texts of variable length.
std::vector<std::string> take_texts(std::vector<char*>& pointers) {
  std::vector<std::string> texts;
  texts.reserve(pointers.size());
  for (char*& p : pointers) {
    texts.emplace_back(p == nullptr ? "" : p);
    if (p != nullptr) H5free_memory(p);
    p = nullptr;
  }
  return texts;
}

/// An open attribute with the facts that every reader checks first.
struct OpenAttribute {
  Handle attribute, type;
  H5T_class_t kind = H5T_NO_CLASS;
  std::uint64_t n_elements = 0;
};

/// The elements of a numeric attribute as T; empty where HDF5 fails.
template <class T>
std::vector<T> read_numbers(const OpenAttribute& open, Type type) {
  std::vector<T> values(open.n_elements);
  if (!values.empty() && H5Aread(open.attribute.id(), detail::memory_type(type), values.data()) < 0) values.clear();
  return values;
}

OpenAttribute open_checked(const Object& object, const Origin& origin, const std::string& name) {
  const auto refuse = [&](const std::string& what) { detail::fail(origin, object.name(), fmt::format("attribute '{}' {}", name, what)); };
  if (!object.has_attribute(name)) refuse("is missing");
  OpenAttribute open{open_attribute(object.id(), name), {}, H5T_NO_CLASS, 0};
  if (open.attribute.id() < 0) refuse("cannot be opened: " + detail::take_error());
  open.type = Handle(H5Aget_type(open.attribute.id()), H5Tclose);
  open.kind = H5Tget_class(open.type.id());
  const Handle space(H5Aget_space(open.attribute.id()), H5Sclose);
  const hssize_t n = H5Sget_simple_extent_npoints(space.id());
  if (n < 0) refuse("cannot be read: " + detail::take_error());
  if (static_cast<std::uint64_t>(n) > most_elements) refuse(fmt::format("has {} elements, more than the {} allowed", n, most_elements));
  open.n_elements = static_cast<std::uint64_t>(n);
  return open;
}

}  // namespace

bool Object::has_attribute(const std::string& name) const {
  const htri_t exists = H5Aexists(handle_.id(), name.c_str());
  H5Eclear2(H5E_DEFAULT);
  return exists > 0;
}

std::vector<std::string> Object::attribute_names() const {
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  if (H5Aiterate2(handle_.id(), H5_INDEX_CRT_ORDER, H5_ITER_INC, nullptr, add, &names) >= 0) return names;
  H5Eclear2(H5E_DEFAULT);  // the order of creation is not tracked
  names.clear();
  check(H5Aiterate2(handle_.id(), H5_INDEX_NAME, H5_ITER_INC, nullptr, add, &names), "list the attributes");
  return names;
}

Type Object::attribute_type(const std::string& name) const {
  if (!has_attribute(name)) return Type::other;
  const Handle attribute = open_attribute(handle_.id(), name);
  check(attribute.id(), "open attribute '" + name + "'");
  const Handle type(H5Aget_type(attribute.id()), H5Tclose);
  return detail::type_from(check(type.id(), "read the type of attribute '" + name + "'"));
}

void Object::write_attribute(const std::string& name, Type type, const Dims& dims, const void* data) {
  if (has_attribute(name)) check(H5Adelete(handle_.id(), name.c_str()), "replace attribute '" + name + "'");
  const Handle space = detail::make_space(dims);
  const Handle attribute(H5Acreate2(handle_.id(), name.c_str(), detail::file_type(type), space.id(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  check(attribute.id(), "create attribute '" + name + "'");
  if (dims.empty() || dims[0] > 0) check(H5Awrite(attribute.id(), detail::memory_type(type), data), "write attribute '" + name + "'");
}

void Object::set(const std::string& name, std::string_view text) {
  const std::string ended(text);
  const char* pointer = ended.c_str();
  write_attribute(name, Type::text, {}, &pointer);
}

void Object::set(const std::string& name, const std::vector<std::string>& texts) {
  std::vector<const char*> pointers;
  for (const auto& t : texts) pointers.push_back(t.c_str());
  write_attribute(name, Type::text, {texts.size()}, pointers.data());
}

std::vector<std::int64_t> Object::integers(const std::string& name) const {
  const OpenAttribute open = open_checked(*this, *origin_, name);
  if (open.kind != H5T_INTEGER) fail(fmt::format("attribute '{}' must be an integer", name));
  auto values = read_numbers<std::int64_t>(open, Type::i64);
  if (values.size() != open.n_elements) fail(fmt::format("attribute '{}' cannot be read: {}", name, detail::take_error()));
  return values;
}

std::vector<double> Object::reals(const std::string& name) const {
  const OpenAttribute open = open_checked(*this, *origin_, name);
  if (open.kind != H5T_INTEGER && open.kind != H5T_FLOAT) fail(fmt::format("attribute '{}' must be a number", name));
  auto values = read_numbers<double>(open, Type::f64);
  if (values.size() != open.n_elements) fail(fmt::format("attribute '{}' cannot be read: {}", name, detail::take_error()));
  return values;
}

std::vector<std::string> Object::texts(const std::string& name) const {
  const OpenAttribute open = open_checked(*this, *origin_, name);
  if (open.kind != H5T_STRING) fail(fmt::format("attribute '{}' must be text", name));
  if (H5Tis_variable_str(open.type.id()) > 0) {
    const Handle memory(H5Tcopy(open.type.id()), H5Tclose);
    std::vector<char*> pointers(open.n_elements, nullptr);
    if (!pointers.empty()) check(H5Aread(open.attribute.id(), memory.id(), pointers.data()), "read attribute '" + name + "'");
    return take_texts(pointers);
  }
  const std::size_t width = H5Tget_size(open.type.id());
  if (width == 0 || width * open.n_elements > (std::uint64_t{1} << 24)) fail(fmt::format("attribute '{}' is longer than 16 MiB", name));
  std::string bytes(width * open.n_elements, '\0');
  if (!bytes.empty()) check(H5Aread(open.attribute.id(), open.type.id(), bytes.data()), "read attribute '" + name + "'");
  std::vector<std::string> texts;
  for (std::uint64_t i = 0; i < open.n_elements; ++i) {
    const std::string_view field = std::string_view(bytes).substr(i * width, width);
    texts.emplace_back(field.substr(0, std::min(field.find('\0'), field.size())));
  }
  return texts;
}

std::string Object::text(const std::string& name) const {
  auto values = texts(name);
  if (values.size() != 1) fail(fmt::format("attribute '{}' must be one text, not {}", name, values.size()));
  return values[0];
}

std::int64_t Object::read_integer(const std::string& name, std::int64_t low, std::int64_t high) const {
  const auto values = integers(name);
  if (values.size() != 1) fail(fmt::format("attribute '{}' must be one integer, not {}", name, values.size()));
  if (values[0] < low || values[0] > high) fail(fmt::format("attribute '{}' is {}, outside {}..{}", name, values[0], low, high));
  return values[0];
}

double Object::read_real(const std::string& name) const {
  const auto values = reals(name);
  if (values.size() != 1) fail(fmt::format("attribute '{}' must be one number, not {}", name, values.size()));
  return values[0];
}

}  // namespace moekv::h5
