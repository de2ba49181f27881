// A checkpoint: the state of an interrupted point, a file per process, and a manifest that appears once all of them are complete.
//
// <base>.<step>.<process>.checkpoint   header (CheckpointHeader), state, XXH3-64 of both
// <base>.checkpoint                    JSON: step, and the hash of each process's file
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/state_stream.hpp"

namespace moekv {

/// What a state belongs to: only an equal program in an equal place can read it.
struct CheckpointKey {
  std::uint64_t program = 0;        // hash of the executable
  std::uint64_t specification = 0;  // of the resolved configuration and the trace
  std::uint32_t n_processes = 1, process = 0;
  friend bool operator==(const CheckpointKey&, const CheckpointKey&) = default;
};
struct CheckpointFacts {
  std::uint64_t step = 0;    // steps that are done
  std::int64_t wall_ns = 0;  // of the runs so far
};
struct CheckpointManifest {
  CheckpointFacts facts;
  std::vector<std::uint64_t> hashes;  // of the files of all processes
};

[[nodiscard]] std::string checkpoint_part_path(const std::string& base, std::uint64_t step, std::uint32_t process);

/// Hash of the running executable.
[[nodiscard]] std::uint64_t hash_of_program();
[[nodiscard]] std::uint64_t hash_of_text(const std::string& text);

/// Writes one process's file, which appears complete or not at all, and returns its hash. Throws what the disk fails with.
std::uint64_t write_checkpoint_part(const std::string& base, const CheckpointKey& key, const CheckpointFacts& facts,
                                    const std::function<void(StateStream&)>& save);
/// After all parts.
void write_checkpoint_manifest(const std::string& base, const CheckpointManifest& manifest);
/// Throws UserError with what is wrong with it. No hashes: there is none.
[[nodiscard]] CheckpointManifest read_checkpoint_manifest(const std::string& base);

/// One process's state, read after the whole file was found to be in order.
class CheckpointReader final : public StateStream {
 public:
  /// Throws UserError where the file is missing, damaged, or does not belong to `key` and the manifest.
  CheckpointReader(const std::string& base, const CheckpointKey& key, const CheckpointManifest& manifest);
  [[nodiscard]] bool reads() const override { return true; }
  void bytes(void* data, std::size_t n) override;

 private:
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::uint64_t left_ = 0;
};

/// Removes the files of a base, those of `but_step` excepted (none: all).
inline constexpr std::uint64_t no_step = ~std::uint64_t{0};
void remove_checkpoint(const std::string& base, std::uint64_t but_step = no_step);

}  // namespace moekv
