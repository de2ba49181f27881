// The transport through device memory, on an emulated device whose sends and receives are MPI's: sizes, contents, own bytes, and a peer that never
// answers.
#include "device_transport.hpp"

#include <gtest/gtest.h>
#include <mpi.h>

#include <string>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "support/emulated_device.hpp"

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
  MpiPeers(kernels::Device& device, bool& aborted) : device_(device), aborted_(aborted) {}
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
  void poll() override {}
  void abort() noexcept override { aborted_ = true; }

 private:
  struct Message {
    std::byte* memory;
    std::uint64_t bytes;
    int peer;
  };
  kernels::Device& device_;
  bool& aborted_;
  std::vector<Message> sends_, receives_;
  std::vector<MPI_Request> requests_;
};

class DeviceTransportTest : public ::testing::Test {
 protected:
  [[nodiscard]] std::unique_ptr<Transport> make(bool stuck = false) {
    auto device = std::make_unique<EmulatedDevice>();
    if (stuck) device->never_done();
    auto peers = std::make_unique<MpiPeers>(*device, aborted_);
    return std::make_unique<kernels::DeviceTransport>(*job_, std::move(device), std::move(peers), 0.2);
  }
  std::unique_ptr<Transport> job_ = launched() ? make_mpi_transport() : make_local_transport();
  bool aborted_ = false;
};

std::size_t message_size(int round, int from, int to) {
  const std::uint64_t h = hash_words(3, round, from, to);
  return h % 3 == 0 ? 0 : h % 5 == 0 ? 70000 + h % 1000 : h % 300;
}
std::byte content(int round, int from, int to, std::size_t i) { return static_cast<std::byte>(hash_words(4, round, from, to, i)); }

TEST_F(DeviceTransportTest, DeliversExactlyWhatWasSent) {
  const auto t = make();
  for (int round = 0; round < 8; ++round) {
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
  EXPECT_EQ(t->name(), "nccl");
}

TEST_F(DeviceTransportTest, OwnBytesChangeHands) {
  const auto t = make();
  t->outbox(t->process()).assign(1000, std::byte{5});
  const std::byte* data = t->outbox(t->process()).data();
  t->exchange();
  EXPECT_EQ(t->received(t->process()).data(), data);
}

TEST_F(DeviceTransportTest, AnExchangeThatNeverEndsIsAborted) {
  const auto t = make(true);
  const int next = (t->process() + 1) % t->n_processes();
  t->outbox(next).assign(10, std::byte{1});
  try {
    t->exchange();
    FAIL() << "the exchange ended";
  } catch (const SystemError& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("exchange 0 of process " + std::to_string(t->process())), std::string::npos) << text;
    if (next != t->process()) {
      EXPECT_NE(text.find(std::to_string(next)), std::string::npos) << text;
    }
  }
  EXPECT_TRUE(aborted_);
}

}  // namespace
}  // namespace moekv::test
