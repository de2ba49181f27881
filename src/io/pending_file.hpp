// PendingFile: a file that appears under its name complete or not at all: written aside, synced, renamed.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace moekv {

enum class FileKind : std::uint8_t { hdf5, other };

/// Names a temporary file beside `final_path`. Without `commit` the destructor removes it and nothing appears.
class PendingFile {
 public:
  /// A link is followed. Throws UserError where the folder does not exist or is not writable, where the name is that of a folder or a device, and
  /// where an HDF5 file would replace something else.
  explicit PendingFile(std::string final_path, FileKind kind = FileKind::hdf5);
  ~PendingFile();
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  /// Where to write; the writer has closed it before `commit`.
  [[nodiscard]] const std::string& temporary_path() const { return temporary_; }
  [[nodiscard]] const std::string& final_path() const { return final_; }
  /// Syncs file and folder to the disk and renames; replaces an older file of that name. Throws SystemError.
  void commit();

 private:
  std::string final_, temporary_;
  bool done_ = false;
};

/// Throws UserError where `output` is the same file as one of `others`, under whatever name. Empty names are no files.
void require_apart(const std::string& output, std::span<const std::string> others);

/// Removes temporary files beside `final_path` that processes of this host left when they were killed; those of living processes stay.
void remove_leftovers(const std::string& final_path);

}  // namespace moekv
