// The transports through device memory, on an emulated device whose sends and receives are MPI's and whose memory others map: sizes, contents, own
// bytes, a peer that never answers, memory that cannot be mapped, and whole replays.
#include "device_transport.hpp"

#include <gtest/gtest.h>
#include <mpi.h>

#include <string>

#include "comm/host.hpp"
#include "core/error.hpp"
#include "core/rng.hpp"
#include "device/profile.hpp"
#include "ipc_transport.hpp"
#include "support/emulated_device.hpp"
#include "support/emulated_sharing.hpp"
#include "support/replay_fixture.hpp"

namespace moekv::test {
namespace {

bool launched() {
  int initialised = 0;
  MPI_Initialized(&initialised);
  return initialised != 0;
}

/// A group is exchanged at its end, when everything before it is done.
class MpiPeers final : public kernels::Peers {
 public:
  MpiPeers(EmulatedDevice& device, bool& aborted, const bool& fails) : device_(device), aborted_(aborted), fails_(fails) {}
  ~MpiPeers() override { device_.aborted(); }
  MpiPeers(const MpiPeers&) = delete;
  MpiPeers& operator=(const MpiPeers&) = delete;
  void start_group() override { requests_.clear(); }
  void send(const std::byte* memory, std::uint64_t bytes, int peer) override { sends_.push_back({const_cast<std::byte*>(memory), bytes, peer}); }
  void receive(std::byte* memory, std::uint64_t bytes, int peer) override { receives_.push_back({memory, bytes, peer}); }
  void end_group() override {
    device_.synchronize();
    for (const Message& m : receives_)
      MPI_Irecv(m.memory, static_cast<int>(m.bytes), MPI_BYTE, m.peer, 77, MPI_COMM_WORLD, &requests_.emplace_back());
    for (const Message& m : sends_) MPI_Isend(m.memory, static_cast<int>(m.bytes), MPI_BYTE, m.peer, 77, MPI_COMM_WORLD, &requests_.emplace_back());
    MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE);
    receives_.clear();
    sends_.clear();
  }
  void poll() override {
    if (fails_) throw SystemError("a link is down");
  }
  void abort() noexcept override {
    aborted_ = true;
    device_.aborted();
  }

 private:
  struct Message {
    std::byte* memory;
    std::uint64_t bytes;
    int peer;
  };
  EmulatedDevice& device_;
  bool& aborted_;
  const bool& fails_;
  std::vector<Message> sends_, receives_;
  std::vector<MPI_Request> requests_;
};

class DeviceTransportTest : public ::testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] std::unique_ptr<Transport> make(bool stuck = false) {
    auto device = std::make_unique<EmulatedDevice>();
    if (stuck) device->never_done();
    if (GetParam() == "ipc") return make_ipc(std::move(device));
    auto peers = std::make_unique<MpiPeers>(*device, aborted_, fails_);
    return std::make_unique<kernels::DeviceTransport>(*job_, std::move(device), std::move(peers), 0.2,
                                                      GetParam() == "own" ? OwnBytes::through_device : OwnBytes::handed_over);
  }
  [[nodiscard]] std::unique_ptr<kernels::IpcTransport> make_ipc(std::unique_ptr<EmulatedDevice> device = std::make_unique<EmulatedDevice>()) {
    auto memory = std::make_unique<EmulatedSharing>(*device, shared_);
    return std::make_unique<kernels::IpcTransport>(*job_, std::move(device), std::move(memory));
  }
  std::unique_ptr<Transport> job_ = launched() ? make_mpi_transport() : make_local_transport();
  EmulatedSharing::Record shared_;
  bool aborted_ = false, fails_ = false;
};

std::size_t message_size(int round, int from, int to) {
  const std::uint64_t h = hash_words(3, round, from, to);
  return h % 3 == 0 ? 0 : h % 5 == 0 ? 70000 + h % 1000 : h % 300;
}
std::byte content(int round, int from, int to, std::size_t i) { return static_cast<std::byte>(hash_words(4, round, from, to, i)); }

TEST_P(DeviceTransportTest, DeliversExactlyWhatWasSent) {
  const auto t = make();
  for (int round = 0; round < 12; ++round) {
    for (int p = 0; p < t->n_processes(); ++p) {
      const std::size_t n = message_size(round, t->process(), p);
      for (std::size_t i = 0; i < n; ++i) t->outbox(p).push_back(content(round, t->process(), p, i));
    }
    t->exchange();
    for (int p = 0; p < t->n_processes(); ++p) {
      const auto got = t->received(p);
      ASSERT_EQ(got.size(), message_size(round, p, t->process())) << round << " from " << p;
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < got.size(); ++i) wrong += got[i] != content(round, p, t->process(), i) ? 1 : 0;
      EXPECT_EQ(wrong, 0U) << round << " from " << p;
      EXPECT_TRUE(t->outbox(p).empty());
    }
  }
  EXPECT_GT(t->buffer_bytes(), 0);
  EXPECT_EQ(t->name(), GetParam() == "own" ? "nccl" : GetParam());
}

TEST_P(DeviceTransportTest, OwnBytesChangeHands) {
  const auto t = make();
  t->outbox(t->process()).assign(1000, std::byte{5});
  const std::byte* data = t->outbox(t->process()).data();
  t->exchange();
  EXPECT_EQ(t->received(t->process()).data() == data, GetParam() != "own");
}

TEST_P(DeviceTransportTest, AReplayDecidesAsOneProcessDoes) {
  RunSpec spec = testing::small_spec(testing::gqa_model(1));
  spec.page.slots = 4;
  testing::use_expert_layout(spec);
  spec.eviction.rule = evict::Lru{};
  spec.eviction.budget = {BudgetKind::fraction, 0, 1, 2};
  const auto run = [&](Transport& transport) {
    testing::RandomTrace trace(spec.model, testing::requests_of({{22, 6}, {9, 5}}), 11);
    const auto backend = make_emulated_backend();
    return testing::run_replay(spec, transport, *backend, trace);
  };
  const auto t = make();
  const RunOutcome together = run(*t);
  if (t->process() != 0) return;
  const auto local = make_local_transport();
  const RunOutcome alone = run(*local);
  EXPECT_EQ(to_hex(together.digest), to_hex(alone.digest));
  EXPECT_TRUE(together.violations.empty());
  EXPECT_GT(testing::totals(alone).evictions, 0);
  ASSERT_EQ(together.traffic.size(), alone.traffic.size());
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < alone.traffic.size(); ++i) {
    EXPECT_EQ(together.traffic[i].kv, alone.traffic[i].kv);
    EXPECT_EQ(together.traffic[i].partial, alone.traffic[i].partial);
    bytes += alone.traffic[i].kv;
  }
  EXPECT_GT(bytes, 0);
  ASSERT_EQ(together.probes.size(), alone.probes.size());
  for (std::size_t i = 0; i < alone.probes.size(); ++i) ASSERT_EQ(together.probes[i].attn_out_err, alone.probes[i].attn_out_err);
}

INSTANTIATE_TEST_SUITE_P(Transports, DeviceTransportTest, ::testing::Values("nccl", "own", "ipc"), [](const auto& param) { return param.param; });

class WatchdogTest : public DeviceTransportTest {};
INSTANTIATE_TEST_SUITE_P(Transports, WatchdogTest, ::testing::Values("nccl"), [](const auto& param) { return param.param; });

TEST_P(WatchdogTest, AnExchangeThatNeverEndsIsAborted) {
  const auto t = make(true);
  const PhaseRange phase("combine");
  const int next = (t->process() + 1) % t->n_processes();
  t->outbox(next).assign(10, std::byte{1});
  try {
    t->exchange();
    FAIL() << "the exchange ended";
  } catch (const SystemError& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("exchange 0 (phase combine) of process " + std::to_string(t->process())), std::string::npos) << text;
    if (next != t->process()) {
      EXPECT_NE(text.find(std::to_string(next)), std::string::npos) << text;
    }
  }
  EXPECT_TRUE(aborted_);
}

TEST_P(WatchdogTest, AnExchangeThatFailsEndsBeforeItsMemory) {
  auto t = make(true);
  fails_ = true;
  t->outbox((t->process() + 1) % t->n_processes()).assign(10, std::byte{1});
  EXPECT_THROW(t->exchange(), SystemError);
  t = nullptr;  // does not wait for work that never ends
}

class IpcTransportTest : public DeviceTransportTest {};
INSTANTIATE_TEST_SUITE_P(Transports, IpcTransportTest, ::testing::Values("ipc"), [](const auto& param) { return param.param; });

TEST_P(IpcTransportTest, MapsAnArenaOnceAndAgainWhereItHasGrown) {
  auto t = make_ipc();
  const auto exchange = [&](std::size_t bytes) {
    for (int p = 0; p < t->n_processes(); ++p) t->outbox(p).assign(bytes, std::byte{7});
    t->exchange();
    for (int p = 0; p < t->n_processes(); ++p) ASSERT_EQ(t->received(p).size(), bytes);
  };
  const int peers = t->n_processes() - 1, arenas = peers > 0 ? 2 : 0;
  exchange(0);
  EXPECT_EQ(shared_.made, 0);
  for (int round = 0; round < 10; ++round) exchange(100);
  EXPECT_EQ(shared_.made, arenas);
  EXPECT_EQ(shared_.opened, 2 * peers);
  EXPECT_EQ(shared_.closed, 0);
  for (int round = 0; round < 6; ++round) exchange(3 << 20);
  EXPECT_EQ(shared_.made, 2 * arenas);
  EXPECT_EQ(shared_.opened, 4 * peers);
  EXPECT_EQ(shared_.closed, 2 * peers);
  EXPECT_EQ(shared_.released, arenas) << "memory that grew goes while the transport lives";
  t = nullptr;
  EXPECT_EQ(shared_.closed, shared_.opened);
  EXPECT_EQ(shared_.released, shared_.made);
  EXPECT_EQ(shared_.released_while_mapped, 0);
}

TEST_P(IpcTransportTest, IsTriedBeforeItIsUsed) {
  auto good = kernels::tried(*job_, make_ipc());
  EXPECT_EQ(good->name(), "ipc");
  good = nullptr;
  if (job_->n_processes() == 1) return;
  shared_.refuses = job_->process() == 1;
  try {
    (void)kernels::tried(*job_, make_ipc());
    FAIL() << "memory cannot be mapped";
  } catch (const UserError& e) {  // of every process
    const std::string text = e.what();
    EXPECT_NE(text.find("process 1 cannot map device memory of another: refused"), std::string::npos) << text;
    EXPECT_NE(text.find("transport: mpi"), std::string::npos) << text;
  }
  EXPECT_EQ(shared_.released, shared_.made);
}

TEST_P(IpcTransportTest, RefusesSeveralNodes) {
  const LocalProcess before = local_process();
  set_local_process({job_->process(), job_->n_processes()});
  kernels::require_one_node(*job_);
  set_local_process({0, 1});  // each process on a host of its own
  if (job_->n_processes() == 1) {
    kernels::require_one_node(*job_);
  } else {
    EXPECT_THROW(kernels::require_one_node(*job_), UserError);
  }
  set_local_process(before);
}

}  // namespace
}  // namespace moekv::test
