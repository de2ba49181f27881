// Bundles: what is read is what was written, whatever a killed writer left at the end; damage is found.
#include "results/bundle.hpp"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "core/error.hpp"
#include "results/diff.hpp"
#include "results/json.hpp"
#include "results/sweep_folder.hpp"
#include "support/sample_run_file.hpp"
#include "support/temp_dir.hpp"

namespace {
int syncs = 0;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables): the function below has no object
}  // namespace

/// In place of the C library's: counts.
extern "C" int fsync(int file) {
  syncs += 1;
  return static_cast<int>(::syscall(SYS_fsync, file));
}

namespace moekv {
namespace {

RunFile run_named(const std::string& id) {
  static const RunFile sample = sample_run();
  RunFile run = sample;
  run.point = {id, "case of " + id, 2, 3};
  run.facts.set("a_list", std::vector<std::string>{"one", "two"});
  run.facts.set("a_real", 0.25);
  return run;
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

class Bundles : public ::testing::Test {
 protected:
  void write(const std::vector<std::string>& ids) {
    BundleWriter writer(path_);
    for (const std::string& id : ids) writer.append(run_named(id));
  }
  TempDir folder_;
  std::string path_ = folder_.file("0of1.bundle");
};

TEST_F(Bundles, ARunComesBackWhole) {
  write({"1111111111111111", "2222222222222222"});
  const auto entries = index_bundle(path_);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[1].id, "2222222222222222");
  const RunFile written = run_named("2222222222222222");
  RunFile read = read_result(entries[1].place);
  EXPECT_EQ(read.point.label, written.point.label);
  EXPECT_EQ(read.point.repeat, 2);
  EXPECT_EQ(read.point.attempts, 3);
  EXPECT_EQ(to_json(read, JsonRecords::yes), to_json(written, JsonRecords::yes));
  EXPECT_FALSE(diff_runs(read, written).different());
}

TEST_F(Bundles, ATornEndIsCutOffWhereverItIs) {
  write({"1111111111111111", "2222222222222222"});
  const std::string whole = bytes_of(path_);
  const std::size_t second = whole.size() / 2;
  for (std::size_t size = second; size < whole.size(); size += 1 + (whole.size() - second) / 40) {
    put(path_, whole.substr(0, size));
    ASSERT_EQ(index_bundle(path_).size(), 1U) << size;
    write({"3333333333333333"});
    const auto entries = index_bundle(path_);
    ASSERT_EQ(entries.size(), 2U) << size;
    EXPECT_EQ(entries[1].id, "3333333333333333");
    EXPECT_EQ(read_result(entries[1].place).point.id, "3333333333333333");
  }
}

TEST_F(Bundles, ADamagedHeaderCostsOneResult) {
  write({"1111111111111111", "2222222222222222", "3333333333333333"});
  const std::string whole = bytes_of(path_);
  constexpr std::size_t header = 48;
  const std::size_t second = index_bundle(path_).at(1).place.offset - header;
  for (const std::size_t at : {second, second + 16, second + 22}) {  // its mark, and two bytes of its size
    std::string bad = whole;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    put(path_, bad);
    write({"4444444444444444"});  // as a sweep that goes on
    std::vector<std::string> left;
    for (const BundleEntry& entry : index_bundle(path_)) {
      if (is_whole(entry.place, entry.id)) left.push_back(read_result(entry.place).point.id);
    }
    EXPECT_EQ(left, (std::vector<std::string>{"1111111111111111", "3333333333333333", "4444444444444444"})) << at;
  }
}

TEST_F(Bundles, CountersOfAnySizeComeBack) {
  RunFile run = run_named("1111111111111111");
  ASSERT_FALSE(run.outcome.steps.empty());
  std::vector<std::int64_t> numbers{0, std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min()};
  for (int bit = 0; bit < 63; ++bit) {
    const std::int64_t power = std::int64_t{1} << bit;
    numbers.insert(numbers.end(), {power, power - 1, -power, -power - 1});
  }
  run.outcome.steps.resize(numbers.size(), run.outcome.steps.front());
  for (std::size_t i = 0; i < numbers.size(); ++i) run.outcome.steps[i].n_req = numbers[i];
  BundleWriter(path_).append(run);
  const RunFile read = read_result(index_bundle(path_).at(0).place);
  ASSERT_EQ(read.outcome.steps.size(), numbers.size());
  for (std::size_t i = 0; i < numbers.size(); ++i) EXPECT_EQ(read.outcome.steps[i].n_req, numbers[i]);
}

TEST_F(Bundles, SixtyFourRunsShareASync) {
  const RunFile run = run_named("1111111111111111");
  const int before = syncs;
  {
    BundleWriter writer(path_);
    for (int i = 0; i < 63; ++i) writer.append(run);
    EXPECT_EQ(syncs - before, 0);
    for (int i = 63; i < 130; ++i) writer.append(run);
    EXPECT_EQ(syncs - before, 2);
  }
  EXPECT_EQ(syncs - before, 3);  // what was left
}

TEST_F(Bundles, AChangedByteIsDamage) {
  write({"1111111111111111"});
  const std::string whole = bytes_of(path_);
  const auto place = index_bundle(path_).at(0).place;
  for (std::size_t at = place.offset; at < whole.size(); at += 997) {
    std::string bad = whole;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    put(path_, bad);
    EXPECT_THROW((void)read_result(place), UserError) << at;
  }
}

TEST_F(Bundles, ADamagedFrameHidesNoWholeResult) {
  const std::string id = "1111111111111111", points = folder_.file("points");
  std::filesystem::create_directory(points);
  path_ = points + "/0of1.bundle";
  write({id});
  std::string bytes = bytes_of(path_);
  bytes.back() = static_cast<char>(bytes.back() ^ 0x10);
  const SweepFolder sweep(folder_.path());
  put(path_, bytes);
  EXPECT_FALSE(is_whole(sweep.results().at(id), id));
  write_run_file(points + "/" + id + ".h5", run_named("2222222222222222"));
  EXPECT_FALSE(is_whole(sweep.results().at(id), id));  // another point's
  write_run_file(points + "/" + id + ".h5", run_named(id));
  EXPECT_TRUE(is_whole(sweep.results().at(id), id));
  std::filesystem::remove(points + "/" + id + ".h5");
  path_ = points + "/0of2.bundle";
  write({id});
  EXPECT_TRUE(is_whole(sweep.results().at(id), id));
  std::filesystem::rename(points + "/0of1.bundle", points + "/1of2.bundle");
  EXPECT_TRUE(is_whole(sweep.results().at(id), id));
}

TEST_F(Bundles, LinesThatAreNoEventAreLeftOutOfTheJournal) {
  const std::string id = "1111111111111111", journal = folder_.file("journal");
  std::filesystem::create_directory(journal);
  put(journal + "/0of1.jsonl", R"({"time":"2026-01-01T00:00:00.000Z","id":"1111111111111111","event":"start","attempt":"two"})"
                               "\n"
                               R"({"time":"2026-01-01T00:00:01.000Z","id":"1111111111111111","event":"failed","attempt":1,"reason":"a reason"})"
                               "\n{\n");
  SweepList list;
  list.points.push_back({id, "", 0, {}, ""});
  const PointProgress progress = SweepFolder(folder_.path()).progress(list).at(0);
  EXPECT_EQ(progress.reason, "a reason");
  EXPECT_EQ(progress.attempts, 0);
}

TEST_F(Bundles, WhatIsNoBundleHasNoEntries) {
  put(path_, "hello, this is no bundle at all, but it is longer than the head of a frame is");
  EXPECT_TRUE(index_bundle(path_).empty());
  EXPECT_TRUE(index_bundle(folder_.file("absent.bundle")).empty());
}

}  // namespace
}  // namespace moekv
