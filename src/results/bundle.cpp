// Frames are written with one write() each. Their content is the run field by field; what is read is checked against what is left.
#include "results/bundle.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <span>

#include "core/error.hpp"
#include "io/hdf5.hpp"
#include "results/frame_coder.hpp"
#include "results/record_table.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t magic = 0x31646e7562766b6dULL;      // "mkvbund1"
constexpr unsigned runs_per_sync = 64, runs_per_start = 8;  // that are on disk, that it begins to write

struct FrameHeader {
  std::uint64_t magic = 0, layout = 0, size = 0, hash = 0;
  std::array<char, 16> id{};
};

/// Names and order of all fields: a frame of a build with others cannot be read and does not count as there.
std::uint64_t layout_of_records() {
  static const std::uint64_t layout = [] {
    std::string names = "3";
    RunOutcome outcome;
    for_each_record(outcome, [&](const char* kind, const auto& rows) {
      using Record = typename std::decay_t<decltype(rows)>::value_type;
      names += fmt::format("\n{}:", kind);
      for_each_field(Record::metrics, [&](const auto& m) { names += fmt::format("{} ", m.name); });
    });
    return XXH3_64bits(names.data(), names.size());
  }();
  return layout;
}

template <class Coder>
void code(Coder& c, std::string& text) {
  c.value(text);
}
template <class Coder>
void code(Coder& c, Digest128& digest) {
  c.value(digest.high);
  c.value(digest.low);
}
template <class Coder>
void code(Coder& c, HostFacts& h) {
  for_each_field(HostFacts::fields, [&](const auto& field) { c.value(h.*field.member); });
}
template <class Coder>
void code(Coder& c, Parameter& p) {
  for (std::string Parameter::*text : {&Parameter::name, &Parameter::text, &Parameter::unit, &Parameter::definition}) c.value(p.*text);
  c.value(p.swept);
}
template <class Coder>
void code(Coder& c, Summary& s) {
  for (std::string Summary::*text : {&Summary::name, &Summary::unit, &Summary::definition}) c.value(s.*text);
  c.value(s.claim);
  for (double Summary::*number : {&Summary::value, &Summary::numerator, &Summary::denominator, &Summary::model}) c.value(s.*number);
}
template <class Coder, class Record>
  requires requires { Record::metrics; }
void code(Coder& c, Record& record) {
  for_each_field(Record::metrics, [&](const auto& m) { c.value(record.*m.member); });
}

template <class Coder, class T>
void code_list(Coder& c, std::vector<T>& list) {
  list.resize(c.size(list.size()));
  for (T& item : list) code(c, item);
}

void code_facts(FrameEncoder& c, Facts& facts) {
  c.size(facts.list().size());
  for (Fact fact : facts.list()) {
    c.value(fact.name);
    c.value(static_cast<std::uint8_t>(fact.value.index()));
    if (auto* integer = std::get_if<std::int64_t>(&fact.value)) c.value(*integer);
    if (auto* real = std::get_if<double>(&fact.value)) c.value(*real);
    if (auto* text = std::get_if<std::string>(&fact.value)) c.value(*text);
    if (auto* texts = std::get_if<std::vector<std::string>>(&fact.value)) code_list(c, *texts);
  }
}

template <class T>
FactValue decode_fact(FrameDecoder& c) {
  T value{};
  if constexpr (std::is_same_v<T, std::vector<std::string>>)
    code_list(c, value);
  else
    c.value(value);
  return value;
}
void code_facts(FrameDecoder& c, Facts& facts) {
  for (std::size_t n = c.size(0); n > 0; --n) {
    std::string name;
    std::uint8_t kind = 0;
    c.value(name);
    c.value(kind);
    if (kind > 3) c.fail();
    FactValue (*const decoders[])(FrameDecoder&) = {decode_fact<std::int64_t>, decode_fact<double>, decode_fact<std::string>,
                                                    decode_fact<std::vector<std::string>>};
    facts.set(std::move(name), decoders[kind](c));
  }
}

/// Everything of a run that a file of its own would hold.
template <class Coder>
void code(Coder& c, RunFile& run) {
  c.value(run.status);
  c.value(run.point.id);
  c.value(run.point.label);
  c.value(run.point.repeat);
  c.value(run.point.attempts);
  code_facts(c, run.facts);
  code_facts(c, run.provenance);
  code_list(c, run.hosts);
  code_list(c, run.parameters);
  RunOutcome& out = run.outcome;
  for_each_record(out, [&](const char*, auto& rows) { code_list(c, rows); });
  code_list(c, out.summary);
  code_list(c, out.window_digests);
  code(c, out.digest);
  for (std::vector<std::string> RunOutcome::*texts : {&RunOutcome::labels, &RunOutcome::notes, &RunOutcome::violations}) code_list(c, out.*texts);
  c.value(out.wall_ns);
  c.value(out.completed);
}

/// Reads `size` bytes at `offset`; nothing where the file is shorter.
std::optional<std::string> read_bytes(std::ifstream& in, std::uint64_t offset, std::uint64_t size) {
  std::string bytes(size, '\0');
  in.clear();
  in.seekg(static_cast<std::streamoff>(offset));
  if (!in.read(bytes.data(), static_cast<std::streamsize>(size))) return std::nullopt;
  return bytes;
}

/// A header from `at` on whose frame fits into the file; nothing where there is none.
std::optional<std::uint64_t> next_frame(std::ifstream& in, std::uint64_t at, std::uint64_t file_bytes) {
  constexpr std::uint64_t window = 1U << 20;
  const std::string wanted(reinterpret_cast<const char*>(&magic), sizeof(magic));
  for (; at + sizeof(FrameHeader) <= file_bytes; at += window - sizeof(magic)) {
    const auto bytes = read_bytes(in, at, std::min(window, file_bytes - at));
    if (!bytes) return std::nullopt;
    for (std::size_t found = bytes->find(wanted); found != std::string::npos; found = bytes->find(wanted, found + 1)) {
      const auto head = read_bytes(in, at + found, sizeof(FrameHeader));
      FrameHeader header;
      if (head) std::memcpy(&header, head->data(), sizeof(header));
      if (head && header.size <= file_bytes - (at + found) - sizeof(header)) return at + found;
    }
    if (bytes->size() < window) break;
  }
  return std::nullopt;
}

/// Frames that are complete by their length, and where the last one ends. A damaged header costs its own frame only.
std::uint64_t scan(const std::string& path, std::vector<BundleEntry>& entries) {
  std::ifstream in(path, std::ios::binary);
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return 0;
  const auto file_bytes = static_cast<std::uint64_t>(status.st_size);
  std::uint64_t at = 0, end = 0, inside = 0;  // `inside`: after the latest header, whose size may be what is damaged
  while (at + sizeof(FrameHeader) <= file_bytes) {
    const auto bytes = read_bytes(in, at, sizeof(FrameHeader));
    FrameHeader header;
    if (bytes) std::memcpy(&header, bytes->data(), sizeof(header));
    if (header.magic != magic || header.size > file_bytes - at - sizeof(header)) {
      const auto next = next_frame(in, std::max(inside, std::uint64_t{1}), file_bytes);
      if (!next) break;
      at = *next;
      inside = at + 1;
      continue;
    }
    if (header.layout == layout_of_records())
      entries.push_back({std::string(header.id.data(), header.id.size()), {path, at + sizeof(header), header.size, header.hash}});
    inside = at + sizeof(header);
    at += sizeof(header) + header.size;
    end = at;
  }
  return end;
}

}  // namespace

BundleWriter::BundleWriter(const std::string& path) : path_(path) {
  std::vector<BundleEntry> complete;
  const std::uint64_t end = scan(path, complete);
  fd_ = FileDescriptor(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  if (!fd_) throw UserError(path, std::strerror(errno), "is the folder writable?");
  if (::ftruncate(fd_.get(), static_cast<off_t>(end)) != 0 || ::lseek(fd_.get(), 0, SEEK_END) < 0)
    throw SystemError(fmt::format("ftruncate({}): {}", path, std::strerror(errno)));
}

BundleWriter::~BundleWriter() {
  if (unsynced_ > 0) (void)::fsync(fd_.get());
}

void BundleWriter::append(const RunFile& run) {
  FrameEncoder encoder(sizeof(FrameHeader));
  code(encoder, const_cast<RunFile&>(run));
  const std::span<char> frame = encoder.bytes();
  const std::span<char> content = frame.subspan(sizeof(FrameHeader));
  FrameHeader header{magic, layout_of_records(), content.size(), XXH3_64bits(content.data(), content.size()), {}};
  std::copy_n(run.point.id.begin(), std::min(run.point.id.size(), header.id.size()), header.id.begin());
  std::memcpy(frame.data(), &header, sizeof(header));
  for (std::size_t done = 0; done < frame.size();) {
    const ssize_t n = ::write(fd_.get(), frame.data() + done, frame.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw SystemError(fmt::format("write({}): {}", path_, std::strerror(errno)));
    done += static_cast<std::size_t>(n);
  }
  if (++unsynced_ < runs_per_sync) {
    if (unsynced_ % runs_per_start == 0) (void)::sync_file_range(fd_.get(), 0, 0, SYNC_FILE_RANGE_WRITE);  // the disk works while the next point runs
    return;
  }
  if (::fsync(fd_.get()) != 0) throw SystemError(fmt::format("fsync({}): {}", path_, std::strerror(errno)));
  unsynced_ = 0;
}

std::vector<BundleEntry> index_bundle(const std::string& path) {
  std::vector<BundleEntry> entries;
  (void)scan(path, entries);
  return entries;
}

bool is_whole(const ResultPlace& place, std::string_view id) {
  if (place.size == 0) {
    try {
      return h5::File::open(place.path).dataset("point_id").read_texts(2) == std::vector<std::string>{std::string(id)};
    } catch (const std::exception&) {
      return false;
    }
  }
  std::ifstream in(place.path, std::ios::binary);
  const auto bytes = read_bytes(in, place.offset, place.size);
  return bytes && XXH3_64bits(bytes->data(), bytes->size()) == place.hash;
}

RunFile read_result(const ResultPlace& place) {
  if (place.size == 0) return read_run_file(place.path);
  std::ifstream in(place.path, std::ios::binary);
  auto bytes = read_bytes(in, place.offset, place.size);
  if (!bytes || XXH3_64bits(bytes->data(), bytes->size()) != place.hash)
    throw UserError(place.path, fmt::format("the frame at byte {} is damaged", place.offset), "moekv sweep --resume runs its point again");
  FrameDecoder decoder(std::move(*bytes), place.path);
  RunFile run;
  run.path = place.path;
  code(decoder, run);
  return run;
}

}  // namespace moekv
