// The local transport, the network model and the launcher detection: all that needs no second process.
#include <gtest/gtest.h>

#include <cstdlib>

#include "comm/model.hpp"
#include "comm/mpi_session.hpp"
#include "comm/transport.hpp"
#include "core/error.hpp"

namespace moekv {
namespace {

TEST(LocalTransport, SwapsItsTwoBuffers) {
  const auto t = make_local_transport();
  t->outbox(0).assign(10, std::byte{3});
  const std::byte* data = t->outbox(0).data();
  t->exchange();
  ASSERT_EQ(t->received(0).size(), 10u);
  EXPECT_EQ(t->received(0).data(), data);
  EXPECT_TRUE(t->outbox(0).empty());
  t->outbox(0).assign(4, std::byte{1});
  EXPECT_EQ(t->received(0)[9], std::byte{3});  // still valid while the outbox is refilled
  t->exchange();
  EXPECT_EQ(t->received(0).size(), 4u);
  EXPECT_GE(t->buffer_bytes(), 14);
}

TEST(LocalTransport, CollectivesOfOneProcess) {
  const auto t = make_local_transport();
  std::vector<std::int64_t> values = {4, -2};
  t->allreduce_sum(values);
  t->allreduce_max(values);
  EXPECT_EQ(values, (std::vector<std::int64_t>{4, -2}));
  const std::vector<std::byte> mine(3, std::byte{8});
  EXPECT_EQ(t->gather(mine), (std::vector<std::vector<std::byte>>{mine}));
}

TEST(MpiTransport, NeedsMpi) { EXPECT_THROW((void)make_mpi_transport(), SystemError); }

TEST(ClusterModel, AddsStartTimeAndTransferTimeRoundedUp) {
  ClusterModel model;
  model.ranks_per_node = 2;
  model.intra_node = {2.0, 100.0};
  model.inter_node = {5.0, 3.0};
  model.memory_bandwidth_gb_s = 4000.0;
  EXPECT_EQ(model.message_ns(Rank(0), Rank(0), 1000), 0);
  EXPECT_EQ(model.message_ns(Rank(0), Rank(1), 1000), 2010);  // 2000 + 1000 / 100
  EXPECT_EQ(model.message_ns(Rank(1), Rank(2), 1000), 5334);  // 5000 + 1000 / 3 = 5333.3
  EXPECT_EQ(model.message_ns(Rank(2), Rank(3), 0), 2000);
  EXPECT_EQ(model.memory_ns(4001), 2);
  EXPECT_EQ(model.memory_ns(0), 0);
  model.host_link = {10.0, 50.0};
  EXPECT_EQ(model.host_ns(1001), 10021);  // 10000 + 1001 / 50 = 10020.02
  EXPECT_EQ(model.host_ns(0), 0) << "no batch, no start";
}

/// Clears every launcher variable for the life of a test.
class LauncherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"})
      unsetenv(name);
  }
  void TearDown() override { SetUp(); }
};

TEST_F(LauncherTest, PlainProcessIsNotLaunched) { EXPECT_FALSE(MpiSession::launched_by_launcher()); }

TEST_F(LauncherTest, MpirunAndPmiAreLaunchers) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    setenv(name, "0", 1);
    EXPECT_TRUE(MpiSession::launched_by_launcher()) << name;
    unsetenv(name);
  }
}

TEST_F(LauncherTest, SlurmBatchShellIsNotAJobStep) {
  setenv("SLURM_PROCID", "0", 1);
  EXPECT_FALSE(MpiSession::launched_by_launcher());
  setenv("SLURM_STEP_ID", "0", 1);
  setenv("SLURM_STEP_NUM_TASKS", "1", 1);
  EXPECT_FALSE(MpiSession::launched_by_launcher());
  setenv("SLURM_STEP_NUM_TASKS", "4", 1);
  EXPECT_TRUE(MpiSession::launched_by_launcher());
}

TEST(MpiSession, NamesTheLibraryWithoutASession) {
  const std::string version = MpiSession::library_version();
  EXPECT_GT(version.size(), 5u);
  EXPECT_EQ(version.find('\0'), std::string::npos);
  EXPECT_EQ(version.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace moekv
