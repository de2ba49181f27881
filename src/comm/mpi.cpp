// The MPI transport: an all-to-all of byte counts, then the bytes go from each outbox straight into the peer's receive buffer, so nothing is
// packed, no displacement overflows, and two peers need not agree with anybody else on how a large message is cut.
#include <algorithm>
#include <climits>
#include <exception>

#include "comm/check.hpp"
#include "comm/transport.hpp"

namespace moekv {
namespace {

constexpr int exchange_tag = 1, gather_tag = 2;

/// A receive buffer that grows without clearing or keeping its content.
class ReceiveBuffer {
 public:
  void resize(std::size_t size) {
    if (size > capacity_) {
      capacity_ = std::max(size, capacity_ + capacity_ / 2);
      data_ = std::make_unique_for_overwrite<std::byte[]>(capacity_);
    }
    size_ = size;
  }
  [[nodiscard]] std::span<std::byte> bytes() const { return {data_.get(), size_}; }
  [[nodiscard]] std::size_t capacity() const { return capacity_; }

 private:
  std::unique_ptr<std::byte[]> data_;
  std::size_t size_ = 0, capacity_ = 0;
};

/// Calls f(pointer, int count) for pieces of at most `most` elements, in order. Both ends of a message cut it alike.
template <class T, class F>
void for_each_piece(std::span<T> all, std::size_t most, F&& f) {
  for (std::size_t begin = 0; begin < all.size(); begin += most) f(all.data() + begin, static_cast<int>(std::min(most, all.size() - begin)));
}

class MpiTransport final : public Transport {
 public:
  explicit MpiTransport(std::size_t piece_bytes) : piece_bytes_(std::clamp<std::size_t>(piece_bytes, 1, INT_MAX)) {
    int initialised = 0;
    MPI_Initialized(&initialised);
    if (initialised == 0) throw SystemError("MPI transport: MPI is not initialised (start the program with mpirun or srun)");
    mpi::check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_));
    mpi::check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
    mpi::check(MPI_Comm_rank(comm_, &process_));
    mpi::check(MPI_Comm_size(comm_, &n_processes_));
    const auto n = static_cast<std::size_t>(n_processes_);
    outboxes_.resize(n);
    inboxes_.resize(n);
    sent_bytes_.resize(n);
    received_bytes_.resize(n);
    requests_.reserve(2 * n);
  }
  ~MpiTransport() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0 && std::uncaught_exceptions() == exceptions_at_start_) MPI_Comm_free(&comm_);  // collective: not while unwinding
  }
  MpiTransport(const MpiTransport&) = delete;
  MpiTransport& operator=(const MpiTransport&) = delete;

  std::string_view name() const override { return "mpi"; }
  int n_processes() const override { return n_processes_; }
  int process() const override { return process_; }
  std::string host_name() const override { return moekv::host_name(); }

  std::vector<std::byte>& outbox(int p) override { return outboxes_[index(p)]; }
  std::span<const std::byte> received(int p) const override {
    return p == process_ ? std::span<const std::byte>(own_inbox_) : inboxes_[index(p)].bytes();
  }

  void exchange() override {
    own_inbox_.swap(outboxes_[index(process_)]);
    outboxes_[index(process_)].clear();
    for (std::size_t p = 0; p < outboxes_.size(); ++p) sent_bytes_[p] = static_cast<std::int64_t>(outboxes_[p].size());
    mpi::check(MPI_Alltoall(sent_bytes_.data(), 1, MPI_INT64_T, received_bytes_.data(), 1, MPI_INT64_T, comm_));
    requests_.clear();
    for (int step = 1; step < n_processes_; ++step) post_receives((process_ - step + n_processes_) % n_processes_);
    for (int step = 1; step < n_processes_; ++step) post_sends((process_ + step) % n_processes_);
    mpi::check(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE));
    for (auto& box : outboxes_) box.clear();
  }

  void allreduce_sum(std::span<std::int64_t> values) override { allreduce(values, MPI_SUM); }
  void allreduce_max(std::span<std::int64_t> values) override { allreduce(values, MPI_MAX); }

  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) override {
    const auto size = static_cast<std::int64_t>(mine.size());
    mpi::check(MPI_Gather(&size, 1, MPI_INT64_T, received_bytes_.data(), 1, MPI_INT64_T, 0, comm_));
    if (process_ != 0) {
      for_each_piece(mine, piece_bytes_,
                     [&](const std::byte* data, int count) { mpi::check(MPI_Send(data, count, MPI_BYTE, 0, gather_tag, comm_)); });
      return {};
    }
    std::vector<std::vector<std::byte>> all(outboxes_.size());
    all[0].assign(mine.begin(), mine.end());
    for (int p = 1; p < n_processes_; ++p) {
      all[index(p)].resize(static_cast<std::size_t>(received_bytes_[index(p)]));
      for_each_piece(std::span(all[index(p)]), piece_bytes_,
                     [&](std::byte* data, int count) { mpi::check(MPI_Recv(data, count, MPI_BYTE, p, gather_tag, comm_, MPI_STATUS_IGNORE)); });
    }
    return all;
  }

  void broadcast(std::vector<std::byte>& bytes) override {
    auto size = static_cast<std::int64_t>(bytes.size());
    mpi::check(MPI_Bcast(&size, 1, MPI_INT64_T, 0, comm_));
    bytes.resize(static_cast<std::size_t>(size));
    for_each_piece(std::span(bytes), piece_bytes_, [&](std::byte* data, int count) { mpi::check(MPI_Bcast(data, count, MPI_BYTE, 0, comm_)); });
  }

  void barrier() override { mpi::check(MPI_Barrier(comm_)); }

  std::int64_t buffer_bytes() const override {
    std::size_t bytes = own_inbox_.capacity();
    for (const auto& box : outboxes_) bytes += box.capacity();
    for (const auto& box : inboxes_) bytes += box.capacity();
    return static_cast<std::int64_t>(bytes);
  }

 private:
  static std::size_t index(int p) { return static_cast<std::size_t>(p); }

  void post_receives(int p) {
    inboxes_[index(p)].resize(static_cast<std::size_t>(received_bytes_[index(p)]));
    for_each_piece(inboxes_[index(p)].bytes(), piece_bytes_, [&](std::byte* data, int count) {
      mpi::check(MPI_Irecv(data, count, MPI_BYTE, p, exchange_tag, comm_, &requests_.emplace_back(MPI_REQUEST_NULL)));
    });
  }
  void post_sends(int p) {
    for_each_piece(std::span(outboxes_[index(p)]), piece_bytes_, [&](const std::byte* data, int count) {
      mpi::check(MPI_Isend(data, count, MPI_BYTE, p, exchange_tag, comm_, &requests_.emplace_back(MPI_REQUEST_NULL)));
    });
  }
  void allreduce(std::span<std::int64_t> values, MPI_Op op) {
    for_each_piece(values, INT_MAX,
                   [&](std::int64_t* data, int count) { mpi::check(MPI_Allreduce(MPI_IN_PLACE, data, count, MPI_INT64_T, op, comm_)); });
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int process_ = 0, n_processes_ = 1;
  int exceptions_at_start_ = std::uncaught_exceptions();
  std::size_t piece_bytes_;
  std::vector<std::vector<std::byte>> outboxes_;
  std::vector<std::byte> own_inbox_;
  std::vector<ReceiveBuffer> inboxes_;
  std::vector<std::int64_t> sent_bytes_, received_bytes_;
  std::vector<MPI_Request> requests_;
};

}  // namespace

std::unique_ptr<Transport> make_mpi_transport(std::size_t piece_bytes) { return std::make_unique<MpiTransport>(piece_bytes); }

}  // namespace moekv
