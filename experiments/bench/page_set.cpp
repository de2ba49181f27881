// Pages are filled through the backend, from a few thousand different rows, so that no page is all zero and no value subnormal.
#include "page_set.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "rules/codec/element.hpp"

namespace moekv::bench {

std::vector<std::byte> gaussian_bf16(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<std::byte> bytes(2 * n);
  for (std::size_t i = 0; i < n; ++i) store_u16(bytes.data() + 2 * i, bf16_from_float(normal(random)));
  return bytes;
}

PageSet::PageSet(const Shape& shape, const PlaneFormat& plane, std::uint32_t page_slots, std::size_t bytes, int n_threads)
    : shape_(shape), format_{plane, plane, page_slots, shape.n_kv_heads, shape.d_k, shape.d_v, shape.latent}, backend_(make_host_backend(n_threads)) {
  const std::uint32_t per_task = shape.context_tokens / page_slots;
  const auto n_tasks = static_cast<std::uint32_t>(bytes / (per_task * format_.block_bytes()));
  const std::uint32_t n_pages = n_tasks * per_task;
  pool_ = backend_->create_pool(format_, n_pages);
  std::vector<std::uint32_t> order(n_pages);
  std::iota(order.begin(), order.end(), 0U);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  for (const std::uint32_t index : order) pages_.push_back({{pool_, index}, page_slots, PageRead::all_slots});
  const std::uint32_t rows = shape.n_kv_heads * shape.group;
  for (std::uint32_t t = 0; t < n_tasks; ++t) tasks_.push_back({t * per_task, per_task, t, 0, shape.n_kv_heads, shape.group, t * rows, 0});
  q_ = gaussian_bf16(std::size_t{n_tasks} * rows * shape.d_k, 2);
  m_.resize(std::size_t{n_tasks} * rows);
  l_.resize(m_.size());
  o_.resize(m_.size() * shape.d_v);
  fill(plane);
}

void PageSet::fill(const PlaneFormat& plane) {
  constexpr std::uint32_t different_blocks = 16;
  const bool raw = plane.scale == ScaleScheme::none;
  BlockFormat from = format_;
  from.k = from.v = {ElementFormat::bf16};
  const PoolId source = raw ? pool_ : backend_->create_pool(from, different_blocks);
  const std::size_t k_bytes = std::size_t{2} * shape_.d_k * shape_.n_kv_heads;
  const auto rows = gaussian_bf16(different_blocks * format_.page_slots * std::size_t{shape_.d_k + shape_.d_v} * shape_.n_kv_heads, 3);
  std::vector<AppendOp> ops;
  const auto n_blocks = static_cast<std::uint32_t>(raw ? pages_.size() : different_blocks);
  for (std::uint32_t block = 0; block < n_blocks; ++block) {
    ops.clear();
    for (std::uint32_t slot = 0; slot < format_.page_slots; ++slot) {
      const std::byte* row =
          rows.data() + (block % different_blocks * format_.page_slots + slot) * std::size_t{2} * (shape_.d_k + shape_.d_v) * shape_.n_kv_heads;
      ops.push_back({{source, block}, slot, row, shape_.latent ? nullptr : row + k_bytes});
    }
    backend_->append(ops);
  }
  std::vector<SealOp> seals;
  for (std::uint32_t block = 0; !raw && block < pages_.size(); ++block)
    seals.push_back({{source, block % different_blocks}, {pool_, block}, format_.page_slots});
  backend_->seal(seals);
}

std::size_t PageSet::task_bytes() const { return shape_.context_tokens / format_.page_slots * format_.block_bytes(); }

std::size_t PageSet::attend(std::size_t n_tasks) {
  if (next_task_ + n_tasks > tasks_.size()) next_task_ = 0;
  AttendBatch batch{};
  batch.tasks = std::span(tasks_).subspan(next_task_, n_tasks);
  batch.pages = pages_;
  batch.q = q_.data();
  batch.q_format = ElementFormat::bf16;
  batch.q_row_heads = shape_.n_kv_heads * shape_.group;
  batch.d_k = shape_.d_k;
  batch.d_v = shape_.d_v;
  batch.scale = 1.0F / std::sqrt(static_cast<float>(shape_.d_k));
  batch.m = m_.data();
  batch.l = l_.data();
  batch.o = o_.data();
  backend_->attend(batch);
  next_task_ += n_tasks;
  return n_tasks * task_bytes();
}

std::vector<std::size_t> PageSet::tile_offsets() const {
  std::vector<std::size_t> offsets;
  for (const AttendTask& task : tasks_) {
    for (std::uint32_t head = 0; head < task.n_kv_heads; ++head) {
      for (std::uint32_t i = 0; i < task.n_pages; ++i)
        offsets.push_back(pages_[task.first_page + i].block.index * format_.block_bytes() + head * format_.head_bytes());
    }
  }
  return offsets;
}

}  // namespace moekv::bench
