// The transport of a single process that hosts every logical rank: an exchange is a swap of two buffers.
#include "comm/host.hpp"
#include "comm/transport.hpp"

namespace moekv {
namespace {

class LocalTransport final : public Transport {
 public:
  std::string_view name() const override { return "local"; }
  int n_processes() const override { return 1; }
  int process() const override { return 0; }
  std::string host_name() const override { return moekv::host_name(); }

  std::vector<std::byte>& outbox(int /*p*/) override { return outbox_; }
  void exchange() override {
    inbox_.swap(outbox_);
    outbox_.clear();
  }
  std::span<const std::byte> received(int /*p*/) const override { return inbox_; }

  void allreduce_sum(std::span<std::int64_t> /*values*/) override {}
  void allreduce_max(std::span<std::int64_t> /*values*/) override {}
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) override { return {{mine.begin(), mine.end()}}; }
  void broadcast(std::vector<std::byte>& /*bytes*/) override {}
  void barrier() override {}
  std::int64_t buffer_bytes() const override { return static_cast<std::int64_t>(inbox_.capacity() + outbox_.capacity()); }

 private:
  std::vector<std::byte> outbox_, inbox_;
};

}  // namespace

std::unique_ptr<Transport> make_local_transport() { return std::make_unique<LocalTransport>(); }

}  // namespace moekv
