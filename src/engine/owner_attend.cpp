// Owner, phase attend: the tasks of each query, and the attention kernel with the merge over the shards of a rank.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include "engine/owner.hpp"

namespace moekv {

void Owner::build_group(Query& query, std::uint32_t shard_index, Group& group, std::uint32_t base_row) {
  Shard& s = shards_[shard_index];
  const HeadSlice slice = geometry_->slice(query.rank);
  const ReadFilter filter = filter_of(query);
  const std::size_t first_read = reads_.size();
  const std::uint32_t q_head = group.head_group * geometry_->heads_per_group() * slice.group();
  const std::uint32_t n_kv_heads = geometry_->head_group_width(query.rank, group.head_group);
  const std::size_t first_probe = probe_words_.size();
  if (query.header->probe != 0) probe_words_.insert(probe_words_.end(), {query.header->query, slice.q_begin + q_head, n_kv_heads * slice.group(), 0});
  ReadTally tally;
  const std::uint32_t read = read_group(query, s, group, filter, tally);
  if (query.header->probe != 0) probe_words_[first_probe + 3] = static_cast<std::uint32_t>(probe_words_.size() - first_probe - 4);
  s.mark_queried(group, step_, query.experts);
  count_read(s, shard_index, read, tally.scanned, static_cast<std::int64_t>(tally.bytes * n_kv_heads));
  query.n_read += read;
  if (!payload_) return;
  if (const std::uint32_t kept = geometry_->group_reads().queries; kept > 0 && query.header->observed != 0) {
    const std::size_t row = std::size_t{geometry_->spec().model.d_k} * geometry_->payload_bytes();
    const std::size_t first = std::size_t{group.head_group} * geometry_->heads_per_group() * slice.group();
    const std::size_t heads = std::size_t{geometry_->head_group_width(query.rank, group.head_group)} * slice.group();
    group.recent.push(query.header->position, {query.q + first * row, heads * row}, kept);
  }
  AttendTask task;
  task.first_page = static_cast<std::uint32_t>(first_read);
  task.n_pages = static_cast<std::uint32_t>(reads_.size() - first_read);
  task.query = static_cast<std::uint32_t>(&query - queries_.data());
  task.n_kv_heads = n_kv_heads;
  task.group = slice.group();
  task.q_head = q_head;
  task.out = base_row + task.q_head;
  task.logits = n_logits_;
  std::uint64_t slots = 0;
  for (std::size_t i = first_read; i < reads_.size(); ++i) slots += reads_[i].n_slots;
  if (geometry_->needs_mass()) n_logits_ += slots * task.n_kv_heads * task.group;
  tasks_.push_back(task);
  task_shard_.push_back(shard_index);
}

void Owner::note_experts(const Query& query) {
  query_words_.assign((geometry_->n_experts() + 63) / 64, 0);
  for (const std::uint16_t e : query.experts) {
    if (e != ExpertId::invalid) query_words_[e / 64] |= 1ULL << (e % 64);
  }
}

void Owner::build_query(Query& query) {
  const Placement& placement = geometry_->placement();
  note_experts(query);
  query.first_task = static_cast<std::uint32_t>(tasks_.size());
  query.first_probe = static_cast<std::uint32_t>(probe_words_.size());
  query.first_part = static_cast<std::uint32_t>(part_rows_.size());
  const std::uint32_t heads = geometry_->slice(query.rank).q_count;
  for (std::uint32_t s = placement.first_shard(query.rank.value); s < placement.first_shard(query.rank.value + 1); ++s) {
    Shard& owner = shard(ShardId(s));
    bool any = false, all = true;
    for (std::uint32_t hg = 0; hg < geometry_->n_head_groups(query.rank); ++hg) {
      Group* group = owner.find(RequestId(query.header->request), layer_, hg);
      if (group == nullptr) {
        all = false;
        continue;
      }
      build_group(query, s - first_shard_, *group, n_rows_);
      any = true;
    }
    if (!any) continue;
    some_group_absent_ |= !all;
    part_rows_.push_back(n_rows_);
    n_rows_ += heads;
  }
  query.n_parts = static_cast<std::uint32_t>(part_rows_.size()) - query.first_part;
  query.n_tasks = static_cast<std::uint32_t>(tasks_.size()) - query.first_task;
  query.n_probe = static_cast<std::uint32_t>(probe_words_.size()) - query.first_probe;
  counters_->digest.add({step_, geometry_->layers()[layer_].layer.value, Decision::read, query.header->request, query.header->position, 0,
                         query.rank.value, query.n_read});
}

void Owner::attend() {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  tasks_.clear();
  task_shard_.clear();
  reads_.clear();
  task_pages_.clear();
  probe_words_.clear();
  masks_.clear();
  part_rows_.clear();
  n_rows_ = 0;
  some_group_absent_ = false;
  n_logits_ = 0;
  if (payload_) pack_queries();
  if (selects(geometry_->spec().read.select)) choose_pages();
  for (Query& query : queries_) build_query(query);
  const auto listed = Clock::now();
  select_ns += (listed - start).count();
  copy_recalled();
  const auto recalled = Clock::now();
  if (!payload_) return;
  run_kernel();
  decode_ns += (Clock::now() - recalled).count();
}

void Owner::pack_queries() {
  const std::size_t row = std::size_t{geometry_->spec().model.d_k} * geometry_->payload_bytes();
  q_row_heads_ = 0;
  for (const Query& query : queries_) q_row_heads_ = std::max(q_row_heads_, geometry_->slice(query.rank).q_count);
  q_rows_.resize(queries_.size() * q_row_heads_ * row);
  for (std::size_t i = 0; i < queries_.size(); ++i) {
    std::memcpy(q_rows_.data() + i * q_row_heads_ * row, queries_[i].q, geometry_->slice(queries_[i].rank).q_count * row);
  }
}

void Owner::list_merges() {
  merge_offsets_.clear();
  merge_parts_.clear();
  for (Query& query : queries_) query.first_row = query.n_parts > 0 ? part_rows_[query.first_part] : no_index;
  if (std::none_of(queries_.begin(), queries_.end(), [](const Query& q) { return q.n_parts > 1; })) return;
  merge_offsets_.assign(1, 0);
  for (Query& query : queries_) {
    if (query.n_parts == 0) continue;
    query.first_row = static_cast<std::uint32_t>(merge_offsets_.size() - 1);
    for (std::uint32_t h = 0; h < geometry_->slice(query.rank).q_count; ++h) {
      for (std::uint32_t i = 0; i < query.n_parts; ++i) merge_parts_.push_back(part_rows_[query.first_part + i] + h);
      merge_offsets_.push_back(static_cast<std::uint32_t>(merge_parts_.size()));
    }
  }
  n_rows_ = static_cast<std::uint32_t>(merge_offsets_.size() - 1);
}

void Owner::run_kernel() {
  const ModelShape& model = geometry_->spec().model;
  list_merges();
  m_.resize(n_rows_);
  l_.resize(n_rows_);
  o_.resize(std::size_t{n_rows_} * model.d_v);
  if (merge_offsets_.empty() && some_group_absent_) {  // rows of head groups that a shard does not hold are empty partials
    std::ranges::fill(m_, -std::numeric_limits<float>::infinity());
    std::ranges::fill(l_, 0.0F);
    std::ranges::fill(o_, 0.0F);
  }
  const bool keeps = geometry_->needs_mass() && backend_->keeps_logits();
  const bool brings = geometry_->needs_mass() && (!keeps || geometry_->window_queries() > 0);
  logits_.resize(brings ? n_logits_ : 0);
  const AttendBatch batch{tasks_,
                          reads_,
                          masks_,
                          q_rows_.data(),
                          geometry_->spec().payload.element,
                          q_row_heads_,
                          model.d_k,
                          model.d_v,
                          geometry_->softmax_scale(),
                          m_.data(),
                          l_.data(),
                          o_.data(),
                          brings ? logits_.data() : nullptr,
                          merge_offsets_,
                          merge_parts_,
                          keeps};
  backend_->attend(batch);
  backend_->sync();
}

}  // namespace moekv
