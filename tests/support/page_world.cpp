// Rows are drawn once, stored through the backend and kept here after one scalar encode and decode, so backend kernels are checked independently.
#include "support/page_world.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moekv::test {
namespace {

constexpr float poison = std::numeric_limits<float>::quiet_NaN();
constexpr std::uint32_t guard_rows = 1;  // rows between tasks that no one may write

std::vector<float> gaussian(std::mt19937& random, std::size_t n, float spread) {
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> x(n);
  std::generate(x.begin(), x.end(), [&] { return normal(random); });
  return x;
}

/// What the codec makes of a row depends on the row alone; pages of other formats are read back.
bool is_row_wise(const PlaneFormat& f) { return !f.mapped() && f.scale != ScaleScheme::channel_group; }

std::vector<float> through_codec(const PlaneFormat& f, const std::vector<float>& row) {
  const auto d = static_cast<std::uint32_t>(row.size());
  std::vector<std::byte> codes(code_bytes(f, d));
  std::vector<std::byte> meta(meta_bytes(f, d));
  std::vector<float> out(d);
  encode_row(f, row.data(), d, codes.data(), meta.data());
  decode_row(f, codes.data(), meta.data(), d, out.data());
  return out;
}

std::vector<std::byte> to_bytes(ElementFormat f, const std::vector<float>& row) {
  const auto d = static_cast<std::uint32_t>(row.size());
  std::vector<std::byte> bytes(code_bytes({f}, d));
  encode_row({f}, row.data(), d, bytes.data(), nullptr);
  return bytes;
}

}  // namespace

PageWorld::PageWorld(Backend& backend, const Geometry& geometry, std::uint32_t n_pages, unsigned seed) : geometry_(geometry), random_(seed) {
  BlockFormat format{{geometry.payload}, {geometry.payload}, geometry.page_slots, geometry.n_kv_heads, geometry.d_k, geometry.d_v, geometry.latent};
  const PoolId raw = backend.create_pool(format, n_pages);
  format.k = geometry.sealed_k;
  format.v = geometry.sealed_v;
  const PoolId sealed = backend.create_pool(format, n_pages);
  set_run_tables(backend, sealed, format);
  const std::size_t rows = std::size_t{n_pages} * geometry.n_kv_heads * geometry.page_slots;
  k_.resize(rows * geometry.d_k);
  v_.resize(rows * geometry.d_v);
  for (std::uint32_t page = 0; page < n_pages; ++page) write_page(backend, page, raw, sealed);
  backend.sync();
}

void PageWorld::set_run_tables(Backend& backend, PoolId pool, const BlockFormat& format) {
  const bool run =
      (format.k.has_table() && format.k.scope == TableScope::run) || (!format.latent && format.v.has_table() && format.v.scope == TableScope::run);
  for (std::uint64_t key = 0; run && key < 2; ++key) {  // any matrices will do
    std::vector<std::byte> tables(format.shared_bytes());
    std::normal_distribution<float> normal(0.0F, 0.1F);
    for (std::size_t i = 0; i < tables.size(); i += 2) store_u16(&tables[i], fp16_from_float(normal(random_)));
    backend.set_tables(pool, key, tables);
  }
}

void PageWorld::write_page(Backend& backend, std::uint32_t page, PoolId raw, PoolId sealed) {
  const Geometry& g = geometry_;
  const bool seals = std::uniform_real_distribution<float>(0.0F, 1.0F)(random_) < g.sealed_share;
  for (std::uint32_t slot = 0; slot < g.page_slots; ++slot) {
    std::vector<std::byte> k_bytes;
    std::vector<std::byte> v_bytes;
    for (std::uint32_t head = 0; head < g.n_kv_heads; ++head) {
      auto k = through_codec({g.payload}, gaussian(random_, g.d_k, 1.5F));
      auto v = through_codec({g.payload}, gaussian(random_, g.d_v, g.v_spread));
      if (g.latent) v.assign(k.begin(), k.begin() + g.d_v);
      const auto kb = to_bytes(g.payload, k);
      const auto vb = to_bytes(g.payload, v);
      k_bytes.insert(k_bytes.end(), kb.begin(), kb.end());
      v_bytes.insert(v_bytes.end(), vb.begin(), vb.end());
      if (seals && is_row_wise(g.sealed_k) && is_row_wise(g.sealed_v)) {
        k = through_codec(g.sealed_k, k);
        v = g.latent ? std::vector<float>(k.begin(), k.begin() + g.d_v) : through_codec(g.sealed_v, v);
      }
      std::copy(k.begin(), k.end(), const_cast<float*>(k_row(page, head, slot)));
      std::copy(v.begin(), v.end(), const_cast<float*>(v_row(page, head, slot)));
    }
    const AppendOp op{{raw, page}, slot, k_bytes.data(), g.latent ? nullptr : v_bytes.data()};
    backend.append({&op, 1});
    backend.sync();
  }
  const SealOp op{{raw, page}, {sealed, page}, g.page_slots, page % 2};
  if (seals) backend.seal({&op, 1});
  pages_.push_back(seals ? op.to : op.from);
  if (!seals || (is_row_wise(g.sealed_k) && is_row_wise(g.sealed_v))) return;
  for (std::uint32_t head = 0; head < g.n_kv_heads; ++head) {
    for (std::uint32_t slot = 0; slot < g.page_slots; ++slot)
      backend.read_row(op.to, head, slot, const_cast<float*>(k_row(page, head, slot)), const_cast<float*>(v_row(page, head, slot)));
  }
}

const float* PageWorld::k_row(std::uint32_t page, std::uint32_t head, std::uint32_t slot) const {
  return k_.data() + ((std::size_t{page} * geometry_.n_kv_heads + head) * geometry_.page_slots + slot) * geometry_.d_k;
}
const float* PageWorld::v_row(std::uint32_t page, std::uint32_t head, std::uint32_t slot) const {
  return v_.data() + ((std::size_t{page} * geometry_.n_kv_heads + head) * geometry_.page_slots + slot) * geometry_.d_v;
}

void PageWorld::finish_task(std::uint32_t first_page, std::uint32_t n_pages) {
  const Geometry& g = geometry_;
  const auto index = static_cast<std::uint32_t>(tasks_.size());
  tasks_.push_back({first_page, n_pages, index, 1, g.n_kv_heads, g.group, next_row_ + guard_rows, next_logit_ + guard_rows});
  next_row_ += rows_per_task() + guard_rows;
  next_logit_ += rows_per_task() * task_slots(index) + guard_rows;
  const auto q = to_bytes(g.payload, gaussian(random_, std::size_t{rows_per_task() + 2} * g.d_k, 1.0F));  // one query head more on either side
  q_.insert(q_.end(), q.begin(), q.end());
}

void PageWorld::add_task(std::uint32_t n_pages, float masked_share) {
  const auto first = static_cast<std::uint32_t>(reads_.size());
  const std::uint32_t words = (geometry_.page_slots + 63) / 64;
  for (std::uint32_t i = 0; i < n_pages; ++i) {
    const auto page = static_cast<std::uint32_t>(random_() % pages_.size());
    const auto n_slots = random_() % 3 == 0 ? static_cast<std::uint32_t>(1 + random_() % geometry_.page_slots) : geometry_.page_slots;
    PageRead read{pages_[page], n_slots, PageRead::all_slots};
    if (std::uniform_real_distribution<float>(0.0F, 1.0F)(random_) < masked_share) {
      read.mask = static_cast<std::uint32_t>(masks_.size());
      const unsigned kind = random_() % 4;  // none, sparse, dense, random; bits beyond n_slots are noise
      for (std::uint32_t w = 0; w < words; ++w) {
        const std::uint64_t noise = std::uint64_t{random_()} << 32 | random_();
        const std::uint64_t more = std::uint64_t{random_()} << 32 | random_();
        masks_.push_back(kind == 0 ? 0 : kind == 1 ? noise & more : kind == 2 ? noise | more : noise);
      }
    }
    reads_.push_back(read);
    read_pages_.push_back(page);
  }
  finish_task(first, n_pages);
}

void PageWorld::add_task_on(const std::vector<std::uint32_t>& pages, std::uint32_t n_slots) {
  const auto first = static_cast<std::uint32_t>(reads_.size());
  for (const std::uint32_t page : pages) {
    reads_.push_back({pages_[page], n_slots, PageRead::all_slots});
    read_pages_.push_back(page);
  }
  finish_task(first, static_cast<std::uint32_t>(pages.size()));
}

std::uint64_t PageWorld::task_slots(std::uint32_t task) const {
  std::uint64_t slots = 0;
  for (std::uint32_t i = 0; i < tasks_[task].n_pages; ++i) slots += reads_[tasks_[task].first_page + i].n_slots;
  return slots;
}

AttendBatch PageWorld::batch(AttendOutput& out, std::size_t n_rows) const {
  out.m.assign(n_rows, poison);
  out.l = out.m;
  out.o.assign(n_rows * geometry_.d_v, poison);
  return {.tasks = tasks_,
          .pages = reads_,
          .masks = masks_,
          .q = q_.data(),
          .q_format = geometry_.payload,
          .q_row_heads = rows_per_task() + 2,
          .d_k = geometry_.d_k,
          .d_v = geometry_.d_v,
          .scale = 1.0F / std::sqrt(static_cast<float>(geometry_.d_k)),
          .m = out.m.data(),
          .l = out.l.data(),
          .o = out.o.data()};
}

AttendOutput PageWorld::attend(Backend& backend, bool keep_logits, bool to_weigh) const {
  AttendOutput out;
  out.logits.assign(next_logit_ + guard_rows, poison);
  AttendBatch work = batch(out, next_row_ + guard_rows);
  work.logits = keep_logits ? out.logits.data() : nullptr;
  work.keep_logits = keep_logits && to_weigh;
  backend.attend(work);
  backend.sync();
  return out;
}

AttendOutput PageWorld::attend_merged(Backend& backend, std::span<const std::uint32_t> offsets, std::span<const std::uint32_t> parts) const {
  AttendOutput out;
  AttendBatch work = batch(out, offsets.size());
  work.merge_offsets = offsets;
  work.merge_parts = parts;
  backend.attend(work);
  backend.sync();
  return out;
}

bool PageWorld::is_read(const PageRead& read, std::uint32_t slot) const {
  return read.mask == PageRead::all_slots || (masks_[read.mask + slot / 64] >> (slot % 64) & 1U) != 0;
}

OracleRow PageWorld::oracle(std::uint32_t task_index, std::uint32_t head) const {
  const Geometry& g = geometry_;
  const AttendTask& task = tasks_[task_index];
  const double scale = static_cast<double>(1.0F / std::sqrt(static_cast<float>(g.d_k)));
  constexpr double nothing = -std::numeric_limits<double>::infinity();
  OracleRow row{nothing, 0.0, std::vector<double>(g.d_v, 0.0), {}};
  const std::byte* q = q_.data() + (std::size_t{task.query} * (rows_per_task() + 2) + 1 + head) * code_bytes({g.payload}, g.d_k);
  std::vector<const float*> values;
  for (std::uint32_t i = task.first_page; i < task.first_page + task.n_pages; ++i) {
    for (std::uint32_t slot = 0; slot < reads_[i].n_slots; ++slot) {
      double logit = 0.0;
      const float* k = k_row(read_pages_[i], head / g.group, slot);
      for (std::uint32_t c = 0; c < g.d_k; ++c) logit += static_cast<double>(load_raw(g.payload, q, c)) * static_cast<double>(k[c]);
      row.logits.push_back(is_read(reads_[i], slot) ? scale * logit : nothing);
      values.push_back(v_row(read_pages_[i], head / g.group, slot));
      row.m = std::max(row.m, row.logits.back());
    }
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (row.logits[i] == nothing) continue;
    const double p = std::exp(row.logits[i] - row.m);
    row.l += p;
    for (std::uint32_t c = 0; c < g.d_v; ++c) row.o[c] += p * static_cast<double>(values[i][c]);
  }
  return row;
}

}  // namespace moekv::test
