// Tasks are cut at pages; heads of a KV head go together as far as a block of threads holds them.
#include "attend_plan.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "attend_block.hpp"
#include "core/error.hpp"
#include "tensor_shapes.hpp"

namespace moekv::kernels {
namespace {

constexpr std::uint64_t smallest_part = 512, long_task = 4096, most_parts = 128;
constexpr std::uint64_t two_blocks = 96 << 10;  // shared memory that leaves room for a second block

struct Tiles {
  std::uint32_t heads, slots;
};
constexpr std::array<Tiles, 10> tile_choices{{{8, 32}, {8, 16}, {8, 8}, {4, 16}, {4, 8}, {2, 8}, {1, 8}, {1, 4}, {1, 2}, {1, 1}}};

class Planner {
 public:
  Planner(const AttendBatch& batch, const PageTable& table, std::uint64_t shared_limit) : batch_(batch), table_(table) {
    latent_ = !table.pools.empty() && !batch.pages.empty() && layout(batch.pages.front()).latent;
    tensor_heads_ = tensor_heads(batch.q_format, batch.d_k, batch.d_v, latent_);
    look_at_pages(shared_limit);
    choose_tiles(std::min(shared_limit, std::max(two_blocks, shared_limit / 2)));
  }

  AttendPlan run() {
    number_rows();
    plan_.pages.reserve(batch_.pages.size());
    plan_.merge_offsets.push_back(0);
    for (std::uint32_t t = 0; t < batch_.tasks.size(); ++t) plan_task(t);
    return std::move(plan_);
  }

 private:
  [[nodiscard]] const PoolLayout& layout(const PageRead& page) const { return table_.pools[page.block.pool.value]; }

  void look_at_pages(std::uint64_t shared_limit) {
    std::vector<char> seen(table_.pools.size());
    for (const PageRead& page : batch_.pages) seen[page.block.pool.value] = 1;
    narrow_.assign(seen.size(), 0);
    for (std::size_t p = 0; p < seen.size(); ++p) {
      if (seen[p] == 0) continue;
      const PoolLayout& pool = table_.pools[p];
      plan_.mapped |= pool.k.format.mapped() || (!pool.latent && pool.v.format.mapped());
      if (plan_.page_slots == 0) plan_.page_slots = pool.page_slots;
      const bool narrows = tensor_reads(pool.k, batch_.q_format) && (pool.latent || tensor_reads(pool.v, batch_.q_format));
      const bool fits = tensor_heads_ > 0 && tensor_bytes(pool) <= shared_limit;
      narrow_[p] = static_cast<char>(fits && narrows && pool.page_slots == plan_.page_slots);
      if (narrow_[p] == 0) continue;
      plan_.tensor_bytes = std::max(plan_.tensor_bytes, tensor_bytes(pool));
      plan_.codes |= pool.k.format.element != batch_.q_format;
    }
  }

  void choose_tiles(std::uint64_t limit) {
    for (const Tiles& tiles : tile_choices) {
      tiles_ = tiles;
      plan_.portable_bytes = attend_floats(tiles.heads, tiles.slots, batch_.d_k, batch_.d_v, plan_.mapped) * sizeof(float);
      if (plan_.portable_bytes <= limit) break;
    }
    if (plan_.portable_bytes > limit) throw PointFailure("attention: one row of this many channels does not fit the shared memory of the device");
    plan_.tile_slots = tiles_.slots;
  }

  void number_rows() {
    plan_.n_merged_rows = plan_.n_task_rows = batch_.merge_offsets.empty() ? 0U : static_cast<std::uint32_t>(batch_.merge_offsets.size() - 1);
    for (const AttendTask& task : batch_.tasks) {
      const std::uint32_t heads = task.n_kv_heads * task.group;
      std::uint64_t slots = 0;
      for (std::uint32_t i = 0; i < task.n_pages; ++i) slots += batch_.pages[task.first_page + i].n_slots;
      plan_.task_row.push_back(plan_.n_task_rows);
      plan_.task_slots.push_back(slots);
      plan_.n_task_rows += heads;
      if (batch_.logits != nullptr || batch_.keep_logits) plan_.n_logits = std::max(plan_.n_logits, task.logits + heads * slots);
    }
    plan_.n_rows = plan_.n_task_rows;
    if (plan_.n_merged_rows > 0) list_shards();
  }

  void list_shards() {
    constexpr std::uint32_t nobody = ~0U;
    std::vector<std::uint32_t> row_of;  // of a task's row in the batch
    for (std::uint32_t t = 0; t < batch_.tasks.size(); ++t) {
      const AttendTask& task = batch_.tasks[t];
      const std::uint32_t heads = task.n_kv_heads * task.group;
      if (row_of.size() < task.out + heads) row_of.resize(task.out + heads, nobody);
      for (std::uint32_t h = 0; h < heads; ++h) row_of[task.out + h] = plan_.task_row[t] + h;
    }
    plan_.shard_offsets.push_back(0);
    for (std::uint32_t row = 0; row < plan_.n_merged_rows; ++row) {
      for (std::uint32_t i = batch_.merge_offsets[row]; i < batch_.merge_offsets[row + 1]; ++i) {
        const std::uint32_t part = batch_.merge_parts[i];
        if (part < row_of.size() && row_of[part] != nobody) plan_.shard_parts.push_back(row_of[part]);
      }
      plan_.shard_offsets.push_back(static_cast<std::uint32_t>(plan_.shard_parts.size()));
    }
  }

  void plan_task(std::uint32_t index) {
    const AttendTask& task = batch_.tasks[index];
    const std::span<const Part> parts = cut(index);
    const std::uint32_t heads = task.n_kv_heads * task.group, n_parts = static_cast<std::uint32_t>(parts.size());
    const std::uint32_t first_part = plan_.n_rows;
    for (std::uint32_t p = 0; p < n_parts; ++p) add_items(index, parts[p], n_parts == 1 ? plan_.task_row[index] : first_part + p * heads);
    if (n_parts == 1) return;
    plan_.n_rows += n_parts * heads;
    for (std::uint32_t h = 0; h < heads; ++h) {
      for (std::uint32_t p = 0; p < n_parts; ++p) plan_.merge_parts.push_back(first_part + p * heads + h);
      plan_.merge_offsets.push_back(static_cast<std::uint32_t>(plan_.merge_parts.size()));
      plan_.merge_rows.push_back(plan_.task_row[index] + h);
    }
  }

  /// Pages that a block of threads reads.
  struct Part {
    std::uint32_t first_page = 0, n_pages = 0;
    std::uint32_t pool = 0;
    bool narrow = false;
  };

  /// Lists the pages of a task, those of a pool side by side, unless none of its pages may go through tensor cores or they are latent.
  [[nodiscard]] std::span<const Part> cut(std::uint32_t index) {
    const AttendTask& task = batch_.tasks[index];
    const std::size_t first_page = plan_.pages.size();
    std::uint32_t slots = 0;
    bool any = false, all = true, one_pool = true;
    const std::span<const PageRead> reads = batch_.pages.subspan(task.first_page, task.n_pages);
    for (const PageRead& page : reads) {
      plan_.pages.push_back({nullptr, nullptr, page.block.pool.value, page.n_slots, page.mask, slots});
      slots += page.n_slots;
      const bool narrow = narrow_[page.block.pool.value] != 0;
      any |= narrow;
      all &= narrow;
      one_pool &= page.block.pool == reads.front().block.pool;
    }
    const std::span<DevicePage> pages = std::span(plan_.pages).subspan(first_page);
    table_.locate(reads, pages);
    const bool apart = any && !latent_;
    if (apart && !one_pool) put_pools_side_by_side(pages);
    parts_.clear();
    std::uint64_t in_part = 0;
    for (std::size_t i = 0; i < pages.size(); ++i) {
      const DevicePage& page = pages[i];
      const bool narrow = apart ? narrow_[page.pool] != 0 : any && all;
      if (i == 0 || in_part >= part_slots(slots, narrow) || (apart && page.pool != parts_.back().pool)) {
        parts_.push_back({static_cast<std::uint32_t>(first_page + i), 0, page.pool, narrow});
        in_part = 0;
      }
      parts_.back().n_pages += 1;
      in_part += page.n_slots;
    }
    if (parts_.empty()) parts_.emplace_back();
    return parts_;
  }

  /// Pools in the order of their first pages.
  void put_pools_side_by_side(std::span<DevicePage> pages) {
    sorted_.clear();
    for (std::vector<char> done(table_.pools.size()); const DevicePage& first : pages) {
      if (std::exchange(done[first.pool], 1) != 0) continue;
      std::ranges::copy_if(pages, std::back_inserter(sorted_), [&](const DevicePage& page) { return page.pool == first.pool; });
    }
    std::ranges::copy(sorted_, pages.begin());
  }

  void add_items(std::uint32_t index, const Part& part, std::uint32_t row) {
    const AttendTask& task = batch_.tasks[index];
    const std::uint32_t most = part.narrow ? tensor_heads_ : tiles_.heads;
    for (std::uint32_t kv = 0; kv < task.n_kv_heads; ++kv) {
      for (std::uint32_t h = kv * task.group; h < (kv + 1) * task.group; h += most) {
        AttendItem item{};
        item.first_q = std::uint64_t{task.query} * batch_.q_row_heads + task.q_head + h;
        item.logits = task.logits + h * plan_.task_slots[index];
        item.logits_stride = plan_.task_slots[index];
        item.first_page = part.first_page;
        item.n_pages = part.n_pages;
        item.kv_head = kv;
        item.n_heads = std::min(most, (kv + 1) * task.group - h);
        item.out = row + h;
        item.pool = part.pool;
        (part.narrow ? plan_.tensor : plan_.portable).push_back(item);
      }
    }
  }

  const AttendBatch& batch_;
  const PageTable& table_;
  bool latent_ = false;
  std::uint32_t tensor_heads_ = 0;
  Tiles tiles_{};
  std::vector<char> narrow_;  // by pool: its pages may go through tensor cores
  std::vector<Part> parts_;         // of the task that is being cut
  std::vector<DevicePage> sorted_;  // its pages
  AttendPlan plan_;
};

}  // namespace

std::uint64_t part_slots(std::uint64_t slots, bool narrow) {
  const std::uint64_t even = (slots + most_parts - 1) / most_parts, smallest = narrow && slots > long_task ? 2 * smallest_part : smallest_part;
  return std::max(smallest, (even + smallest_part - 1) / smallest_part * smallest_part);
}

AttendLaunch launch_of(const AttendPlan& plan, const AttendBatch& batch, const PageTable& table) {
  AttendLaunch work{};
  work.q_format = batch.q_format;
  work.d_k = batch.d_k;
  work.d_v = batch.d_v;
  work.page_slots = plan.page_slots;
  work.tile_slots = plan.tile_slots;
  work.mapped = plan.mapped;
  work.latent = !batch.pages.empty() && table.pools[batch.pages.front().block.pool.value].latent;
  work.codes = plan.codes;
  work.scale = batch.scale;
  return work;
}

AttendPlan plan_attention(const AttendBatch& batch, const PageTable& table, std::uint64_t shared_limit) {
  return Planner(batch, table, shared_limit).run();
}

}  // namespace moekv::kernels
