// A state counts when the parts of all processes are on the disk, and is taken when all of them are found in order.
#include "app/point_checkpoint.hpp"

#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "app/collective.hpp"

namespace moekv {
namespace {

CheckpointKey key_of(const RunSpec& spec, const TraceInfo& trace, const Transport& job) {
  return {hash_of_program(), hash_of_text(spec.resolved_yaml + "\n" + trace.digest), static_cast<std::uint32_t>(job.n_processes()),
          static_cast<std::uint32_t>(job.process())};
}

/// Words as process 0 has them.
std::vector<std::uint64_t> share_words(const std::vector<std::uint64_t>& mine, Transport& job) {
  const auto raw = std::as_bytes(std::span(mine));
  std::vector<std::byte> bytes(raw.begin(), raw.end());
  job.broadcast(bytes);
  std::vector<std::uint64_t> words(bytes.size() / sizeof(std::uint64_t));
  if (!words.empty()) std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

std::string share_text(const std::string& mine, Transport& job) {
  const auto raw = std::as_bytes(std::span(mine));
  std::vector<std::byte> bytes(raw.begin(), raw.end());
  job.broadcast(bytes);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

PointCheckpoint::PointCheckpoint(const std::string& base, const RunSpec& spec, const TraceInfo& trace, Transport& job)
    : base_(share_text(base, job)), spec_(spec), trace_(trace), job_(job) {
  const CheckpointManifest manifest = find_manifest();
  if (!manifest.hashes.empty()) {
    Failure mine;
    try {
      reader_.emplace(base_, key_of(spec_, trace_, job_), manifest);
    } catch (...) {
      mine = current_failure();
    }
    const Failure worst = worst_failure(job_, mine);
    if (worst.code == ExitCode::ok) {
      resumed_ = manifest.facts;
    } else {
      reader_.reset();
      ignored_ = worst.text;
    }
  }
  if (!ignored_.empty()) remove_checkpoint(base_);  // on process 0, which alone knows
}

CheckpointManifest PointCheckpoint::find_manifest() {
  CheckpointManifest found;
  if (job_.process() == 0) {
    try {
      found = read_checkpoint_manifest(base_);
    } catch (...) {
      ignored_ = current_failure().text;
    }
  }
  std::vector<std::uint64_t> words{found.facts.step, static_cast<std::uint64_t>(found.facts.wall_ns)};
  words.insert(words.end(), found.hashes.begin(), found.hashes.end());
  words = share_words(words, job_);
  return {{words.at(0), static_cast<std::int64_t>(words.at(1))}, {words.begin() + 2, words.end()}};
}

void PointCheckpoint::save(const StoppedRun& run) {
  reader_.reset();
  const CheckpointFacts facts{run.step, run.wall_ns};
  std::uint64_t hash = 0;
  Failure mine;
  try {
    hash = write_checkpoint_part(base_, key_of(spec_, trace_, job_), facts, run.save);
  } catch (...) {
    mine = current_failure();
  }
  CheckpointManifest manifest{facts, {}};
  for (const auto& part : job_.gather(std::as_bytes(std::span(&hash, 1)))) {
    std::memcpy(&hash, part.data(), sizeof(hash));
    manifest.hashes.push_back(hash);
  }
  Failure worst = worst_failure(job_, mine);
  if (job_.process() != 0) return;
  try {
    if (worst.code == ExitCode::ok) write_checkpoint_manifest(base_, manifest);
  } catch (...) {
    worst = current_failure();
  }
  problem_ = worst.text;
  if (worst.code == ExitCode::ok) saved_ = facts;
  remove_checkpoint(base_, saved_ ? saved_->step : resumed_ ? resumed_->step : no_step);
}

}  // namespace moekv
