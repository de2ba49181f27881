// NpzWriter: NumPy arrays into an .npz file (a zip of .npy members, stored), streamed so that arrays may be larger than memory.
#pragma once

#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moekv {

/// Every failure to write is a SystemError naming the path. The file is complete only after `finish`.
class NpzWriter {
 public:
  explicit NpzWriter(std::string path);

  /// Starts array `name` of NumPy type `descr` ("<f2", "|u1") and C-ordered `shape`; exactly its bytes follow by `write`.
  void begin(const std::string& name, std::string_view descr, const std::vector<std::uint64_t>& shape);
  void write(std::span<const std::byte> bytes);
  template <class T>
  void write_values(std::span<const T> values) {
    write(std::as_bytes(values));
  }
  /// A whole small array of one axis.
  template <class T>
  void add(const std::string& name, std::string_view descr, const std::vector<T>& values) {
    begin(name, descr, {values.size()});
    write_values(std::span<const T>(values));
  }
  /// Ends the last array and writes the directory.
  void finish();

 private:
  struct Member {
    std::string name;
    std::uint64_t offset = 0, n_bytes = 0;
    std::uint32_t crc32 = 0;
  };
  void end_member();
  void put(const std::string& bytes);

  std::string path_;
  std::ofstream out_;
  std::vector<Member> members_;
  bool open_ = false;
  std::uint64_t expected_bytes_ = 0;  // of the open member
};

}  // namespace moekv
