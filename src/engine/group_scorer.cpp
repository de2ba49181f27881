// The host hook of rules that score a group: rows decoded from the store and recent queries in, one score for each entry out.
#include "engine/group_scorer.hpp"

#include <algorithm>

#include "rules/codec/element.hpp"
#include "trace/generator_tables.hpp"

namespace moekv {

GroupScorer::GroupScorer(const Geometry& geometry, Backend& backend, Counters& counters, const RequestTable& requests)
    : geometry_(&geometry), backend_(&backend), counters_(&counters), requests_(&requests) {
  const evict::Traits& rule = traits_of(geometry.spec().eviction.rule);
  sums_layers_ = rule.sums_layers;
  active_ = sums_layers_ || rule.scores_groups;
  const ModelShape& model = geometry.spec().model;
  if (geometry.group_reads().queries > 0) turns_ = rope_turns(model.rope_theta > 1 ? model.rope_theta : 10000.0, model.mla() ? model.latent.d_rope : model.d_k);
}

void GroupScorer::score(Shard& shard, const Group& group, std::uint64_t step) {
  scores_.resize(std::max(scores_.size(), shard.pages().size() * geometry_->page_slots()));
  list_entries(shard, group);
  if (sums_layers_) {
    sum_layers(shard, group, step);
  } else {
    score_rows(shard, group);
  }
}

void GroupScorer::list_entries(const Shard& shard, const Group& group) {
  entries_.clear();
  for (const Chain& chain : group.chains) {
    for (const std::uint32_t p : chain.pages) {
      for (std::uint32_t slot = 0; slot < shard.pages()[p].used; ++slot) {
        if (shard.live(p, slot)) entries_.push_back({p, slot, shard.position(shard.at(p, slot))});
      }
    }
  }
  std::stable_sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.position < b.position; });
}

evict::GroupView GroupScorer::view_of(Shard& shard, const Group& group) {
  const ModelShape& model = geometry_->spec().model;
  std::vector<std::uint32_t> known;  // pages in order of their first entry
  positions_.clear();
  pages_.clear();
  states_.clear();
  for (const Entry& e : entries_) {
    auto at = std::find(known.begin(), known.end(), e.page);
    if (at == known.end()) at = known.insert(at, e.page);
    pages_.push_back(static_cast<std::uint32_t>(at - known.begin()));
    positions_.push_back(e.position);
    states_.push_back(geometry_->keeps_state() ? shard.state(shard.at(e.page, e.slot)).value : 0.0F);
  }
  evict::GroupView view;
  view.n = static_cast<std::uint32_t>(entries_.size());
  view.length = (*requests_)[group.request].length;
  view.d_k = model.d_k;
  view.d_v = model.d_v;
  view.n_queries = static_cast<std::uint32_t>(group.recent.positions.size());
  view.q_group = geometry_->slice(shard.rank()).group();
  view.scale = geometry_->softmax_scale();
  view.positions = positions_.data();
  view.pages = pages_.data();
  view.states = states_.data();
  view.rope_turns = turns_.data();
  view.rope_pairs = static_cast<std::uint32_t>(turns_.size());
  view.rope_first = model.mla() ? model.latent.d_c : 0;
  return view;
}

void GroupScorer::score_rows(Shard& shard, const Group& group) {
  const evict::GroupReads& reads = geometry_->group_reads();
  const EvictionSpec& spec = geometry_->spec().eviction;
  const bool by_head = reads.keys || reads.values || reads.queries > 0;
  const std::uint32_t width = geometry_->head_group_width(shard.rank(), group.head_group), n_heads = by_head ? width : 1;
  evict::GroupView view = view_of(shard, group);
  group_scores_.assign(view.n, 0.0F);
  for (std::uint32_t head = 0; head < n_heads; ++head) {
    read_store(shard, head);
    read_queries(group, head, width);
    view.keys = keys_.data();
    view.values = values_.data();
    view.queries = queries_.data();
    view.query_positions = query_positions_.data();
    head_scores_.assign(view.n, 0.0F);
    std::visit([&](const auto& rule) {
      if constexpr (evict::scores_groups<std::decay_t<decltype(rule)>>) rule.score_group(view, head_scores_.data());
    }, spec.rule);
    for (std::uint32_t i = 0; i < view.n; ++i) {
      const float most = head == 0 ? head_scores_[i] : std::max(group_scores_[i], head_scores_[i]);
      group_scores_[i] = spec.head_reducer == Reducer::max ? most : group_scores_[i] + head_scores_[i];
    }
  }
  const float share = spec.head_reducer == Reducer::mean ? 1.0F / static_cast<float>(n_heads) : 1.0F;
  for (std::uint32_t i = 0; i < view.n; ++i) scores_[shard.at(entries_[i].page, entries_[i].slot)] = share * group_scores_[i];
  if (reads.keys || reads.values) count_bytes(shard, n_heads);
}

void GroupScorer::read_store(const Shard& shard, std::uint32_t head) {
  const evict::GroupReads& reads = geometry_->group_reads();
  if (!reads.keys && !reads.values) return;
  const ModelShape& model = geometry_->spec().model;
  keys_.resize(entries_.size() * model.d_k);
  values_.resize(entries_.size() * model.d_v);
  for (std::size_t i = 0; i < entries_.size(); ++i)
    backend_->read_row(shard.pages()[entries_[i].page].block, head, entries_[i].slot, &keys_[i * model.d_k], &values_[i * model.d_v]);
}

void GroupScorer::read_queries(const Group& group, std::uint32_t head, std::uint32_t n_heads) {
  const RecentQueries& recent = group.recent;
  query_positions_.clear();
  if (recent.positions.empty()) return;
  const ElementFormat format = geometry_->spec().payload.element;
  const std::size_t row_bytes = recent.rows.size() / recent.positions.size(), head_bytes = row_bytes / n_heads;
  const std::size_t values = head_bytes / geometry_->payload_bytes();
  queries_.resize(recent.positions.size() * values);
  for (std::uint32_t j = 0; j < recent.positions.size(); ++j) {
    const std::uint32_t row = recent.row(j);
    query_positions_.push_back(recent.positions[row]);
    const std::byte* from = &recent.rows[row * row_bytes + head * head_bytes];
    for (std::uint32_t i = 0; i < values; ++i) queries_[j * values + i] = load_raw(format, from, i);
  }
}

void GroupScorer::count_bytes(const Shard& shard, std::uint32_t n_heads) {
  const evict::GroupReads& reads = geometry_->group_reads();
  const auto slots_of = [&](const BlockFormat& f) {  // bytes of the planes that are read, of all slots of a head
    const std::uint64_t k = f.v_codes() + (f.v_meta() - f.k_meta()), v = (f.k_meta() - f.v_codes()) + (f.k_table() - f.v_meta());
    return (reads.keys || f.latent ? k : 0) + (reads.values && !f.latent ? v : 0);
  };
  const std::uint64_t raw = slots_of(geometry_->raw_format(1));
  std::uint64_t bytes = 0;
  for (const Entry& e : entries_) {
    const Page& page = shard.pages()[e.page];
    bytes += page.sealed ? slots_of(geometry_->sealed_format(1, page.page_class)) : raw;
  }
  const auto read = static_cast<std::int64_t>(bytes * n_heads / geometry_->page_slots());
  counters_->step.scoring_bytes += read;
  counters_->page_bytes_moved(shard.rank(), read);
}

void GroupScorer::sum_layers(Shard& shard, const Group& group, std::uint64_t step) {
  // Before attend the layers of a step decide one after another, each by the states of its moment.
  if (geometry_->evicts_before_attend() || summed_step_ != step || summed_shard_ != shard.id() || summed_request_ != group.request) {
    summed_step_ = step;
    summed_shard_ = shard.id();
    summed_request_ = group.request;
    layer_sums_.assign(geometry_->n_head_groups(shard.rank()), std::vector<float>((*requests_)[group.request].length, 0.0F));
    for (std::uint32_t hg = 0; hg < layer_sums_.size(); ++hg) {
      for (std::uint32_t layer = 0; layer < geometry_->layers().size(); ++layer) {
        const Group* of_layer = shard.find(group.request, layer, hg);
        if (of_layer == nullptr) continue;
        list_entries(shard, *of_layer);
        for (const Entry& e : entries_) layer_sums_[hg][e.position] += shard.state(shard.at(e.page, e.slot)).value;
      }
    }
    list_entries(shard, group);
  }
  for (const Entry& e : entries_) scores_[shard.at(e.page, e.slot)] = layer_sums_[group.head_group][e.position];
}

}  // namespace moekv
