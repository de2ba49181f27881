// Sealing: which pages, in which class of the codec, how far from their entries a sample of them is, and the state of a rule that scores errors.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/math.hpp"
#include "core/rng.hpp"
#include "engine/owner.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t most_queries = 32;        // that a page is sealed with
constexpr std::uint32_t importance_queries = 8;   // of these, the newest
constexpr std::uint64_t pages_per_sample = 8;

/// Pages with the entries of them that live, to be attended to.
struct LivePages {
  std::vector<PageRead> reads;
  std::vector<std::uint64_t> masks;
  std::uint32_t entries = 0;

  void add(const Shard& shard, std::uint32_t index) {
    const Page& page = shard.pages()[index];
    reads.push_back({page.block, page.used});
    if (page.live < page.used) {
      reads.back().mask = static_cast<std::uint32_t>(masks.size());
      for (std::uint32_t w = 0; w * 64 < page.used; ++w) masks.push_back(shard.live_word(page, index, w));
    }
    entries += page.live;
  }
};

std::int64_t millionths(double x) { return std::llround((x < 1e6 ? x : 1e6) * 1e6); }

}  // namespace

bool Owner::is_due_to_seal(const Shard& shard, const Page& page) const {
  const RequestTable::Row& row = (*requests_)[shard.groups()[page.group].request];
  const bool prompt_ends = row.step == step_ && row.length == row.prompt_tokens;
  const bool full = page.used == geometry_->page_slots() || (prompt_ends && page.used >= min_sealed_entries);
  return full && page.max_position + geometry_->spec().compression.raw_window_tokens < row.length;
}

void Owner::find_due() {
  for (const auto& page : appended_) unsealed_.push_back(page);
  std::sort(unsealed_.begin(), unsealed_.end());
  unsealed_.erase(std::unique(unsealed_.begin(), unsealed_.end()), unsealed_.end());
  due_.clear();
  std::erase_if(unsealed_, [&](const auto& item) {
    Shard& s = shards_[item.first];
    const Page& page = s.pages()[item.second];
    if (page.group == no_index || page.sealed) return true;
    const Group& group = s.groups()[page.group];
    if (group.chains[page.chain].side) return true;
    if (group.layer != layer_) return false;
    if (!is_due_to_seal(s, page)) return false;
    due_.push_back({item.first, item.second, 0});
    return true;
  });
}

void Owner::choose_classes() {
  const ClassChoice& choice = geometry_->class_choice();
  if (choice.by == ChooseBy::importance) {
    for (DuePage& due : due_) due.page_class = class_of_importance(choice, importance(due));
  }
  if (choice.by == ChooseBy::error) {
    std::vector<DuePage*> open;
    for (DuePage& due : due_) open.push_back(&due);
    for (std::uint32_t c = 0; c < geometry_->largest_class() && !open.empty(); ++c) {
      std::vector<SealOp> ops;
      for (const DuePage* due : open) ops.push_back(shards_[due->shard_index].seal_op(due->page, c));
      std::vector<SealAudit> audits(ops.size());
      backend_->audit(ops, AuditOf::trial, geometry_->softmax_scale(), audits.data());
      std::vector<DuePage*> larger;
      for (std::size_t i = 0; i < open.size(); ++i) {
        if (!needs_larger_class(choice, audits[i].spread_error)) continue;
        open[i]->page_class = c + 1;
        larger.push_back(open[i]);
      }
      open.swap(larger);
    }
  }
  if (choice.by == ChooseBy::fixed) return;
  for (const DuePage& due : due_) {
    const Shard& s = shards_[due.shard_index];
    const Page& page = s.pages()[due.page];
    const Group& group = s.groups()[page.group];
    const ExpertId expert = group.chains[page.chain].expert;
    counters_->digest.add({step_, geometry_->layers()[layer_].layer.value, Decision::seal, group.request.value, page.min_position, expert.value,
                           s.id().value << 8 | group.head_group, due.page_class});
  }
}

double Owner::importance(const DuePage& due) const {
  const Shard& s = shards_[due.shard_index];
  const Group& group = s.groups()[s.pages()[due.page].group];
  SealOp op;
  attach_queries(op, s, group);
  if (op.q == nullptr) return unknown_importance;
  const std::uint32_t n_q = std::min(op.n_q, importance_queries);
  const ModelShape& model = geometry_->spec().model;
  LivePages live;
  live.add(s, due.page);
  for (const std::uint32_t c : group.order) {
    for (const std::uint32_t index : group.chains[c].pages) {
      if (index != due.page) live.add(s, index);
    }
  }
  // Each query twice: over the page alone, and over all.
  const std::uint32_t n_kv = geometry_->head_group_width(s.rank(), group.head_group), heads = n_kv * op.q_group;
  std::vector<AttendTask> tasks;
  for (std::uint32_t i = 0; i < 2 * n_q; ++i)
    tasks.push_back({0, i % 2 == 0 ? 1U : static_cast<std::uint32_t>(live.reads.size()), i / 2, 0, n_kv, op.q_group, i * heads, 0});
  std::vector<float> m(tasks.size() * heads), l(m.size()), o(m.size() * model.d_v);
  backend_->attend({tasks, live.reads, live.masks, op.q + (op.n_q - n_q) * op.q_stride, geometry_->spec().payload.element, q_row_heads_,
                    model.d_k, model.d_v, geometry_->softmax_scale(), m.data(), l.data(), o.data()});
  backend_->sync();
  const double average = static_cast<double>(s.pages()[due.page].live) / live.entries;
  double sum = 0;
  for (std::size_t i = 0; i < std::size_t{n_q} * heads; ++i) {
    const std::size_t page = i / heads * 2 * heads + i % heads, all = page + heads;
    sum += importance_of(static_cast<double>(exp_fixed(m[page] - m[all]) * l[page] / l[all]) / average);
  }
  return sum / (n_q * heads);
}

void Owner::seal() {
  if (!geometry_->compressed()) return;
  if (demotes_) recall_unsealed();
  const auto start = std::chrono::steady_clock::now();
  find_due();
  choose_classes();
  std::vector<SealOp> ops;
  for (const DuePage& due : due_) {
    Shard& s = shards_[due.shard_index];
    ops.push_back(s.seal(due.page, due.page_class));
    if (payload_ && geometry_->fits_queries()) attach_queries(ops.back(), s, s.groups()[s.pages()[due.page].group]);
    counters_->codec[due.page_class].sealed_pages += 1;
    counters_->step.sealed_raw_bytes += ops.back().n_slots * geometry_->entry_bytes(heads_of(s, due.page));
    const std::uint64_t bytes = geometry_->head_bytes(false, 0) + geometry_->head_bytes(true, due.page_class);  // read and written
    counters_->page_bytes_moved(s.rank(), static_cast<std::int64_t>(bytes * heads_of(s, due.page)));
  }
  if (payload_ && !ops.empty()) {
    const bool errors = geometry_->scores_error();
    if (errors) note_raw(ops);
    backend_->seal(ops);
    backend_->sync();
    if (errors) score_errors(ops);
  }
  encode_ns += (std::chrono::steady_clock::now() - start).count();
  if (payload_ && geometry_->spec().probe.samples > 0) audit(ops);
}

void Owner::audit(std::span<const SealOp> ops) {
  std::vector<SealOp> sample;
  std::vector<std::uint32_t> classes;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const Shard& s = shards_[due_[i].shard_index];
    const Page& page = s.pages()[due_[i].page];
    const Group& group = s.groups()[page.group];
    const std::uint64_t draw = hash_words(geometry_->spec().probe.seed, 0x73U, group.request.value, group.layer, page.min_position,
                                          s.id().value, group.head_group, group.chains[page.chain].expert.value);
    if (draw % pages_per_sample != 0) continue;
    sample.push_back(ops[i]);
    if (sample.back().q == nullptr) attach_queries(sample.back(), s, group);
    classes.push_back(due_[i].page_class);
  }
  std::vector<SealAudit> audits(sample.size());
  backend_->audit(sample, AuditOf::stored, geometry_->softmax_scale(), audits.data());
  for (std::size_t i = 0; i < sample.size(); ++i) {
    CodecRecord& count = counters_->codec[classes[i]];
    const SealAudit& a = audits[i];
    count.sampled_pages += 1;
    count.k_err_ppm += millionths(a.k_error);
    count.v_err_ppm += millionths(a.v_error);
    count.code_bits += a.code_bits;
    count.entropy_bits += a.entropy_bits;
    if (std::isnan(a.logit_error)) continue;
    count.asked_pages += 1;
    count.logit_err_ppm += millionths(a.logit_error);
    count.attention_err_ppm += millionths(a.attention_error);
  }
}

void Owner::attach_queries(SealOp& op, const Shard& shard, const Group& group) const {
  const HeadSlice slice = geometry_->slice(shard.rank());
  const std::size_t row = std::size_t{geometry_->spec().model.d_k} * geometry_->payload_bytes();
  const std::size_t first_head = std::size_t{group.head_group} * geometry_->heads_per_group();
  op.q_stride = q_row_heads_ * row;
  op.q_group = slice.group();
  if (q_rows_.empty()) return;
  for (std::size_t i = 0; i < queries_.size(); ++i) {  // of one request they lie one after another
    if (queries_[i].rank != shard.rank() || queries_[i].request != group.request) continue;
    const std::byte* q = q_rows_.data() + (i * q_row_heads_ + first_head * slice.group()) * row;
    const bool follows = op.q != nullptr && op.q + op.n_q * op.q_stride == q;
    if (!follows) op.q = q;
    op.n_q = follows ? op.n_q + 1 : 1;
  }
  if (op.n_q > most_queries) {
    op.q += (op.n_q - most_queries) * op.q_stride;
    op.n_q = most_queries;
  }
}

void Owner::note_raw(std::span<const SealOp> ops) {
  const ModelShape& model = geometry_->spec().model;
  const std::size_t width = std::size_t{model.d_k} + model.d_v;
  raw_rows_.clear();
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const std::uint32_t n_heads = heads_of(shards_[due_[i].shard_index], due_[i].page);
    for (std::uint32_t slot = 0; slot < ops[i].n_slots; ++slot) {
      for (std::uint32_t head = 0; head < n_heads; ++head) {
        raw_rows_.resize(raw_rows_.size() + width);
        float* row = &raw_rows_[raw_rows_.size() - width];
        backend_->read_row(ops[i].from, head, slot, row, row + model.d_k);
      }
    }
  }
}

void Owner::score_errors(std::span<const SealOp> ops) {
  const ModelShape& model = geometry_->spec().model;
  const std::size_t width = std::size_t{model.d_k} + model.d_v;
  std::vector<float> decoded(width);
  const float* raw = raw_rows_.data();
  for (std::size_t i = 0; i < ops.size(); ++i) {
    Shard& s = shards_[due_[i].shard_index];
    const std::uint32_t n_heads = heads_of(s, due_[i].page);
    for (std::uint32_t slot = 0; slot < ops[i].n_slots; ++slot) {
      float off = 0, all = 0;
      for (std::uint32_t head = 0; head < n_heads; ++head, raw += width) {
        backend_->read_row(ops[i].to, head, slot, decoded.data(), decoded.data() + model.d_k);
        for (std::size_t c = 0; c < (model.mla() ? model.d_k : width); ++c) {
          off += (decoded[c] - raw[c]) * (decoded[c] - raw[c]);
          all += raw[c] * raw[c];
        }
      }
      s.state(s.at(due_[i].page, slot)) = {all > 0 ? off / all : 0.0F, 0};
    }
    const std::uint64_t sealed = geometry_->sealed_format(n_heads, due_[i].page_class).block_bytes();
    const auto bytes = static_cast<std::int64_t>(geometry_->raw_format(n_heads).block_bytes() + sealed);
    counters_->step.scoring_bytes += bytes;
    counters_->page_bytes_moved(s.rank(), bytes);
  }
}

std::uint32_t Owner::heads_of(const Shard& shard, std::uint32_t page) const {
  return geometry_->head_group_width(shard.rank(), shard.groups()[shard.pages()[page].group].head_group);
}

}  // namespace moekv
