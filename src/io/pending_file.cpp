// Write aside, fsync, rename, fsync the folder: a process killed at any moment leaves no half-written file under the final name.
#include "io/pending_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string_view>

#include "core/error.hpp"
#include "io/file_descriptor.hpp"

namespace moekv {
namespace {

void sync_path(const std::string& path, int flags) {
  const FileDescriptor fd(::open(path.c_str(), flags | O_CLOEXEC));
  if (!fd) throw SystemError(fmt::format("open({}): {}", path, std::strerror(errno)));
  if (::fsync(fd.get()) != 0 && errno != EINVAL) throw SystemError(fmt::format("fsync({}): {}", path, std::strerror(errno)));
}

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

bool is_hdf5_or_empty(const std::string& path) {
  constexpr std::string_view signature = "\x89HDF\r\n\x1a\n";
  std::string start(signature.size(), '\0');
  std::ifstream in(path, std::ios::binary);
  in.read(start.data(), static_cast<std::streamsize>(start.size()));
  return in.gcount() == 0 || start == signature;
}

/// What a name stands for: of a link, where it leads.
std::string behind_links(std::string path) {
  std::error_code none;
  for (int links = 0; links < 40 && std::filesystem::is_symlink(path, none); ++links) {
    const std::filesystem::path next = std::filesystem::path(path).parent_path() / std::filesystem::read_symlink(path, none);
    if (std::filesystem::exists(path, none) && !std::filesystem::exists(next, none)) break;  // of /proc: it names a pipe
    path = next.string();
  }
  return path;
}

}  // namespace

PendingFile::PendingFile(std::string final_path, FileKind kind) : final_(behind_links(std::move(final_path))) {
  static std::atomic<unsigned> serial{0};
  const std::string folder = folder_of(final_);
  std::error_code unknown;
  if (!std::filesystem::is_directory(folder, unknown)) throw UserError(final_, fmt::format("folder '{}' does not exist", folder), "create it first");
  if (::access(folder.c_str(), W_OK) != 0) throw UserError(final_, fmt::format("folder '{}' is not writable", folder), "choose another place");
  const std::filesystem::file_type type = std::filesystem::status(final_, unknown).type();
  if (type == std::filesystem::file_type::directory) throw UserError(final_, "is a folder", "name a file");
  if (type != std::filesystem::file_type::regular && type != std::filesystem::file_type::not_found)
    throw UserError(final_, "is no regular file, and a result would take its place", "name a file");
  if (kind == FileKind::hdf5 && type == std::filesystem::file_type::regular && !is_hdf5_or_empty(final_))
    throw UserError(final_, "exists and is no HDF5 file", "name another file, or remove this one");
  temporary_ = fmt::format("{}.{}.{}.tmp", final_, ::getpid(), serial++);
}

PendingFile::~PendingFile() {
  if (!done_) ::unlink(temporary_.c_str());
}

void PendingFile::commit() {
  sync_path(temporary_, O_RDWR);
  if (std::rename(temporary_.c_str(), final_.c_str()) != 0) {
    throw SystemError(fmt::format("rename({}, {}): {}", temporary_, final_, std::strerror(errno)));
  }
  done_ = true;
  sync_path(folder_of(final_), O_RDONLY | O_DIRECTORY);
}

void require_apart(const std::string& output, std::span<const std::string> others) {
  const auto place = [](const std::string& path) {
    std::error_code unknown;
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path, unknown), unknown);
  };
  for (const std::string& other : others) {
    std::error_code absent;
    if (output.empty() || other.empty() || (place(output) != place(other) && !std::filesystem::equivalent(output, other, absent))) continue;
    throw UserError(output, "is also an input, or another output", "choose another name for the output");
  }
}

void remove_leftovers(const std::string& final_path) {
  const std::regex name(R"(\.(\d{1,9})\.\d+\.tmp)");
  const std::string prefix = std::filesystem::path(final_path).filename().string();
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder_of(final_path), ignored)) {
    const std::string found = entry.path().filename().string();
    std::smatch match;
    const std::string rest = found.starts_with(prefix) ? found.substr(prefix.size()) : "";
    if (std::regex_match(rest, match, name) && ::kill(std::stoi(match[1]), 0) != 0 && errno == ESRCH) ::unlink(entry.path().c_str());
  }
}

}  // namespace moekv
