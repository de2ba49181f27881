// The SIMD kernel of host attention, compiled once per instruction set: the query heads of a group share each load of K and V.
#include "device/host_attend.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/host_kernel.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <utility>

#include "core/error.hpp"
#include "device/plane_decoder.hpp"
#include "rules/codec/map.hpp"
#include "rules/codec/plane.hpp"
#include "rules/merge.hpp"

HWY_BEFORE_NAMESPACE();
namespace moekv::HWY_NAMESPACE {
namespace {

// clang-format off: each needs what stands before it
#include "device/host_simd.inc"
#include "device/host_tile.inc"
#include "device/host_map.inc"
// clang-format on

constexpr float nothing_read = -std::numeric_limits<float>::infinity();

/// One run: its working memory and the steps over its pages.
class Run {
 public:
  /// `memory` holds size(run) floats, 64-byte aligned.
  Run(const AttendRun& run, float* memory)
      : run_(run),
        k_width_(padded(run.d_k)),
        v_width_(padded(run.d_v)),
        q_{memory, memory + run.group * k_width_, memory + 2 * run.group * k_width_},
        o_(q_[2] + run.group * k_width_),
        l_(o_ + run.group * std::max(k_width_, v_width_)),
        q_sum_(l_ + run.group * block),
        m_(q_sum_ + padded(run.group)),
        x_(m_ + padded(run.group)),
        mapped_(run, x_ + max_heads * row_slots),
        reader_(run, x_ + max_heads * row_slots + MappedSpace::size(run)) {
    std::fill_n(o_, run.group * v_width_, 0.0F);
    std::fill_n(m_, run.group, nothing_read);
    std::fill_n(l_, run.group * block, 0.0F);
  }

  [[nodiscard]] static std::size_t size(const AttendRun& run) {
    const std::size_t per_head = 3 * padded(run.d_k) + padded(std::max(run.d_k, run.d_v)) + block;
    return run.group * per_head + 2 * padded(run.group) + max_heads * row_slots + MappedSpace::size(run) + TileReader::size(run.d_k, run.d_v);
  }

  /// Attends to every page, in order.
  void pages() {
    std::span<const PageRead> rest = run_.pages, now = first_of(rest);
    for (const PageRead& page : now) ask_for_all(page);
    while (!now.empty()) {
      const Tile& t = reader_.tile(now, run_.pools[now[0].block.pool.value]);
      rest = rest.subspan(t.n_pages);
      now = first_of(rest);
      Prefetch next = ahead(now, t);
      if (t.n > 0) {
        std::uint32_t head = 0;
        for (; head + max_heads <= run_.group; head += max_heads) heads<max_heads>(t, head, next);
        for (; head + 2 <= run_.group; head += 2) heads<2>(t, head, next);
        for (; head < run_.group; ++head) heads<1>(t, head, next);
      } else if (run_.logits != nullptr) {
        for (std::uint32_t h = 0; h < run_.group; ++h) std::fill_n(run_.logits + h * run_.logits_stride + first_slot_, t.n_slots, nothing_read);
      }
      first_slot_ += t.n_slots;
    }
  }

  /// Writes m, l and o.
  void finish() {
    keep_split(Split::halves);
    mapped_.leave(o_);
    for (std::uint32_t h = 0; h < run_.group; ++h) {
      run_.m[h] = m_[h];
      run_.l[h] = hn::GetLane(hn::SumOfLanes(d, hn::Load(d, l_ + h * block)));
      std::memcpy(run_.o + std::size_t{h} * run_.d_v, o_ + std::size_t{h} * v_width_, run_.d_v * sizeof(float));
    }
  }

 private:
  /// What is read next as one tile.
  [[nodiscard]] std::span<const PageRead> first_of(std::span<const PageRead> rest) const {
    return rest.empty() ? rest : rest.first(read_together(rest, run_.pools));
  }

  /// Whether a page asked for ahead leaves room in the first cache for the one in work.
  [[nodiscard]] static bool is_near(const PoolView& pool) { return pool.head_bytes <= 8192; }

  void ask_for_all(const PageRead& page) const {
    const PoolView& pool = run_.pools[page.block.pool.value];
    const std::byte* at = pool.head(page.block.index, run_.kv_head);
    Prefetch::ask(at, at + pool.head_bytes, is_near(pool));
  }

  /// Asks for the scales of `pages` at once, because they are needed first, and for their rows bit by bit during the work on tile `now`.
  [[nodiscard]] Prefetch ahead(std::span<const PageRead> pages, const Tile& now) const {
    Prefetch next;
    if (pages.empty() || now.n == 0) return next;
    const PoolView& pool = run_.pools[pages[0].block.pool.value];
    const std::uint64_t row_bytes = pool.format.k_meta();
    next.near = is_near(pool);
    for (const PageRead& page : pages) {
      if (2 * page.n_slots < pool.format.page_slots) continue;
      const std::byte* at = pool.head(page.block.index, run_.kv_head);
      Prefetch::ask(at + row_bytes, at + pool.head_bytes, next.near);
      next.pieces[next.n++] = {at, at + row_bytes};
    }
    const std::size_t of_heads = now.n / rows_at_once(max_heads) + std::max<std::size_t>(1, v_width_ / (blocks_at_once(max_heads) * block));
    const std::size_t steps = of_heads * ((run_.group + max_heads - 1) / max_heads);
    next.bytes = static_cast<std::uint32_t>((next.n * row_bytes / steps + 64) / 64 * 64);
    return next;
  }

  /// q in fp32 in the loader's split, with the sums of its rows.
  const float* query(const Plane& k) {
    const Split split = split_of(k);
    if (k.map.identity()) return plain_query(split);
    const float* plain = plain_query(Split::halves);
    return mapped_.query(k, split, plain, k_width_);
  }

  const float* plain_query(Split split) {
    const auto index = static_cast<std::size_t>(split);
    if (q_ready_[index]) return q_[index];
    q_ready_[index] = true;
    for (std::uint32_t h = 0; h < run_.group; ++h) {
      float* row = q_[index] + std::size_t{h} * k_width_;
      const std::byte* from = run_.q + std::size_t{h} * code_bytes({run_.q_format}, run_.d_k);
      std::uint32_t c = 0;
      with_loader(run_.q_format, [&](auto loader) {
        V a;
        V b;
        for (; c + block <= run_.d_k; c += block) {
          loader.load(from, c, a, b);
          hn::Store(a, d, row + c);
          hn::Store(b, d, row + c + lanes);
        }
        change_split(row, c, RowOf::queries, loader.split, Split::halves);
      });
      for (; c < run_.d_k; ++c) row[c] = load_raw(run_.q_format, from, c);
      std::fill(row + c, row + k_width_, 0.0F);
      V sum = hn::Zero(d);
      for (c = 0; c < k_width_; c += lanes) sum = hn::Add(sum, hn::Load(d, row + c));
      q_sum_[h] = hn::GetLane(hn::SumOfLanes(d, sum));
      change_split(row, k_width_, RowOf::queries, Split::halves, split);
    }
    return q_[index];
  }

  void keep_split(Split split) {
    if (split == o_split_) return;
    change_split(o_, run_.group * mapped_.width(), RowOf::sums, o_split_, split);
    o_split_ = split;
  }

  /// Makes o_ hold sums of values behind the map of `v`, in its split.
  void keep_space(const Plane& v) {
    if (!mapped_.holds(v)) {
      keep_split(Split::halves);
      mapped_.enter(v, o_);
    }
    keep_split(split_of(v));
  }

  void keep_logits(const Tile& t, std::uint32_t head, const float* x) const {
    float* out = run_.logits + head * run_.logits_stride + first_slot_;
    if (t.n == t.n_slots) {
      std::memcpy(out, x, t.n * sizeof(float));
      return;
    }
    std::fill_n(out, t.n_slots, nothing_read);
    for (std::uint32_t i = 0; i < t.n; ++i) out[t.slots[i]] = x[i];
  }

  /// Raises the running maximum of a head to m.
  void raise(std::uint32_t head, float m) {
    const V keep = hn::Set(d, rescale_factor(m_[head], m));
    const std::size_t width = mapped_.width();
    float* o = o_ + head * width;
    for (std::size_t c = 0; c < width; c += lanes) hn::Store(hn::Mul(hn::Load(d, o + c), keep), d, o + c);
    mapped_.rescale(head, keep);
    hn::Store(hn::Mul(hn::Load(d, l_ + head * block), keep), d, l_ + head * block);
    m_[head] = m;
  }

  /// Turns the products q.codes of one head into logits.
  void to_logits(const Tile& t, std::uint32_t head, float* x) {
    V highest = hn::Set(d, nothing_read);
    const bool plain = t.k.map.identity();
    const V q_sum = hn::Set(d, plain ? q_sum_[head] : mapped_.query_sum(head));
    const V centre = hn::Set(d, plain ? 0.0F : mapped_.query_centre(head));
    for (std::uint32_t i = 0; i < t.n; i += lanes) {
      V logit = hn::Load(d, x + i);
      if (t.k.scale != nullptr) logit = hn::Mul(logit, hn::Load(d, t.k.scale + i));
      if (t.k.zero != nullptr) logit = hn::MulAdd(hn::Load(d, t.k.zero + i), q_sum, logit);
      if (!plain) logit = hn::Add(logit, centre);
      logit = hn::Mul(logit, hn::Set(d, run_.scale));
      if (t.n - i < lanes) logit = hn::IfThenElse(hn::FirstN(d, t.n - i), logit, hn::Set(d, nothing_read));
      hn::Store(logit, d, x + i);
      highest = hn::Max(highest, logit);
    }
    if (!hn::AllFalse(d, hn::Gt(highest, hn::Set(d, m_[head])))) raise(head, hn::GetLane(hn::MaxOfLanes(d, highest)));
  }

  /// Turns logits into weights exp(logit - m) times the scale of V, and adds the weights to l. Returns the sum of weights times the zeros of V.
  float to_weights(const Tile& t, std::uint32_t head, float* x) {
    const V m = hn::Set(d, m_[head]);
    V sum = hn::Load(d, l_ + head * block);
    V zero = hn::Zero(d);
    V weights = hn::Zero(d);
    for (std::uint32_t i = 0; i < t.n; i += lanes) {
      V p = exp_negative(hn::Sub(hn::Load(d, x + i), m));
      sum = hn::Add(sum, p);
      weights = hn::Add(weights, p);
      if (t.v.zero != nullptr) zero = hn::MulAdd(p, hn::Load(d, t.v.zero + i), zero);
      if (t.v.scale != nullptr) p = hn::Mul(p, hn::Load(d, t.v.scale + i));
      hn::Store(p, d, x + i);
    }
    hn::Store(sum, d, l_ + head * block);
    if (t.v.map.centre) mapped_.add_weight(head, hn::GetLane(hn::SumOfLanes(d, weights)));
    return t.v.zero == nullptr ? 0.0F : hn::GetLane(hn::SumOfLanes(d, zero));
  }

  /// Attends with heads [head, head + H) to one tile.
  template <std::size_t H>
  void heads(const Tile& t, std::uint32_t head, Prefetch& next) {
    const float* q = query(t.k) + head * t.k.width;
    keep_space(t.v);
    with_loader(t.k, [&](auto loader) { dot_rows<decltype(loader), H>(t, q, t.k.width, x_, next); });
    float zero[H];
    for (std::uint32_t h = 0; h < H; ++h) {
      float* x = x_ + h * row_slots;
      to_logits(t, head + h, x);
      if (run_.logits != nullptr) keep_logits(t, head + h, x);
      zero[h] = to_weights(t, head + h, x);
    }
    with_loader(t.v, [&](auto loader) { add_rows<decltype(loader), H>(t, x_, zero, t.v.width, o_ + head * t.v.width, next); });
  }

  const AttendRun& run_;
  std::size_t k_width_, v_width_;
  std::array<float*, 3> q_;  // by split: [group][k_width_]
  float* o_;                 // [group][mapped_.width()] in o_split_
  float* l_;                 // [group][block]: sums by lane
  float *q_sum_, *m_;        // [group]
  float* x_;                 // [max_heads][row_slots]: products, logits, weights
  MappedSpace mapped_;
  TileReader reader_;
  std::array<bool, 3> q_ready_{};
  Split o_split_ = Split::halves;
  std::uint64_t first_slot_ = 0;
};

}  // namespace

void attend_run_simd(const AttendRun& run, AttendScratch& scratch) {
  constexpr std::size_t line = 64 / sizeof(float);
  const std::size_t size = Run::size(run) + line;
  if (scratch.values.size() < size) scratch.values.resize(size);
  float* memory = scratch.values.data();
  memory += (line - reinterpret_cast<std::uintptr_t>(memory) / sizeof(float) % line) % line;
  Run r(run, memory);
  r.pages();
  r.finish();
}

}  // namespace moekv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moekv {

HWY_EXPORT(attend_run_simd);

void attend_run(const AttendRun& run, AttendScratch& scratch) { HWY_DYNAMIC_DISPATCH(attend_run_simd)(run, scratch); }

}  // namespace moekv
#endif
