// The list is JSON written aside and renamed; journals are lines of JSON, of which a torn last one is no event.
#include "results/sweep_folder.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/json_text.hpp"
#include "io/pending_file.hpp"

namespace moekv {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::string_view list_schema = "moekv-sweep-list/1";
constexpr std::array<std::string_view, 5> kind_names{"start", "ok", "failed", "interrupted", "retry"};

std::string utc_milliseconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const std::time_t seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  std::array<char, 32> text{};
  (void)std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &utc);
  return fmt::format("{}.{:03}Z", text.data(), std::chrono::duration_cast<std::chrono::milliseconds>(now).count() % 1000);
}

struct TimedEvent {
  std::string time;
  SweepEvent event;
  bool live = false;  // the journal's writer is alive
};

/// A lock on all of a file for as long as it is open; it works on network file systems, and asking for it does not take it.
struct flock whole_file() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

/// Whether a living process holds the journal.
bool is_locked(const std::string& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  struct flock lock = whole_file();
  return fd && ::fcntl(fd.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

void read_journal(const std::string& path, bool live, std::vector<TimedEvent>& events) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const Json json = Json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("id") || !json["id"].is_string() || !json.contains("event") || !json["event"].is_string()) continue;
    const auto kind = std::find(kind_names.begin(), kind_names.end(), json["event"].get<std::string>());
    if (kind == kind_names.end()) continue;
    try {
      SweepEvent event{json["id"].get<std::string>(),
                       static_cast<SweepEvent::Kind>(kind - kind_names.begin()),
                       json.value("attempt", std::int64_t{1}),
                       json.value("reason", ""),
                       json.value("seconds", 0.0),
                       json.value("resumed_step", std::int64_t{-1}),
                       json.value("saved_step", std::int64_t{-1})};
      events.push_back({json.value("time", ""), std::move(event), live});
    } catch (const Json::exception&) {  // a damaged line is no event
    }
  }
}

/// What an event does to the state of its point.
void advance(PointProgress& p, const TimedEvent& timed) {
  const SweepEvent& event = timed.event;
  const bool open = p.running || p.status == RunStatus::interrupted;
  using Kind = SweepEvent::Kind;
  if (event.kind == Kind::start) {
    if (open && p.reason.empty()) p.crashes += 1;  // the attempt before this one never ended
    p = {RunStatus::interrupted, timed.live, event.attempt, p.crashes, "", timed.time, 0};
    return;
  }
  p.running = false;
  p.seconds = event.seconds;
  p.reason = event.reason;
  if (event.saved_step >= 0) p.reason += fmt::format(", saved at step {}", event.saved_step);
  if (event.kind == Kind::ok) p.status = RunStatus::ok;
  if (event.kind == Kind::failed) p.status = RunStatus::failed;
  if (event.kind == Kind::interrupted) p.status = RunStatus::interrupted;
  if (event.kind == Kind::retry) p = {};
}

}  // namespace

FileDescriptor SweepFolder::lock() const {
  std::error_code ec;
  std::filesystem::create_directories(path_, ec);
  FileDescriptor folder(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder)
    throw UserError(path_, fmt::format("cannot be created: {}", ec ? ec.message() : std::strerror(errno)), "choose another folder with --out");
  (void)::flock(folder.get(), LOCK_EX);  // a file system without locks has none to respect
  return folder;
}

bool SweepFolder::has_list() const { return std::filesystem::exists(path_ + "/sweep.json"); }

SweepList SweepFolder::read_list() const {
  const std::string file = path_ + "/sweep.json";
  std::ifstream in(file);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("schema") || json["schema"] != list_schema)
    throw UserError(path_, "is not the folder of a sweep: it has no sweep.json of schema " + std::string(list_schema),
                    "moekv sweep SWEEP.yaml --out FOLDER makes one");
  try {
    SweepList list{json.at("name"), json.at("created"), json.at("sweep_path"), json.at("sweep_yaml"), json.at("swept"), {}};
    for (const Json& p : json.at("points")) {
      ListedPoint point{p.at("id"), p.at("label"), p.at("repeat"), {}, p.at("error")};
      for (const auto& [key, value] : p.at("settings").items()) point.settings.emplace_back(key, value.get<std::string>());
      list.points.push_back(std::move(point));
    }
    return list;
  } catch (const Json::exception& e) {
    throw UserError(file, fmt::format("is damaged: {}", e.what()), "remove it and go on with --resume: finished points are kept");
  }
}

void SweepFolder::write_list(const SweepList& list) const {
  std::error_code ec;
  for (const char* folder : {"/points", "/journal"}) std::filesystem::create_directories(path_ + folder, ec);
  if (ec) throw UserError(path_, fmt::format("cannot be created: {}", ec.message()), "choose another folder with --out");
  Json json{{"schema", list_schema},         {"name", list.name},  {"created", list.created}, {"sweep_path", list.sweep_path},
            {"sweep_yaml", list.sweep_yaml}, {"swept", list.swept}};
  json["points"] = Json::array();
  for (const ListedPoint& p : list.points) {
    Json settings = Json::object();
    for (const auto& [key, value] : p.settings) settings[key] = value;
    json["points"].push_back({{"id", p.id}, {"label", p.label}, {"repeat", p.repeat}, {"settings", std::move(settings)}, {"error", p.error}});
  }
  PendingFile pending(path_ + "/sweep.json", FileKind::other);
  {
    std::ofstream out(pending.temporary_path());
    out << json_text(json, 1) << '\n';
    if (!out.flush()) throw SystemError(pending.temporary_path() + ": cannot be written");
  }
  pending.commit();
}

std::map<std::string, ResultPlace> SweepFolder::results() const {
  std::map<std::string, ResultPlace> places;
  std::vector<std::string> bundles;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(path_ + "/points", ignored)) {
    if (entry.path().extension() == ".h5") places[entry.path().stem().string()] = {entry.path().string()};
    if (entry.path().extension() == ".bundle") bundles.push_back(entry.path().string());
  }
  std::sort(bundles.begin(), bundles.end());
  for (const std::string& bundle : bundles) {
    for (const BundleEntry& entry : index_bundle(bundle)) {
      const auto [it, added] = places.try_emplace(entry.id, entry.place);
      if (!added && (is_whole(entry.place, entry.id) || !is_whole(it->second, entry.id))) it->second = entry.place;  // the latest whole one
    }
  }
  return places;
}

std::vector<PointProgress> SweepFolder::progress(const SweepList& list, const std::string& own) const {
  std::vector<TimedEvent> events;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(journal_folder(), ignored)) {
    if (entry.path().extension() != ".jsonl") continue;
    read_journal(entry.path().string(), entry.path().stem() != own && is_locked(entry.path().string()), events);
  }
  std::stable_sort(events.begin(), events.end(), [](const TimedEvent& a, const TimedEvent& b) { return a.time < b.time; });
  std::map<std::string, PointProgress> by_id;
  for (const TimedEvent& event : events) advance(by_id[event.event.id], event);
  const std::map<std::string, ResultPlace> places = results();
  std::vector<PointProgress> out;
  for (const ListedPoint& point : list.points) {
    PointProgress p = by_id[point.id];
    const auto place = places.find(point.id);
    const bool finished = place != places.end() && is_whole(place->second, point.id);
    if (p.status == RunStatus::interrupted && !p.running && p.reason.empty() && !finished) p.crashes += 1;
    if (finished && p.status != RunStatus::failed) p.status = RunStatus::ok;
    if (!finished && p.status == RunStatus::ok) {
      p = {};
      p.reason = "its result is gone or damaged: --resume makes it again";
    }
    if (!point.error.empty()) p = {RunStatus::failed, false, 0, 0, point.error, "", 0};
    out.push_back(std::move(p));
  }
  return out;
}

SweepJournal::SweepJournal(const SweepFolder& folder, const std::string& part)
    : path_(folder.journal_folder() + "/" + part + ".jsonl"), fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
  if (!fd_) throw UserError(path_, std::strerror(errno), "is the folder writable?");
  struct flock lock = whole_file();
  if (::fcntl(fd_.get(), F_OFD_SETLK, &lock) != 0 && (errno == EAGAIN || errno == EACCES))  // a file system without locks has none to respect
    throw UserError(path_, fmt::format("another process works on part {}", part), "wait for it, or take another part with --part i/N");
  const off_t size = ::lseek(fd_.get(), 0, SEEK_END);
  char last = '\n';
  if (size > 0 && ::pread(fd_.get(), &last, 1, size - 1) == 1 && last != '\n' && ::write(fd_.get(), "\n", 1) != 1)  // ends a torn line
    throw UserError(path_, std::strerror(errno), "is there room on the disk?");
}

void SweepJournal::append(const SweepEvent& event) {
  Json json{
      {"time", utc_milliseconds()}, {"id", event.id}, {"event", kind_names.at(static_cast<std::size_t>(event.kind))}, {"attempt", event.attempt}};
  if (!event.reason.empty()) json["reason"] = event.reason;
  if (event.kind != SweepEvent::Kind::start) json["seconds"] = event.seconds;
  if (event.resumed_step >= 0) json["resumed_step"] = event.resumed_step;
  if (event.saved_step >= 0) json["saved_step"] = event.saved_step;
  const std::string line = json_text(json) + "\n";
  if (::write(fd_.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    throw SystemError(fmt::format("write({}): {}", path_, std::strerror(errno)));
}

}  // namespace moekv
