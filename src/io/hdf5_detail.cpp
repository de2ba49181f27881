// Types, error texts and silence for the HDF5 layer.
#include "io/hdf5_detail.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.hpp"

namespace moekv::h5::detail {
namespace {

hid_t make_half() {
  const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
  H5Tset_fields(type, 15, 10, 5, 0, 10);
  H5Tset_size(type, 2);
  H5Tset_ebias(type, 15);
  return type;
}

hid_t make_text() {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

herr_t collect(unsigned depth, const H5E_error2_t* error, void* data) {
  auto& reasons = *static_cast<std::vector<std::string>*>(data);
  if (error->desc != nullptr && depth < 32) reasons.emplace_back(error->desc);
  return 0;
}

}  // namespace

void prepare() {
  thread_local const bool silent = [] {
    H5dont_atexit();  // files close themselves; the library's own end would follow pointers of one that could not be flushed
    H5open();
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    H5PLset_loading_state(0);
    return true;
  }();
  (void)silent;
}

std::string take_error() {
  const std::string_view quote = "error message = '";
  std::vector<std::string> reasons;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect, &reasons);
  H5Eclear2(H5E_DEFAULT);
  if (reasons.empty()) return "no reason given by HDF5";
  for (const std::string& reason : reasons) {  // what the system said, without the addresses around it
    const std::size_t at = reason.find(quote);
    if (at != std::string::npos) return reason.substr(at + quote.size(), reason.find('\'', at + quote.size()) - at - quote.size());
  }
  if (reasons[0] == "driver read request failed") return "damaged or unreadable bytes";
  return reasons.size() == 1 ? reasons[0] : fmt::format("{}; {}", reasons[0], reasons[1]);
}

void fail(const Origin& origin, const std::string& name, const std::string& what) {
  const std::string where = name == "/" ? origin.path : origin.path + ":" + name;
  if (origin.reading()) throw UserError(where, what);
  throw SystemError(where + ": " + what);
}

hid_t file_type(Type type) {
  static const hid_t half = make_half();
  static const hid_t text = make_text();
  switch (type) {
    case Type::u8:
      return H5T_STD_U8LE;
    case Type::u16:
      return H5T_STD_U16LE;
    case Type::u32:
      return H5T_STD_U32LE;
    case Type::u64:
      return H5T_STD_U64LE;
    case Type::i8:
      return H5T_STD_I8LE;
    case Type::i16:
      return H5T_STD_I16LE;
    case Type::i32:
      return H5T_STD_I32LE;
    case Type::i64:
      return H5T_STD_I64LE;
    case Type::f16:
      return half;
    case Type::f32:
      return H5T_IEEE_F32LE;
    case Type::f64:
      return H5T_IEEE_F64LE;
    case Type::text:
      return text;
    default:
      return -1;
  }
}

hid_t memory_type(Type type) { return file_type(type); }  // the supported machines are little-endian

hid_t transfer_list(Type type, std::uint64_t n) {
  constexpr std::size_t small = 1U << 14;
  constexpr std::uint32_t text_bytes = 16;  // of the reference to a text in the file's heap
  static const hid_t list = [] {
    const hid_t made = H5Pcreate(H5P_DATASET_XFER);
    H5Pset_buffer(made, small, nullptr, nullptr);
    return made;
  }();
  return n <= small / std::max(element_bytes(type), text_bytes) ? list : H5P_DEFAULT;
}

Type type_from(hid_t type) {
  const H5T_class_t kind = H5Tget_class(type);
  if (kind == H5T_STRING) return Type::text;
  if (kind != H5T_INTEGER && kind != H5T_FLOAT) return Type::other;
  for (const Type candidate :
       {Type::u8, Type::u16, Type::u32, Type::u64, Type::i8, Type::i16, Type::i32, Type::i64, Type::f16, Type::f32, Type::f64}) {
    if (H5Tequal(type, file_type(candidate)) > 0) return candidate;
  }
  return Type::other;
}

Handle make_space(const Dims& dims, bool extendable) {
  if (dims.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
  const std::vector<hsize_t> extent(dims.begin(), dims.end());
  std::vector<hsize_t> most = extent;
  if (extendable) most[0] = H5S_UNLIMITED;
  return {H5Screate_simple(static_cast<int>(extent.size()), extent.data(), most.data()), H5Sclose};
}

}  // namespace moekv::h5::detail

namespace moekv::h5 {

std::string_view to_string(Type type) {
  constexpr std::string_view names[] = {"u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f16", "f32", "f64", "text", "other"};
  return names[static_cast<int>(type)];
}

std::uint32_t element_bytes(Type type) {
  constexpr std::uint32_t bytes[] = {1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 0};
  return bytes[static_cast<int>(type)];
}

Handle& Handle::operator=(Handle&& other) noexcept {
  if (this != &other) {
    reset();
    id_ = std::exchange(other.id_, -1);
    close_ = other.close_;
  }
  return *this;
}

void Handle::reset() noexcept {
  if (id_ >= 0 && H5Iis_valid(id_) > 0) close_(id_);
  id_ = -1;
}

Object::Object(Handle handle, std::shared_ptr<const Origin> origin, std::string name)
    : handle_(std::move(handle)), origin_(std::move(origin)), name_(std::move(name)) {}

void Object::fail(const std::string& what) const { detail::fail(*origin_, name_, what); }

std::int64_t Object::check(std::int64_t status, const std::string& what) const {
  if (status < 0) fail(fmt::format("cannot {}: {}", what, detail::take_error()));
  return status;
}

}  // namespace moekv::h5
