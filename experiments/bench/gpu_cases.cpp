// Lists are made on the host as the backend makes them, uploaded once, and used in every round.
#include "gpu_cases.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "attend_plan.hpp"
#include "cuda_check.hpp"
#include "gpu_baselines.hpp"
#include "score_block.hpp"
#include "seal_block.hpp"

namespace moekv::bench {

using namespace kernels;

Case::~Case() {
  for (std::byte* memory : memory_) device_.release(memory);
}

std::byte* Case::filled(std::uint64_t bytes) {
  memory_.push_back(device_.allocate(bytes));
  launch_fill(memory_.back(), bytes, static_cast<std::uint32_t>(memory_.size()), device_.stream());
  return memory_.back();
}

const void* Case::put_bytes(const void* values, std::uint64_t bytes) {
  memory_.push_back(device_.allocate(std::max<std::uint64_t>(bytes, 1)));
  device_.copy(memory_.back(), static_cast<const std::byte*>(values), bytes);  // on the stream of the kernels, which would not wait for another
  return memory_.back();
}

namespace {

std::vector<std::uint32_t> shuffled(std::uint32_t n) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0U);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  return order;
}

std::uint32_t blocks_of(std::uint64_t n) { return static_cast<std::uint32_t>(n); }

class AttendCase final : public Case, private PageTable {
 public:
  AttendCase(CudaDevice& device, const AttendShape& s, const Codec& codec, std::uint32_t n_requests, std::uint32_t context) : Case(device), shape_(s) {
    format_ = {plane_of(codec, Role::k, s.d_k), plane_of(codec, Role::v, s.d_v), s.page_slots, s.n_kv_heads, s.d_k, s.d_v, s.latent};
    layouts_ = {pool_layout(format_)};
    pools = layouts_;
    const std::uint32_t per_request = context / s.page_slots;
    base_ = filled(std::uint64_t{n_requests} * per_request * format_.block_bytes());
    make_lists(n_requests, per_request);
    upload();
    bytes_ = static_cast<double>(std::uint64_t{n_requests} * per_request * s.page_slots) *
             (static_cast<double>(format_.block_bytes()) / s.page_slots);
  }

  [[nodiscard]] Piece piece() override {
    return {"", bytes_, [this] {
              if (!plan_.tensor.empty()) device_.launch(tensor_);
              if (!plan_.portable.empty()) device_.launch(portable_);
              if (merge_.n_items > 0) device_.launch(merge_);
            }};
  }

 private:
  void locate(std::span<const PageRead> pages, std::span<DevicePage> out) const override {
    for (std::size_t i = 0; i < pages.size(); ++i) out[i].block = base_ + pages[i].block.index * format_.block_bytes();
  }

  void make_lists(std::uint32_t n_requests, std::uint32_t per_request) {
    const std::vector<std::uint32_t> order = shuffled(n_requests * per_request);
    for (const std::uint32_t page : order) reads_.push_back({{PoolId(0), page}, shape_.page_slots});
    const std::uint32_t heads = shape_.n_kv_heads * shape_.group;
    for (std::uint32_t r = 0; r < n_requests; ++r) tasks_.push_back({r * per_request, per_request, r, 0, shape_.n_kv_heads, shape_.group, r * heads, 0});
    AttendBatch batch{};
    batch.tasks = tasks_;
    batch.pages = reads_;
    batch.q_format = ElementFormat::bf16;
    batch.q_row_heads = heads;
    batch.d_k = shape_.d_k;
    batch.d_v = shape_.d_v;
    batch.scale = 1.0F / std::sqrt(static_cast<float>(shape_.d_k));
    plan_ = plan_attention(batch, *this, device_.shared_limit());
    tensor_ = launch_of(plan_, batch, *this);
  }

  void upload() {
    float* values = reinterpret_cast<float*>(filled(std::uint64_t{plan_.n_rows} * (shape_.d_v + 2) * sizeof(float)));
    tensor_.pools = put(layouts_);
    tensor_.pages = put(plan_.pages);
    tensor_.q = filled(tasks_.size() * shape_.n_kv_heads * shape_.group * shape_.d_k * 2);
    tensor_.m = values;
    tensor_.l = tensor_.m + plan_.n_rows;
    tensor_.o = tensor_.l + plan_.n_rows;
    portable_ = tensor_;
    tensor_.on_tensor_cores = true;
    tensor_.items = put(plan_.tensor);
    tensor_.n_items = blocks_of(plan_.tensor.size());
    tensor_.shared_bytes = plan_.tensor_bytes;
    portable_.items = put(plan_.portable);
    portable_.n_items = blocks_of(plan_.portable.size());
    portable_.shared_bytes = plan_.portable_bytes;
    merge_.offsets = put(plan_.merge_offsets);
    merge_.parts = put(plan_.merge_parts);
    merge_.rows = put(plan_.merge_rows);
    merge_.n_items = blocks_of(plan_.merge_rows.size());
    merge_.m = merge_.m_out = tensor_.m;
    merge_.l = merge_.l_out = tensor_.l;
    merge_.o = merge_.o_out = tensor_.o;
    merge_.d_v = shape_.d_v;
  }

  AttendShape shape_;
  BlockFormat format_;
  std::vector<PoolLayout> layouts_;
  std::byte* base_ = nullptr;
  std::vector<PageRead> reads_;
  std::vector<AttendTask> tasks_;
  AttendPlan plan_;
  AttendLaunch tensor_{}, portable_{};
  MergeLaunch merge_{};
  double bytes_ = 0;
};

BlockFormat bf16_pages(std::uint32_t page_slots) { return {{ElementFormat::bf16}, {ElementFormat::bf16}, page_slots, 8, 128, 128}; }

class AppendCase final : public Case {
 public:
  AppendCase(CudaDevice& device, std::uint32_t n_tokens) : Case(device) {
    const BlockFormat f = bf16_pages(64);
    const std::uint64_t row = std::uint64_t{f.n_kv_heads} * f.d_k * 2;
    std::byte* base = filled(n_tokens * f.block_bytes());
    const std::byte *k = filled(n_tokens * row), *v = filled(n_tokens * row);
    std::vector<AppendItem> items;
    for (const std::uint32_t t : shuffled(n_tokens)) items.push_back({base + t * f.block_bytes(), k + t * row, v + t * row, 0, t % 64});
    work_ = {put(std::vector<PoolLayout>{pool_layout(f)}), put(items), n_tokens};
    bytes_ = static_cast<double>(4 * row * n_tokens);  // K and V, read and written
  }
  [[nodiscard]] Piece piece() override { return {"", bytes_, [this] { device_.launch(work_); }}; }

 private:
  AppendLaunch work_{};
  double bytes_ = 0;
};

class SealCase final : public Case {
 public:
  SealCase(CudaDevice& device, const Codec& codec, std::uint32_t n_pages) : Case(device) {
    const BlockFormat from = bf16_pages(64);
    BlockFormat to = from;
    to.k = plane_of(codec, Role::k, from.d_k);
    to.v = plane_of(codec, Role::v, from.d_v);
    const std::vector<PoolLayout> layouts{pool_layout(from), pool_layout(to)};
    std::byte *raw = filled(n_pages * from.block_bytes()), *sealed = filled(n_pages * to.block_bytes());
    std::vector<SealItem> items;
    for (const std::uint32_t page : shuffled(n_pages)) {
      for (std::uint32_t plane = 0; plane < 2; ++plane) {
        const PlaneLayout& layout = plane == 0 ? layouts[1].k : layouts[1].v;
        const PlaneLayout& bare = plane == 0 ? layouts[0].k : layouts[0].v;
        const std::uint32_t step = seal_item_rows(bare, layout);
        work_.shared_bytes = std::max(work_.shared_bytes, seal_shared_bytes(bare, layout));
        for (std::uint32_t head = 0; head < from.n_kv_heads; ++head)
          for (std::uint32_t first = 0; first < 64; first += step)
            items.push_back({raw + page * from.block_bytes(), sealed + page * to.block_bytes(), nullptr, 0, 1, head, plane, first, step});
      }
    }
    work_.pools = put(layouts);
    work_.items = put(items);
    work_.n_items = blocks_of(items.size());
    bytes_ = static_cast<double>(n_pages * (from.block_bytes() + to.block_bytes()));
  }
  [[nodiscard]] Piece piece() override { return {"", bytes_, [this] { device_.launch(work_); }}; }

 private:
  SealLaunch work_{};
  double bytes_ = 0;
};

class ScoreCase final : public Case {
 public:
  ScoreCase(CudaDevice& device, std::uint32_t n_pages) : Case(device) {
    BlockFormat f = bf16_pages(16);
    f.n_kv_heads = 1;
    f.bounds = true;
    const std::byte* base = filled(n_pages * f.bounds_bytes());
    std::vector<const std::byte*> bounds;
    for (const std::uint32_t page : shuffled(n_pages)) bounds.push_back(base + page * f.bounds_bytes());
    std::vector<ScoreItem> items;
    for (std::uint32_t page = 0; page < n_pages; page += score_pages_most) items.push_back({0, page, std::min(score_pages_most, n_pages - page), 0, 1, 8});
    work_.pools = put(std::vector<PoolLayout>{pool_layout(f)});
    work_.items = put(items);
    work_.n_items = blocks_of(items.size());
    work_.bounds = put(bounds);
    work_.q = filled(8 * 128 * 2);
    work_.q_format = ElementFormat::bf16;
    work_.d_k = 128;
    work_.rule = select::Quest{};
    work_.scores = reinterpret_cast<float*>(filled(n_pages * sizeof(float)));
    work_.shared_bytes = score_floats(score_pages_most, 8, 128) * sizeof(float);
    bytes_ = static_cast<double>(n_pages * (f.bounds_bytes() + sizeof(float)));
  }
  [[nodiscard]] Piece piece() override { return {"", bytes_, [this] { device_.launch(work_); }}; }

 private:
  ScoreLaunch work_{};
  double bytes_ = 0;
};

}  // namespace

std::unique_ptr<Case> attend_case(CudaDevice& device, const AttendShape& shape, const Codec& codec, std::uint32_t n_requests, std::uint32_t context) {
  return std::make_unique<AttendCase>(device, shape, codec, n_requests, context);
}
std::unique_ptr<Case> append_case(CudaDevice& device, std::uint32_t n_tokens) { return std::make_unique<AppendCase>(device, n_tokens); }
std::unique_ptr<Case> seal_case(CudaDevice& device, const Codec& codec, std::uint32_t n_pages) { return std::make_unique<SealCase>(device, codec, n_pages); }
std::unique_ptr<Case> score_case(CudaDevice& device, std::uint32_t n_pages) { return std::make_unique<ScoreCase>(device, n_pages); }

}  // namespace moekv::bench
