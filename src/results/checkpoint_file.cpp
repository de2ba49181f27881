// Parts are hashed as they are written, and once more as a whole before a byte of them is used.
#include "results/checkpoint_file.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.hpp"
#include "io/pending_file.hpp"

namespace moekv {
namespace {

using OpenFile = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;
constexpr std::uint64_t checkpoint_magic = 0x3174706b63766b6dULL;  // "mkvckpt1"
constexpr std::string_view checkpoint_schema = "moekv-checkpoint/1";
constexpr std::string_view checkpoint_extension = ".checkpoint";

struct CheckpointHeader {
  std::uint64_t magic = 0;
  CheckpointKey key;
  CheckpointFacts facts;
};
static_assert(sizeof(CheckpointHeader) == 48, "no padding may enter the hash");

OpenFile open_file(const std::string& path, const char* mode) { return {std::fopen(path.c_str(), mode), &std::fclose}; }

/// XXH3-64 of what comes piece by piece.
class RunningHash {
 public:
  RunningHash() : state_(XXH3_createState(), &XXH3_freeState) { (void)XXH3_64bits_reset(state_.get()); }
  void add(const void* data, std::size_t n) { (void)XXH3_64bits_update(state_.get(), data, n); }
  [[nodiscard]] std::uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
};

class PartWriter final : public StateStream {
 public:
  explicit PartWriter(std::string path) : path_(std::move(path)), file_(open_file(path_, "wb")) {
    if (file_ == nullptr) fail("fopen");
  }
  [[nodiscard]] bool reads() const override { return false; }
  void bytes(void* data, std::size_t n) override {
    hash_.add(data, n);
    put(data, n);
  }
  /// Ends the file with its hash, which is returned.
  std::uint64_t finish() {
    const std::uint64_t hash = hash_.value();
    put(&hash, sizeof(hash));
    if (std::fclose(file_.release()) != 0) fail("fclose");
    return hash;
  }

 private:
  [[noreturn]] void fail(const char* call) const { throw SystemError(fmt::format("{}({}): {}", call, path_, std::strerror(errno))); }
  void put(const void* data, std::size_t n) {
    if (n > 0 && std::fwrite(data, 1, n, file_.get()) != n) fail("fwrite");
  }

  std::string path_;
  OpenFile file_;
  RunningHash hash_;
};

/// Feeds the first `n` bytes of a file to `hash`; false where it has fewer.
bool hash_bytes(std::FILE* file, std::uint64_t n, RunningHash& hash) {
  std::vector<char> buffer(std::size_t{1} << 20);
  while (n > 0) {
    const std::size_t piece = std::fread(buffer.data(), 1, static_cast<std::size_t>(std::min<std::uint64_t>(n, buffer.size())), file);
    if (piece == 0) return false;
    hash.add(buffer.data(), piece);
    n -= piece;
  }
  return true;
}

std::string manifest_path(const std::string& base) { return base + std::string(checkpoint_extension); }

}  // namespace

std::string checkpoint_part_path(const std::string& base, std::uint64_t step, std::uint32_t process) {
  return fmt::format("{}.{}.{}{}", base, step, process, checkpoint_extension);
}

std::uint64_t hash_of_program() {
  static const std::uint64_t hash = [] {
    RunningHash running;
    if (const OpenFile file = open_file("/proc/self/exe", "rb"); file != nullptr) {
      std::error_code ignored;
      (void)hash_bytes(file.get(), std::filesystem::file_size("/proc/self/exe", ignored), running);
    }
    return running.value();
  }();
  return hash;
}

std::uint64_t hash_of_text(const std::string& text) { return XXH3_64bits(text.data(), text.size()); }

std::uint64_t write_checkpoint_part(const std::string& base, const CheckpointKey& key, const CheckpointFacts& facts,
                                    const std::function<void(StateStream&)>& save) {
  PendingFile pending(checkpoint_part_path(base, facts.step, key.process), FileKind::other);
  PartWriter writer(pending.temporary_path());
  CheckpointHeader header{checkpoint_magic, key, facts};
  writer.bytes(&header, sizeof(header));
  save(writer);
  const std::uint64_t hash = writer.finish();
  pending.commit();
  return hash;
}

void write_checkpoint_manifest(const std::string& base, const CheckpointManifest& manifest) {
  const nlohmann::ordered_json json{
      {"schema", checkpoint_schema}, {"step", manifest.facts.step}, {"wall_ns", manifest.facts.wall_ns}, {"hashes", manifest.hashes}};
  PendingFile pending(manifest_path(base), FileKind::other);
  {
    std::ofstream out(pending.temporary_path());
    out << json.dump() << '\n';
    if (!out.flush()) throw SystemError(pending.temporary_path() + ": cannot be written");
  }
  pending.commit();
}

CheckpointManifest read_checkpoint_manifest(const std::string& base) {
  const std::string path = manifest_path(base);
  if (!std::filesystem::exists(path)) return {};
  std::ifstream in(path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  try {
    const auto json = nlohmann::json::parse(text);
    if (json.at("schema").get<std::string>() == checkpoint_schema)
      return {{json.at("step").get<std::uint64_t>(), json.at("wall_ns").get<std::int64_t>()}, json.at("hashes").get<std::vector<std::uint64_t>>()};
  } catch (const nlohmann::json::exception&) {  // said below
  }
  throw UserError(path, "is damaged");
}

CheckpointReader::CheckpointReader(const std::string& base, const CheckpointKey& key, const CheckpointManifest& manifest)
    : file_(nullptr, &std::fclose) {
  if (manifest.hashes.size() != key.n_processes)
    throw UserError(manifest_path(base), fmt::format("was written by {} processes, this job has {}", manifest.hashes.size(), key.n_processes));
  const std::string path = checkpoint_part_path(base, manifest.facts.step, key.process);
  file_ = open_file(path, "rb");
  if (file_ == nullptr) throw UserError(path, fmt::format("cannot be opened: {}", std::strerror(errno)));
  const std::uint64_t size = std::filesystem::file_size(path), around = sizeof(CheckpointHeader) + sizeof(std::uint64_t);
  CheckpointHeader header;
  std::uint64_t stored = 0;
  RunningHash hash;
  const bool whole =
      size >= around && hash_bytes(file_.get(), size - sizeof(stored), hash) && std::fread(&stored, sizeof(stored), 1, file_.get()) == 1;
  std::rewind(file_.get());
  const bool headed = whole && std::fread(&header, sizeof(header), 1, file_.get()) == 1;
  if (!headed || stored != hash.value() || stored != manifest.hashes[key.process] || header.magic != checkpoint_magic ||
      header.facts.step != manifest.facts.step)
    throw UserError(path, "is damaged");
  if (header.key.program != key.program) throw UserError(path, "was written by another build of the program");
  if (header.key != key) throw UserError(path, "is of another configuration or trace");
  left_ = size - around;
}

void CheckpointReader::bytes(void* data, std::size_t n) {
  if (n > left_ || (n > 0 && std::fread(data, 1, n, file_.get()) != n)) throw SystemError("a saved state ends early");
  left_ -= n;
}

void remove_checkpoint(const std::string& base, std::uint64_t but_step) {
  const std::filesystem::path path(base);
  const std::string prefix = path.filename().string() + ".", kept = fmt::format("{}{}.", prefix, but_step);
  std::vector<std::filesystem::path> gone;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(path.parent_path(), ignored)) {
    const std::string name = entry.path().filename().string();
    const bool ours = name.starts_with(prefix) && name.find(checkpoint_extension) != std::string::npos;
    const bool stays = but_step != no_step && (name.starts_with(kept) || entry.path() == manifest_path(base));
    if (ours && !stays) gone.push_back(entry.path());
  }
  for (const auto& file : gone) std::filesystem::remove(file, ignored);
}

}  // namespace moekv
