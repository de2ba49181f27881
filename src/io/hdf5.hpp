// A small owner layer over the HDF5 C API: files, groups, datasets and attributes that close themselves and fail with one clear exception.
// Failures of a file opened for reading are UserError (the file is bad), of one being written SystemError. HDF5 itself prints nothing.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace moekv::h5 {

/// Element types, little-endian in the file. `text` is variable-length UTF-8; `other` is anything this program does not use.
enum class Type : std::uint8_t { u8, u16, u32, u64, i8, i16, i32, i64, f16, f32, f64, text, other };
[[nodiscard]] std::string_view to_string(Type type);
/// Bytes of one element; 0 for text and other.
[[nodiscard]] std::uint32_t element_bytes(Type type);

/// The bits of an IEEE binary16 value: the host type of Type::f16. bf16 has no HDF5 type and is stored as u16.
struct Half {
  std::uint16_t bits = 0;
};

template <class T>
[[nodiscard]] constexpr Type type_of() {
  if constexpr (std::is_same_v<T, Half>) return Type::f16;
  if constexpr (std::is_same_v<T, float>) return Type::f32;
  if constexpr (std::is_same_v<T, double>) return Type::f64;
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    constexpr Type unsigned_types[] = {Type::u8, Type::u16, Type::u32, Type::u64};
    constexpr Type signed_types[] = {Type::i8, Type::i16, Type::i32, Type::i64};
    constexpr int log2_bytes = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3;
    return std::is_signed_v<T> ? signed_types[log2_bytes] : unsigned_types[log2_bytes];
  }
}
template <class T>
concept Element = std::integral<T> || std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, Half>;
template <class T>
concept Number = (std::integral<T> && !std::same_as<T, bool>) || std::floating_point<T>;

using Dims = std::vector<std::uint64_t>;

namespace detail {
struct ScaleUsers;
}

/// What open objects remember for messages and for the kind of a failure.
struct Origin {
  std::string path;
  std::shared_ptr<detail::ScaleUsers> scale_users = nullptr;  // of a file that is written
  [[nodiscard]] bool reading() const { return scale_users == nullptr; }
};

/// Owns one HDF5 identifier. Move-only; closing never throws.
class Handle {
 public:
  using Close = int (*)(std::int64_t);
  Handle() = default;
  Handle(std::int64_t id, Close close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept;
  ~Handle() { reset(); }
  void reset() noexcept;
  /// Gives the identifier up without closing it.
  [[nodiscard]] std::int64_t release() { return std::exchange(id_, -1); }
  [[nodiscard]] std::int64_t id() const { return id_; }

 private:
  std::int64_t id_ = -1;
  Close close_ = nullptr;
};

/// Anything that carries attributes. Setting an attribute that exists replaces it.
class Object {
 public:
  [[nodiscard]] bool has_attribute(const std::string& name) const;
  [[nodiscard]] std::vector<std::string> attribute_names() const;
  /// Type::other for a missing attribute.
  [[nodiscard]] Type attribute_type(const std::string& name) const;

  void set(const std::string& name, std::string_view text);
  void set(const std::string& name, const char* text) { set(name, std::string_view(text)); }
  void set(const std::string& name, const std::string& text) { set(name, std::string_view(text)); }
  void set(const std::string& name, const std::vector<std::string>& texts);
  template <Number T>
  void set(const std::string& name, T value) {
    write_attribute(name, type_of<T>(), {}, &value);
  }
  template <Number T>
  void set(const std::string& name, const std::vector<T>& values) {
    write_attribute(name, type_of<T>(), {values.size()}, values.data());
  }

  /// Scalar attributes (or one-element arrays). Missing, of another class or out of T's range: an error naming the attribute.
  [[nodiscard]] std::string text(const std::string& name) const;
  template <std::integral T>
  [[nodiscard]] T number(const std::string& name) const {
    static_assert(sizeof(T) < 8 || std::is_signed_v<T>, "64-bit unsigned attributes are read as i64");
    return static_cast<T>(read_integer(name, std::numeric_limits<T>::min(), static_cast<std::int64_t>(std::numeric_limits<T>::max())));
  }
  template <std::floating_point T>
  [[nodiscard]] T number(const std::string& name) const {
    return static_cast<T>(read_real(name));
  }
  /// One-dimensional attributes of at most 65536 elements.
  [[nodiscard]] std::vector<std::int64_t> integers(const std::string& name) const;
  [[nodiscard]] std::vector<double> reals(const std::string& name) const;
  [[nodiscard]] std::vector<std::string> texts(const std::string& name) const;

  /// Name inside the file, e.g. "/routing/expert_ids".
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const std::string& path() const { return origin_->path; }
  [[nodiscard]] std::int64_t id() const { return handle_.id(); }
  /// "file:/dataset", the place of a message.
  [[nodiscard]] std::string where() const { return name_ == "/" ? path() : path() + ":" + name_; }

 protected:
  Object(Handle handle, std::shared_ptr<const Origin> origin, std::string name);
  Object(Object&&) noexcept = default;
  Object& operator=(Object&&) noexcept = default;
  ~Object() = default;
  [[noreturn]] void fail(const std::string& what) const;
  /// Returns `status`; a negative one becomes an exception with HDF5's own reason.
  std::int64_t check(std::int64_t status, const std::string& what) const;

  Handle handle_;
  std::shared_ptr<const Origin> origin_;
  std::string name_;

 private:
  void write_attribute(const std::string& name, Type type, const Dims& dims, const void* data);
  [[nodiscard]] std::int64_t read_integer(const std::string& name, std::int64_t low, std::int64_t high) const;
  [[nodiscard]] double read_real(const std::string& name) const;
};

/// How a new dataset is stored.
struct Storage {
  Dims chunk;               // empty: contiguous, of fixed size
  bool extendable = false;  // the first axis may grow (needs `chunk`)
  int deflate_level = 0;    // 0 = not compressed; needs `chunk`
  bool shuffle = false;     // bytes of equal significance together: before deflate
  bool fletcher32 = false;  // a checksum per chunk
};

/// An array of one element type. Rows are slices of the first axis, all other axes complete.
class Dataset : public Object {
 public:
  [[nodiscard]] Dims dims() const;
  [[nodiscard]] std::uint64_t n_rows() const;
  /// Elements of one row: the product of the other axes.
  [[nodiscard]] std::uint64_t row_elements() const;
  [[nodiscard]] Type type() const;
  /// Bytes that the file holds for it, after compression.
  [[nodiscard]] std::uint64_t stored_bytes() const;

  /// Reads rows [begin, begin + count) into `out`, which has room for count * row_elements() values; HDF5 converts number types.
  template <Element T>
  void read_rows(std::uint64_t begin, std::uint64_t count, T* out) const {
    transfer(Direction::read, type_of<T>(), begin, count, out);
  }
  /// Reads rows as they are typed in the file.
  void read_raw_rows(std::uint64_t begin, std::uint64_t count, std::byte* out) const { transfer(Direction::read, type(), begin, count, out); }
  /// The whole array, row-major; refused above `limit_bytes` so that a hostile size cannot exhaust memory.
  template <Element T>
  [[nodiscard]] std::vector<T> read(std::uint64_t limit_bytes = std::uint64_t{1} << 30) const {
    std::vector<T> values(checked_elements(sizeof(T), limit_bytes));
    if (!values.empty()) read_rows(0, n_rows(), values.data());
    return values;
  }
  [[nodiscard]] std::vector<std::string> read_texts(std::uint64_t limit = 1U << 20) const;

  template <Element T>
  void write_rows(std::uint64_t begin, std::span<const T> values) {
    transfer(Direction::write, type_of<T>(), begin, rows_of(values.size()), const_cast<T*>(values.data()));
  }
  /// Adds whole rows at the end of an extendable dataset.
  template <Element T>
  void append(std::span<const T> values) {
    const std::uint64_t rows = rows_of(values.size());
    if (rows == 0) return;
    const std::uint64_t begin = grow(rows);
    transfer(Direction::write, type_of<T>(), begin, rows, const_cast<T*>(values.data()));
  }
  void append_texts(const std::vector<std::string>& texts);

  /// Makes this dataset a dimension scale, and names the axis it stands for.
  void make_scale(const std::string& dimension_name);
  /// Attaches the scale of the one axis that has one. The scale's own list of datasets is written when the file is closed.
  void attach_scale(const Dataset& scale, unsigned axis);

 private:
  friend class Group;
  Dataset(Handle handle, std::shared_ptr<const Origin> origin, std::string name) : Object(std::move(handle), std::move(origin), std::move(name)) {}
  enum class Direction : std::uint8_t { read, write };
  void transfer(Direction direction, Type type, std::uint64_t begin, std::uint64_t count, void* data) const;
  void transfer_texts(Direction direction, std::uint64_t begin, std::uint64_t count, void* pointers) const;
  [[nodiscard]] std::uint64_t checked_elements(std::uint64_t bytes_each, std::uint64_t limit_bytes) const;
  [[nodiscard]] std::uint64_t rows_of(std::uint64_t n_elements) const;
  std::uint64_t grow(std::uint64_t rows);
};

/// A folder of groups and datasets; names may be paths. Links that leave the file are refused.
class Group : public Object {
 public:
  [[nodiscard]] bool has(const std::string& name) const;
  /// Members in the order of creation (by name where the file does not track it).
  [[nodiscard]] std::vector<std::string> names() const;
  [[nodiscard]] bool is_group(const std::string& name) const;
  [[nodiscard]] Group group(const std::string& name) const;
  [[nodiscard]] Dataset dataset(const std::string& name) const;
  void remove(const std::string& name);

  /// Creates a group, parents included.
  Group create_group(const std::string& name);
  /// A dataset of `dims` elements (scalar for no axis); Type::text for variable-length UTF-8.
  Dataset create_dataset(const std::string& name, Type type, const Dims& dims, const Storage& storage = {});
  /// Creates and fills in one go.
  template <Element T>
  Dataset write(const std::string& name, std::span<const T> values, const Dims& dims, const Storage& storage = {}) {
    Dataset dataset = create_dataset(name, type_of<T>(), dims, storage);
    if (!values.empty()) dataset.write_rows(0, values);
    return dataset;
  }
  template <Element T>
  Dataset write(const std::string& name, const std::vector<T>& values, const Storage& storage = {}) {
    return write(name, std::span<const T>(values), {values.size()}, storage);
  }
  template <Number T>
  Dataset write(const std::string& name, T scalar) {
    return write(name, std::span<const T>(&scalar, 1), Dims{});
  }
  Dataset write(const std::string& name, const std::vector<std::string>& texts);
  Dataset write(const std::string& name, std::string_view text);

 protected:
  Group(Handle handle, std::shared_ptr<const Origin> origin, std::string name) : Object(std::move(handle), std::move(origin), std::move(name)) {}

 private:
  /// Every part of the path must be a link inside this file.
  void refuse_foreign_links(const std::string& name) const;
  [[nodiscard]] std::string child(const std::string& name) const { return name_ == "/" ? "/" + name : name_ + "/" + name; }
};

/// Version of the HDF5 library in use, "1.10.8".
[[nodiscard]] std::string library_version();

/// `foreign` reads a file that may be damaged or hostile: texts have at most 4 KiB, and what HDF5 would not check is checked (guarded_driver.hpp);
/// `read` checks the same with texts of any length.
enum class Access : std::uint8_t { read, update, foreign };

/// An open file and its root group. Closing it closes everything opened from it.
class File : public Group {
 public:
  /// Creates (replaces) `path`; order of creation is kept, library versions EARLIEST to V110 can read it.
  [[nodiscard]] static File create(const std::string& path);
  /// Opens an existing file; a UserError says why where that fails.
  [[nodiscard]] static File open(const std::string& path, Access access = Access::read);
  /// Flushes and closes; failures are thrown, which the destructor cannot do. Nothing opened from the file may be used afterwards.
  void close();

 private:
  File(Handle file, Handle root, std::shared_ptr<const Origin> origin);
  Handle file_;
};

}  // namespace moekv::h5
