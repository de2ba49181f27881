// The folder of a sweep: its frozen list of points, a journal per process that works on them, a result file per finished point.
//
// sweep.json             the list; written once
// points/<id>.h5         one result file per finished point
// points/<part>.bundle   those of a part's short points together
// points/<id>.checkpoint, points/<id>.<step>.<process>.checkpoint   the state of an interrupted point
// journal/<part>.jsonl   one line per event, appended before and after each point; survives kill -9 of its writer
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "results/bundle.hpp"

namespace moekv {

struct ListedPoint {
  std::string id, label;
  std::int64_t repeat = 0;
  std::vector<std::pair<std::string, std::string>> settings;  // key and value as the sweep file gives them
  std::string error;                                          // why the combination makes no run; empty where it does
  friend bool operator==(const ListedPoint&, const ListedPoint&) = default;
};

struct SweepList {
  std::string name, created, sweep_path, sweep_yaml;
  std::vector<std::string> swept;
  std::vector<ListedPoint> points;
};

/// What has become of a point. `crashes` counts starts without an end since the last retry.
struct PointProgress {
  RunStatus status = RunStatus::pending;
  bool running = false;
  std::int64_t attempts = 0, crashes = 0;
  std::string reason, started;
  double seconds = 0;  // of the last attempt that ended
};

class SweepFolder {
 public:
  explicit SweepFolder(std::string path) : path_(std::move(path)) {}
  [[nodiscard]] const std::string& path() const { return path_; }
  /// Makes the folder where it is missing, and keeps others that ask for it waiting for as long as what is returned lives. UserError where it cannot
  /// be made.
  [[nodiscard]] FileDescriptor lock() const;
  [[nodiscard]] bool has_list() const;
  /// Throws UserError where it is no list.
  [[nodiscard]] SweepList read_list() const;
  /// Creates the folder where needed; the list appears complete or not at all.
  void write_list(const SweepList& list) const;
  [[nodiscard]] std::string result_path(const std::string& id) const { return path_ + "/points/" + id + ".h5"; }
  [[nodiscard]] std::string bundle_path(const std::string& part) const { return path_ + "/points/" + part + ".bundle"; }
  /// What the files of its checkpoint begin with.
  [[nodiscard]] std::string checkpoint_base(const std::string& id) const { return path_ + "/points/" + id; }
  /// Where the results of all finished points are, by id, whether they are whole or not.
  [[nodiscard]] std::map<std::string, ResultPlace> results() const;
  [[nodiscard]] std::string journal_folder() const { return path_ + "/journal"; }
  /// From all journals and result files, of which a damaged one is none; every point of the list has an entry, in its order. `own` is
  /// the part whose journal the caller holds: nothing of it is running.
  [[nodiscard]] std::vector<PointProgress> progress(const SweepList& list, const std::string& own = {}) const;

 private:
  std::string path_;
};

/// One line of a journal.
struct SweepEvent {
  enum class Kind : std::uint8_t { start, ok, failed, interrupted, retry };
  std::string id;
  Kind kind = Kind::start;
  std::int64_t attempt = 1;
  std::string reason;
  double seconds = 0;
  std::int64_t resumed_step = -1, saved_step = -1;  // where the attempt began and where its state was saved; -1: at the beginning, not at all
};

/// Appends events; holds a lock for as long as it lives, so that nobody works on the same part twice.
class SweepJournal {
 public:
  /// Throws UserError where a living process has the journal of `part` ("0of4").
  SweepJournal(const SweepFolder& folder, const std::string& part);
  void append(const SweepEvent& event);

 private:
  std::string path_;
  FileDescriptor fd_;
};

}  // namespace moekv
