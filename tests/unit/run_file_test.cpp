// Result files: what is written is read back, the layout that other readers rely on, safe replacement, and damaged files.
#include "results/run_file.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "io/hdf5.hpp"
#include "results/diff.hpp"
#include "results/record_table.hpp"
#include "support/sample_run_file.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "no UserError";
}

class RunFileTest : public ::testing::Test {
 protected:
  TempDir dir;
  std::string path = dir.file("run.h5");
};

TEST_F(RunFileTest, ReadsBackWhatWasWritten) {
  const RunFile written = sample_run();
  write_run_file(path, written);
  const RunFile read = read_run_file(path);
  EXPECT_EQ(read.missing, std::vector<std::string>{});
  EXPECT_EQ(read.status, RunStatus::ok);
  EXPECT_EQ(read.facts.text("config_yaml"), "name: sample\n");
  EXPECT_EQ(read.facts.text("config_resolved_yaml"), sample_spec().resolved_yaml);
  EXPECT_EQ(read.facts.integer("seed", -1), 1);
  EXPECT_EQ(read.provenance.text("argv"), "moekv run sample.yaml");
  EXPECT_EQ(read.provenance.text("trace_digest"), "abc");
  EXPECT_FALSE(read.provenance.text("hdf5_version").empty());
  ASSERT_EQ(read.hosts.size(), 1u);
  EXPECT_EQ(read.hosts[0].cpu_model, written.hosts[0].cpu_model);
  EXPECT_GT(read.hosts[0].memory_bytes, 0);
  EXPECT_EQ(read.outcome.digest, written.outcome.digest);
  EXPECT_EQ(read.outcome.window_digests, written.outcome.window_digests);
  EXPECT_EQ(read.outcome.labels, written.outcome.labels);
  EXPECT_EQ(read.outcome.notes, written.outcome.notes);
  EXPECT_EQ(read.outcome.wall_ns, 40000);
  const RunDifference difference = diff_runs(written, read);
  EXPECT_FALSE(difference.different()) << format_difference(difference, written, read);
  EXPECT_TRUE(difference.measured.empty());
  ASSERT_EQ(read.outcome.summary.size(), written.outcome.summary.size());
  EXPECT_EQ(read.outcome.summary[5].definition, written.outcome.summary[5].definition);
  EXPECT_EQ(read.outcome.summary[5].model, 12.5);
  EXPECT_TRUE(std::isnan(read.outcome.summary[6].model));
  for_each_record(written.outcome, [&](std::string_view name, const auto& rows) {
    for_each_record(read.outcome, [&](std::string_view other, const auto& again) {
      if constexpr (std::is_same_v<decltype(rows), decltype(again)>) {
        if (name != other) return;
        ASSERT_EQ(rows.size(), again.size()) << name;
        for (std::size_t i = 0; i < rows.size(); ++i) {
          for_each_field(std::decay_t<decltype(rows)>::value_type::metrics,
                         [&](const auto& m) { EXPECT_EQ(rows[i].*m.member, again[i].*m.member) << name << " " << m.name; });
        }
      }
    });
  });
}

TEST_F(RunFileTest, ParametersKeepTheirTypes) {
  write_run_file(path, sample_run());
  const RunFile read = read_run_file(path);
  EXPECT_EQ(read.parameter("eviction.policy"), "lru");
  EXPECT_EQ(read.parameter("cluster.ranks"), "2");
  EXPECT_EQ(read.parameter("eviction.access_mass"), "0.0001");
  EXPECT_EQ(read.parameter("placement.fold"), "true");
  EXPECT_EQ(read.parameter("trace.path"), "grüße?.h5");
  const auto file = h5::File::open(path);
  EXPECT_EQ(file.dataset("param/cluster.ranks").type(), h5::Type::i64);
  EXPECT_EQ(file.dataset("param/eviction.access_mass").type(), h5::Type::f64);
  EXPECT_EQ(file.dataset("param/placement.fold").type(), h5::Type::u8);
  EXPECT_EQ(file.dataset("param/placement.fold").text("flag_meanings"), "false true");
}

TEST_F(RunFileTest, EveryColumnAndMetricSaysWhatItIs) {
  write_run_file(path, sample_run());
  const auto file = h5::File::open(path);
  EXPECT_EQ(file.text("schema"), "moekv-sweep/1");
  EXPECT_EQ(file.number<int>("n_points"), 1);
  int checked = 0;
  const auto check = [&](const h5::Group& group) {
    for (const std::string& name : group.names()) {
      if (name == "row") continue;
      const auto dataset = group.dataset(name);
      for (const char* attribute : {"units", "definition", "window", "scope", "claim_class"})
        EXPECT_FALSE(dataset.text(attribute).empty()) << dataset.name();
      EXPECT_GE(dataset.number<int>("version"), 1);
      EXPECT_EQ(dataset.dims().size(), 1u);
      ++checked;
    }
  };
  check(file.group("metric"));
  for (const std::string& kind : file.group("record").names()) check(file.group("record/" + kind));
  EXPECT_GT(checked, 250);
  EXPECT_EQ(file.dataset("record/step/t_attend").text("claim_class"), "measured");
  EXPECT_EQ(file.dataset("record/step/t_network_model").text("claim_class"), "modelled");
  EXPECT_EQ(file.dataset("record/step/t_attend").text("units"), "ns");
  EXPECT_DOUBLE_EQ(file.dataset("metric/hit_ratio").read<double>().at(0), 0.75);
  EXPECT_DOUBLE_EQ(file.dataset("metric_numerator/hit_ratio").read<double>().at(0), 150);
}

TEST_F(RunFileTest, RunsWithoutRowsAreFilesToo) {
  RunOutcome outcome;
  const auto transport = make_local_transport();
  write_run_file(path, sample_spec(), outcome, collect_provenance({"moekv"}, *transport));
  const RunFile read = read_run_file(path);
  EXPECT_EQ(read.status, RunStatus::interrupted);
  EXPECT_FALSE(read.outcome.completed);
  EXPECT_EQ(read.facts.text("status"), "partial");
  EXPECT_TRUE(read.outcome.steps.empty());
}

TEST_F(RunFileTest, ViolationsMakeAFailedRun) {
  RunFile run = sample_run();
  run.outcome.violations = {"law one", "law two"};
  run = make_run_file(sample_spec(), run.outcome, {});
  write_run_file(path, run);
  EXPECT_EQ(read_run_file(path).status, RunStatus::failed);
  EXPECT_EQ(read_run_file(path).outcome.violations, run.outcome.violations);
  EXPECT_TRUE(read_run_file(path).outcome.completed);
}

TEST_F(RunFileTest, ExistingFilesAreKeptUnlessToldOtherwise) {
  EXPECT_NO_THROW(require_writable(path, Existing::refuse));
  EXPECT_TRUE(std::filesystem::is_empty(dir.file("")));
  (void)h5::File::create(path);
  const auto size = std::filesystem::file_size(path);
  EXPECT_THAT(message_of([&] { require_writable(path, Existing::refuse); }), HasSubstr("another name with --out"));
  EXPECT_NO_THROW(require_writable(path, Existing::replace));
  EXPECT_EQ(std::filesystem::file_size(path), size);
  std::ofstream(path, std::ios::trunc) << "precious";
  EXPECT_THAT(message_of([&] { require_writable(path, Existing::replace); }), HasSubstr("exists and is no HDF5 file"));
  EXPECT_THAT(message_of([&] { require_writable(dir.file("nowhere/run.h5"), Existing::replace); }), HasSubstr("does not exist"));
}

TEST_F(RunFileTest, CleansUpAfterKilledWritersOnly) {
  const std::string dead = path + ".999999999.0.tmp", living = fmt::format("{}.{}.7.tmp", path, ::getpid()),
                    foreign = dir.file("other.h5.999999999.0.tmp");
  for (const std::string& name : {dead, living, foreign}) std::ofstream(name) << "half";
  require_writable(path, Existing::refuse);
  EXPECT_FALSE(std::filesystem::exists(dead));
  EXPECT_TRUE(std::filesystem::exists(living));
  EXPECT_TRUE(std::filesystem::exists(foreign));
}

TEST_F(RunFileTest, LeavesNoTemporaryFile) {
  write_run_file(path, sample_run());
  write_run_file(path, sample_run());
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir.file(""))) names.push_back(entry.path().filename().string());
  EXPECT_EQ(names, std::vector<std::string>{"run.h5"});
}

TEST_F(RunFileTest, RefusesWhatIsNoRun) {
  EXPECT_THAT(message_of([&] { (void)read_run_file(dir.file("none.h5")); }), HasSubstr("does not exist"));
  std::ofstream(path) << "not HDF5 at all";
  EXPECT_THAT(message_of([&] { (void)read_run_file(path); }), HasSubstr(path));
  {
    auto file = h5::File::create(path);
    file.set("schema", "moekv-trace/1");
    file.close();
  }
  EXPECT_THAT(message_of([&] { (void)read_run_file(path); }), HasSubstr("is not a result file"));
}

TEST_F(RunFileTest, RefusesDamagedColumns) {
  const auto damaged = [&](auto change) {
    write_run_file(path, sample_run());
    auto file = h5::File::open(path, h5::Access::update);
    change(file);
    file.close();
    return message_of([&] { (void)read_run_file(path); });
  };
  EXPECT_THAT(damaged([](h5::File& f) {
                f.remove("record/step/n_req");
                f.write("record/step/n_req", std::vector<std::int64_t>{1, 2, 3});
              }),
              HasSubstr("/record/step/n_req"));
  EXPECT_THAT(damaged([](h5::File& f) {
                f.remove("digest");
                f.write("digest", std::vector<std::string>{"xyz"});
              }),
              HasSubstr("no digest"));
  EXPECT_THAT(damaged([](h5::File& f) {
                f.remove("status");
                f.write("status", std::vector<std::uint8_t>{9});
              }),
              HasSubstr("no status"));
  EXPECT_THAT(damaged([](h5::File& f) {
                f.remove("record/step/row");
                f.create_dataset("record/step/row", h5::Type::i32, {std::uint64_t{1} << 40}, {.chunk = {1024}});
              }),
              HasSubstr("2 GiB"));
  EXPECT_THAT(damaged([](h5::File& f) { f.remove("metric"); }), Not(HasSubstr("no UserError")));
}

TEST_F(RunFileTest, TruncatedFilesAreRefused) {
  write_run_file(path, sample_run());
  const auto size = std::filesystem::file_size(path);
  for (const double part : {0.1, 0.5, 0.9, 0.999}) {
    write_run_file(path, sample_run());
    std::filesystem::resize_file(path, static_cast<std::uintmax_t>(static_cast<double>(size) * part));
    EXPECT_THAT(message_of([&] { (void)read_run_file(path); }), HasSubstr(path)) << part;
  }
}

TEST_F(RunFileTest, ChangedBytesAreReadOrRefusedButNeverCrash) {
  write_run_file(path, sample_run());
  std::ifstream in(path, std::ios::binary);
  const std::string sound{std::istreambuf_iterator<char>(in), {}};
  const std::size_t texts = sound.find("GCOL");  // where HDF5 keeps texts, and checks nothing
  ASSERT_NE(texts, std::string::npos);
  std::size_t refused = 0;
  for (std::size_t i = 0; i < 100; ++i) {
    std::string bad = sound;
    const std::size_t at = i < 80 ? texts + hash_words(3, i) % 4096 : hash_words(4, i) % bad.size();
    bad[std::min(at, bad.size() - 1)] = static_cast<char>(hash_words(5, i));
    std::ofstream(dir.file("bad.h5"), std::ios::binary | std::ios::trunc) << bad;
    try {
      (void)read_run_file(dir.file("bad.h5"));
    } catch (const UserError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 5U);
}

TEST_F(RunFileTest, OlderFilesWithoutAColumnSayWhatIsMissing) {
  write_run_file(path, sample_run());
  {
    auto file = h5::File::open(path, h5::Access::update);
    file.remove("record/step/overcommit");
    file.close();
  }
  EXPECT_EQ(read_run_file(path).missing, std::vector<std::string>{"step/overcommit"});
}

TEST(Environment, KeepsWhatShapesARunAndNoSecrets) {
  const char* const variables[] = {
      "OMP_NUM_THREADS=2",      "HOME=/root",        "SLURM_JOB_ID=7", "SLURM_JWT=abc", "OMPI_MCA_orte_precondition_transports=1",
      "CUDA_VISIBLE_DEVICES=0", "NCCL_AUTH_TOKEN=x", nullptr};
  EXPECT_EQ(run_environment(variables), (std::vector<std::string>{"CUDA_VISIBLE_DEVICES=0", "OMP_NUM_THREADS=2", "SLURM_JOB_ID=7"}));
}

TEST(ValidUtf8, ReplacesWhatIsNot) {
  EXPECT_EQ(valid_utf8("grüße 専 😀"), "grüße 専 😀");
  EXPECT_EQ(valid_utf8(std::string("a\0b", 3)), "a?b");
  EXPECT_EQ(valid_utf8("\xc3"), "?");
  EXPECT_EQ(valid_utf8("\xc3(\x80\xff"), "?(??");
}

}  // namespace
}  // namespace moekv
