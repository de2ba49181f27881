// Bundle: many runs in one file that only grows, so that short points share a file and its fsyncs. A run is one frame: magic, length, id,
// checksum, content; what a killed writer left at the end is no frame, and the next writer cuts it off.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_descriptor.hpp"
#include "results/run_file.hpp"

namespace moekv {

/// Where the result of a point is: a file of its own (size 0), or a frame of a bundle.
struct ResultPlace {
  std::string path;
  std::uint64_t offset = 0, size = 0, hash = 0;
  [[nodiscard]] bool found() const { return !path.empty(); }
};

/// Whether the result of point `id` is there as it was written: bytes of a frame by their hash, a file by what HDF5 finds when it opens it.
[[nodiscard]] bool is_whole(const ResultPlace& place, std::string_view id);

class BundleWriter {
 public:
  /// Opens or creates; cuts off what is no complete frame.
  explicit BundleWriter(const std::string& path);
  ~BundleWriter();
  BundleWriter(const BundleWriter&) = delete;
  BundleWriter& operator=(const BundleWriter&) = delete;
  /// In the page cache when it returns, which survives kill -9; on the disk after every 64th run and when the writer ends. Throws SystemError.
  void append(const RunFile& run);

 private:
  std::string path_;
  FileDescriptor fd_;
  unsigned unsynced_ = 0;
};

struct BundleEntry {
  std::string id;
  ResultPlace place;
};
/// All complete frames that this build can read, in their order.
[[nodiscard]] std::vector<BundleEntry> index_bundle(const std::string& path);

/// The run at a place. Throws UserError where it cannot be read or is damaged.
[[nodiscard]] RunFile read_result(const ResultPlace& place);

}  // namespace moekv
