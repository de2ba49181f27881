// The driver reads with pread and looks into every global heap (where HDF5 keeps texts) before HDF5 does, which checks nothing there.
#include "io/guarded_driver.hpp"

#include <fcntl.h>
#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

#if __has_include(<H5FDdevelop.h>)
#include <H5FDdevelop.h>
#endif

namespace moekv::h5 {
namespace {

constexpr std::size_t heap_header_bytes = 16;    // "GCOL", version, reserved, size of the collection
constexpr std::size_t object_header_bytes = 16;  // index, references, reserved, size of the object

struct GuardedFile {
  H5FD_t base{};  // HDF5's part; must come first
  int fd = -1;
  std::uint64_t most_text_bytes = 0;
  haddr_t end_of_addresses = 0;
  haddr_t end_of_file = 0;
  dev_t device = 0;
  ino_t inode = 0;
};

GuardedFile* self(H5FD_t* file) { return reinterpret_cast<GuardedFile*>(file); }
const GuardedFile* self(const H5FD_t* file) { return reinterpret_cast<const GuardedFile*>(file); }

/// Reads exactly `size` bytes; behind the end of the file come zeros.
bool read_exactly(int fd, haddr_t at, std::size_t size, std::byte* out) {
  while (size > 0) {
    const ssize_t n = ::pread(fd, out, size, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    if (n == 0) {
      std::memset(out, 0, size);
      return true;
    }
    out += n;
    at += static_cast<haddr_t>(n);
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

std::uint64_t load_u64(const std::byte* p) {
  std::uint64_t v = 0;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

/// Every object of a collection lies inside it and is no longer than a text may be.
bool sound_heap(const std::byte* heap, std::uint64_t size, std::uint64_t most_text_bytes) {
  std::uint64_t at = heap_header_bytes;
  while (size - at >= object_header_bytes) {
    const unsigned index = std::to_integer<unsigned>(heap[at]) | std::to_integer<unsigned>(heap[at + 1]) << 8;
    const std::uint64_t object_bytes = load_u64(heap + at + 8);
    if (object_bytes > most_guarded_metadata_bytes || (index != 0 && object_bytes > most_text_bytes)) return false;
    const std::uint64_t whole = index == 0 ? object_bytes : object_header_bytes + (object_bytes + 7) / 8 * 8;  // 0: free space, header included
    if (whole < object_header_bytes || whole > size - at) return false;
    at += whole;
  }
  return true;
}

/// Looks at the whole collection whose beginning HDF5 is about to see.
bool heap_may_pass(const GuardedFile& file, haddr_t at, const std::byte* beginning) {
  const std::uint64_t size = load_u64(beginning + 8);
  if (size < heap_header_bytes || size > most_guarded_metadata_bytes || at > file.end_of_file || size > file.end_of_file - at) return false;
  const std::unique_ptr<std::byte[]> heap(new (std::nothrow) std::byte[size]);
  return heap && read_exactly(file.fd, at, size, heap.get()) && sound_heap(heap.get(), size, file.most_text_bytes);
}

template <std::uint64_t most_text_bytes>
H5FD_t* open_file(const char* name, unsigned flags, hid_t, haddr_t) {
  if ((flags & H5F_ACC_RDWR) != 0) return nullptr;
  const int fd = ::open(name, O_RDONLY | O_CLOEXEC);
  struct stat facts {};
  if (fd < 0) return nullptr;
  auto* file = ::fstat(fd, &facts) == 0 ? new (std::nothrow) GuardedFile : nullptr;
  if (file == nullptr) {
    ::close(fd);
    return nullptr;
  }
  file->fd = fd;
  file->most_text_bytes = most_text_bytes;
  file->end_of_file = static_cast<haddr_t>(facts.st_size);
  file->device = facts.st_dev;
  file->inode = facts.st_ino;
  return &file->base;
}

herr_t close_file(H5FD_t* file) {
  ::close(self(file)->fd);
  delete self(file);
  return 0;
}

int compare(const H5FD_t* a, const H5FD_t* b) {
  const auto key = [](const GuardedFile* f) { return std::pair(f->device, f->inode); };
  return key(self(a)) < key(self(b)) ? -1 : key(self(b)) < key(self(a)) ? 1 : 0;
}

herr_t read(H5FD_t* base, H5FD_mem_t type, hid_t, haddr_t at, std::size_t size, void* buffer) {
  const GuardedFile& file = *self(base);
  auto* out = static_cast<std::byte*>(buffer);
  if (at > file.end_of_file || (type != H5FD_MEM_DRAW && size > most_guarded_metadata_bytes)) return -1;
  if (!read_exactly(file.fd, at, size, out)) return -1;
  const bool heap = size >= heap_header_bytes && std::memcmp(out, "GCOL", 4) == 0;
  return heap && !heap_may_pass(file, at, out) ? -1 : 0;
}

herr_t write(H5FD_t*, H5FD_mem_t, hid_t, haddr_t, std::size_t, const void*) { return -1; }

herr_t query(const H5FD_t*, unsigned long* flags) {
  if (flags != nullptr) *flags = 0;
  return 0;
}

haddr_t end_of_addresses(const H5FD_t* file, H5FD_mem_t) { return self(file)->end_of_addresses; }
herr_t set_end_of_addresses(H5FD_t* file, H5FD_mem_t, haddr_t at) {
  self(file)->end_of_addresses = at;
  return 0;
}
haddr_t end_of_file(const H5FD_t* file, H5FD_mem_t) { return self(file)->end_of_file; }

template <std::uint64_t most_text_bytes>
hid_t register_driver(int value, const char* name) {
  static H5FD_class_t driver{};
#if H5_VERSION_GE(1, 13, 2)
  driver.version = H5FD_CLASS_VERSION;
  driver.value = static_cast<H5FD_class_value_t>(value);  // above the library's own, below the reserved end
#endif
  (void)value;
  driver.name = name;
  driver.maxaddr = static_cast<haddr_t>(1) << 62;
  driver.fc_degree = H5F_CLOSE_STRONG;
  driver.open = open_file<most_text_bytes>;
  driver.close = close_file;
  driver.cmp = compare;
  driver.query = query;
  driver.get_eoa = end_of_addresses;
  driver.set_eoa = set_end_of_addresses;
  driver.get_eof = end_of_file;
  driver.read = read;
  driver.write = write;
  std::fill(std::begin(driver.fl_map), std::end(driver.fl_map), H5FD_MEM_DEFAULT);
  return H5FDregister(&driver);
}

}  // namespace

int use_guarded_driver(std::int64_t access_list, GuardedTexts texts) {
  static const hid_t short_texts = register_driver<most_guarded_text_bytes>(555, "moekv_guarded");
  static const hid_t any_texts = register_driver<most_guarded_metadata_bytes>(556, "moekv_guarded_long");
  const hid_t driver = texts == GuardedTexts::any ? any_texts : short_texts;
  return driver < 0 ? -1 : H5Pset_driver(access_list, driver, nullptr);
}

}  // namespace moekv::h5
