// Cases of what the device decides or sums up for the host: choices of experts, pages and victims, attention masses, generated rows.
#include <algorithm>
#include <random>

#include "gate_block.hpp"
#include "generate_block.hpp"
#include "gpu_baselines.hpp"
#include "gpu_cases.hpp"
#include "select_block.hpp"

namespace moekv::bench {

using namespace kernels;

namespace {

class GateCase final : public Case {
 public:
  GateCase(CudaDevice& device, std::uint32_t n_tokens, std::uint32_t n_experts, std::uint32_t top_k) : Case(device) {
    work_.logits = reinterpret_cast<const float*>(filled(std::uint64_t{n_tokens} * n_experts * sizeof(float)));
    work_.ids = reinterpret_cast<std::uint16_t*>(filled(std::uint64_t{n_tokens} * top_k * sizeof(std::uint16_t)));
    work_.weights = reinterpret_cast<float*>(filled(std::uint64_t{n_tokens} * top_k * sizeof(float)));
    work_.n_items = n_tokens;
    work_.n_experts = n_experts;
    work_.top_k = top_k;
    work_.n_group = work_.topk_group = 1;
    work_.score = ScoreFunction::softmax;
    work_.order = ScoreOrder::pre;
    work_.scale = work_.temperature = 1.0F;
    work_.shared_bytes = gate_shared_bytes(n_experts, top_k);
  }
  [[nodiscard]] Piece piece() override {
    return {"", static_cast<double>(work_.n_items) * (work_.n_experts * 4.0 + work_.top_k * 6.0), [this] { device_.launch(work_); }};
  }

 private:
  GateLaunch work_{};
};

class SelectCase final : public Case {
 public:
  SelectCase(CudaDevice& device, std::uint32_t n_pages, std::uint32_t n_rows) : Case(device), n_pages_(n_pages) {
    const std::uint32_t budget = n_pages / 8;
    std::vector<SelectItem> items;
    for (std::uint32_t row = 0; row < n_rows; ++row) items.push_back({row * n_pages, n_pages, budget - 1, n_pages - 1, row * budget});
    work_.items = put(items);
    work_.n_items = n_rows;
    work_.scores = reinterpret_cast<const float*>(filled(std::uint64_t{n_rows} * n_pages * sizeof(float)));
    work_.chosen = reinterpret_cast<std::uint32_t*>(filled(std::uint64_t{n_rows} * budget * sizeof(std::uint32_t)));
    work_.shared_pages = select_shared_bytes(n_pages) <= device.shared_limit() ? n_pages : 0;
    work_.shared_bytes = select_shared_bytes(work_.shared_pages);
  }
  [[nodiscard]] Piece piece() override {
    return {"", static_cast<double>(work_.n_items) * n_pages_ * (4.0 + 0.5), [this] { device_.launch(work_); }};
  }

 private:
  SelectLaunch work_{};
  std::uint32_t n_pages_;
};

class LowestCase final : public Case {
 public:
  LowestCase(CudaDevice& device, std::uint32_t n_keys, std::uint32_t n_lists) : Case(device), n_keys_(n_keys) {
    const std::uint32_t n_lowest = n_keys / 8;
    std::mt19937 random(5);
    std::vector<std::uint64_t> keys;
    for (std::uint32_t i = 0; i < n_keys * n_lists; ++i)  // as the engine makes them: a score, then a position
      keys.push_back(std::uint64_t{select::rank_key(std::generate_canonical<float, 24>(random))} << 31U | i % n_keys);
    std::vector<SelectItem> items;
    for (std::uint32_t list = 0; list < n_lists; ++list) items.push_back({list * n_keys, n_keys, n_lowest, ~0U, list * n_lowest});
    work_.keys = put(keys);
    work_.items = put(items);
    work_.n_items = n_lists;
    work_.chosen = reinterpret_cast<std::uint32_t*>(filled(std::uint64_t{n_lists} * n_lowest * sizeof(std::uint32_t)));
    work_.shared_pages = select_shared_bytes(n_keys) <= device.shared_limit() ? n_keys : 0;
    work_.shared_bytes = select_shared_bytes(work_.shared_pages);
  }
  [[nodiscard]] Piece piece() override {
    return {"", static_cast<double>(work_.n_items) * n_keys_ * (8.0 + 0.5), [this] { device_.launch(work_); }};
  }

 private:
  SelectLaunch work_{};
  std::uint32_t n_keys_;
};

/// K and V of one request, and its queries: 4 KV heads of 8 query heads and 128 channels.
class GenerateCase final : public Case {
 public:
  GenerateCase(CudaDevice& device, std::uint32_t n_tokens) : Case(device) {
    constexpr std::uint32_t d = 128, kv_heads = 4, group = 8;
    std::vector<generate::PlaneView> planes;
    std::vector<generate::RowPlan> plans;
    const auto add = [&](generate::RowKind kind, std::uint32_t plane, std::uint32_t first, std::uint64_t seed) {
      generate::RowPlan plan;
      plan.kind = kind;
      plan.rotates = kind != generate::RowKind::value;
      plan.plane = plane;
      plan.first = first;
      plan.target_seed = plan.noise_seed = seed;
      plan.reach = ~0U;
      plans.push_back(plan);
    };
    for (std::uint32_t h = 0; h < kv_heads; ++h) {
      for (const generate::RowKind kind : {generate::RowKind::key, generate::RowKind::value}) {
        const auto* table = reinterpret_cast<const float*>(filled((std::uint64_t{d} * d + 3 * d) * sizeof(float)));
        add(kind, static_cast<std::uint32_t>(planes.size()), h * d, 0);
        planes.push_back({table, table + d * d, table + d * d + d, table + d * d + 2 * d, planes.size(), d, d, d});
      }
      for (std::uint32_t q = 0; q < group; ++q) add(generate::RowKind::query, 2 * h, (h * group + q) * d, h * group + q);
    }
    std::vector<GenerateItem> items;
    for (std::uint32_t p = 0; p < plans.size(); ++p) {
      for (std::uint32_t first = 0; first < n_tokens; first += generate_rows) items.push_back({p, 0, first, std::min(generate_rows, n_tokens - first)});
    }
    std::vector<generate::BridgeNode> nodes(generate::block_tokens);
    generate::set_bridge_nodes(nodes.data());
    work_ = {put(items), static_cast<std::uint32_t>(items.size()), put(planes), put(plans), put(std::vector<generate::RowRange>{{1, 0, n_tokens, 0, 0, 0}}),
             put(nodes), put(std::vector<double>(d / 2, 0.01)), {kv_heads * d, kv_heads * d, kv_heads * group * d}, {}, generate_shared_bytes(d, d)};
    for (std::size_t kind = 0; kind < generate::n_row_kinds; ++kind)
      work_.out[kind] = reinterpret_cast<float*>(filled(std::uint64_t{n_tokens} * work_.width[kind] * sizeof(float)));
    bytes_ = static_cast<double>(n_tokens) * (2 + group) * kv_heads * d * sizeof(float);
  }
  [[nodiscard]] Piece piece() override {
    return {"", bytes_, [this] { device_.launch(work_); }};
  }

 private:
  GenerateLaunch work_{};
  double bytes_ = 0;
};

class MassCase final : public Case {
 public:
  MassCase(CudaDevice& device, std::uint32_t n_requests, std::uint32_t context, std::uint32_t n_heads) : Case(device) {
    constexpr std::uint32_t slots = 64;
    std::vector<MassTask> tasks;
    std::vector<MassRead> reads;
    std::vector<MassPage> pages;
    for (std::uint32_t r = 0; r < n_requests; ++r) {
      tasks.push_back({std::uint64_t{r} * n_heads * context, context, r * n_heads, n_heads});
      for (std::uint32_t column = 0; column < context; column += slots) {
        pages.push_back({static_cast<std::uint32_t>(reads.size()), 1});
        reads.push_back({r, column, slots});
      }
    }
    const std::uint64_t n_slots = std::uint64_t{n_requests} * context, n_logits = n_slots * n_heads;
    const auto n_pages = static_cast<std::uint32_t>(pages.size());
    work_.pages = put(pages);
    work_.reads = put(reads);
    work_.tasks = put(tasks);
    work_.lse = reinterpret_cast<const float*>(filled(std::uint64_t{n_requests} * n_heads * sizeof(float)));
    work_.logits = reinterpret_cast<const float*>(filled(n_logits * sizeof(float)));
    work_.heads = Reducer::sum;
    work_.page_slots = slots;
    work_.n_pages = put(std::vector<std::uint32_t>{n_pages});
    work_.n_items = static_cast<std::uint32_t>(n_slots / block_threads);
    work_.mass = reinterpret_cast<SlotMass*>(filled(n_slots * sizeof(SlotMass)));
    bytes_ = static_cast<double>(n_logits * sizeof(float) + n_slots * sizeof(SlotMass));
  }
  [[nodiscard]] Piece piece() override {
    return {"", bytes_, [this] { device_.launch(work_); }};
  }

 private:
  MassLaunch work_{};
  double bytes_ = 0;
};

}  // namespace

std::unique_ptr<Case> gate_case(CudaDevice& device, std::uint32_t n_tokens, std::uint32_t n_experts, std::uint32_t top_k) {
  return std::make_unique<GateCase>(device, n_tokens, n_experts, top_k);
}
std::unique_ptr<Case> select_case(CudaDevice& device, std::uint32_t n_pages, std::uint32_t n_rows) {
  return std::make_unique<SelectCase>(device, n_pages, n_rows);
}
std::unique_ptr<Case> lowest_case(CudaDevice& device, std::uint32_t n_keys, std::uint32_t n_lists) {
  return std::make_unique<LowestCase>(device, n_keys, n_lists);
}
std::unique_ptr<Case> generate_case(CudaDevice& device, std::uint32_t n_tokens) { return std::make_unique<GenerateCase>(device, n_tokens); }
std::unique_ptr<Case> mass_case(CudaDevice& device, std::uint32_t n_requests, std::uint32_t context, std::uint32_t n_heads) {
  return std::make_unique<MassCase>(device, n_requests, context, n_heads);
}

}  // namespace moekv::bench
