// Forms steps in a fixed order of requests, so every process plans the same batch without asking another.
#include "engine/batcher.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "core/units.hpp"

namespace moekv {

std::uint64_t planned_bytes(const Geometry& geometry, std::uint32_t request_tokens) {
  const RunSpec& spec = geometry.spec();
  const std::uint32_t slots = geometry.page_slots();
  const std::uint64_t block = geometry.raw_format(geometry.heads_per_group()).block_bytes();
  std::uint64_t bytes = 0;
  for (const ReplayLayer& layer : geometry.layers()) {
    const Layout layout = geometry.layout(layer);
    std::uint64_t entries = request_tokens;
    std::uint64_t open_pages = 1;
    if (layout == Layout::expert) {
      entries = (entries * geometry.top_k() + geometry.n_shards() - 1) / geometry.n_shards();
      open_pages = geometry.pages_by_expert() ? (geometry.n_experts() + geometry.n_shards() - 1) / geometry.n_shards() : 1;
    } else if (layout == Layout::token) {
      entries = (entries + geometry.n_shards() - 1) / geometry.n_shards();
    }
    const bool counts_entries = spec.eviction.budget.kind == BudgetKind::fraction || spec.eviction.budget.kind == BudgetKind::tokens;
    if (spec.eviction.scope == EvictScope::request && counts_entries && spec.prefill.evict == PrefillEvict::chunk) {
      entries = std::min<std::uint64_t>(entries, geometry.request_budget(layer, ShardId(0), request_tokens, ShardId(0)) + spec.prefill.chunk_tokens);
    }
    bytes += ((entries + slots - 1) / slots + open_pages) * block * geometry.n_head_groups(Rank(0));
  }
  return bytes;
}

Batcher::Batcher(const Geometry& geometry, const TraceSource& trace)
    : geometry_(&geometry), max_tokens_(geometry.spec().batch.max_num_batched_tokens) {
  const RunSpec& spec = geometry.spec();
  const std::uint32_t first = std::min(spec.trace.first_request, trace.n_requests());
  std::uint32_t end = trace.n_requests();
  if (spec.trace.max_requests > 0) end = std::min(end, first + spec.trace.max_requests);
  const std::uint64_t capacity = spec.memory.shard_bytes;
  std::uint32_t unknown_arrivals = 0;
  for (std::uint32_t r = first; r < end; ++r) {
    const RequestInfo info = trace.request(RequestId(r));
    unknown_arrivals += info.arrival_ns < 0 ? 1 : 0;
    std::uint32_t prompt = info.prompt_tokens;
    std::uint32_t output = info.output_tokens;
    if (spec.trace.max_prompt_tokens > 0 && prompt > spec.trace.max_prompt_tokens) {
      prompt = spec.trace.max_prompt_tokens;
      output = 0;  // positions must stay consecutive, so a cut prompt ends its request
      cut_prompts_ += 1;
    }
    if (spec.trace.max_output_tokens > 0) output = std::min(output, spec.trace.max_output_tokens);
    if (prompt + output == 0) continue;
    const Request request{RequestId(r), prompt, prompt + output, std::max<std::int64_t>(0, info.arrival_ns)};
    if (capacity > 0 && spec.eviction.scope == EvictScope::request && planned_bytes(geometry, request.total) > capacity) {
      throw PointFailure(fmt::format("request {} of {} tokens needs {} a shard, memory.shard_bytes is {}: it can never start", r, request.total,
                                     format_bytes(static_cast<std::int64_t>(planned_bytes(geometry, request.total))),
                                     format_bytes(static_cast<std::int64_t>(capacity))));
    }
    requests_.push_back(request);
    total_tokens_ += request.total;
  }
  if (spec.batch.load == LoadKind::arrivals) {
    if (unknown_arrivals > 0) {
      throw UserError(spec.trace.path.empty() ? trace.info().path : spec.trace.path,
                      fmt::format("load arrivals needs the arrival time of every request; {} of {} have none", unknown_arrivals, end - first),
                      "use batch.load: concurrency(n), or record all arrivals");
    }
    std::stable_sort(requests_.begin(), requests_.end(), [](const Request& a, const Request& b) { return a.arrival_ns < b.arrival_ns; });
  }
  records_.resize(requests_.size());
  start_measured_.resize(requests_.size());
}

Rank Batcher::choose_home(const Request& request) const {
  if (geometry_->spec().placement.home == HomeRule::modulo) return Rank(request.id.value % geometry_->n_ranks());
  std::vector<std::uint64_t> load(geometry_->n_ranks());  // unfinished tokens
  for (const Active& a : active_) load[a.home.value] += a.request.total - a.done;
  return Rank(static_cast<std::uint32_t>(std::min_element(load.begin(), load.end()) - load.begin()));
}

void Batcher::admit() {
  if (next_ == requests_.size()) return;
  const RunSpec& spec = geometry_->spec();
  const bool by_arrival = spec.batch.load == LoadKind::arrivals;
  if (by_arrival && active_.empty()) clock_ns_ = std::max(clock_ns_, requests_[next_].arrival_ns);
  const std::size_t limit = by_arrival ? spec.batch.max_num_seqs : std::min(spec.batch.max_num_seqs, spec.batch.concurrency);
  const std::uint64_t capacity = spec.eviction.scope == EvictScope::request ? spec.memory.shard_bytes : 0;
  const std::size_t before = active_.size();
  while (next_ < requests_.size() && active_.size() < limit) {
    const Request& request = requests_[next_];
    if (by_arrival && request.arrival_ns > clock_ns_) break;
    const std::uint64_t need = capacity > 0 ? planned_bytes(*geometry_, request.total) : 0;
    if (capacity > 0 && planned_ + need > capacity) break;
    planned_ += need;
    const Rank home = choose_home(request);
    RequestRecord& record = records_[next_];
    record.request = request.id.value;
    record.home = home.value;
    record.prompt_tokens = request.prompt;
    record.output_tokens = request.total - request.prompt;
    record.arrival_ns = by_arrival ? request.arrival_ns : clock_ns_;
    active_.push_back({request, static_cast<std::uint32_t>(next_), home, 0, need});
    next_ += 1;
  }
  if (active_.size() > before)
    std::sort(active_.begin(), active_.end(), [&](const Active& a, const Active& b) { return a.request.id < b.request.id; });
}

std::uint32_t Batcher::observe_begin(const Request& request, std::uint32_t begin, std::uint32_t end) const {
  if (begin >= request.prompt) return begin;
  const RunSpec& spec = geometry_->spec();
  PrefillQueries queries = spec.prefill.queries;
  std::uint32_t last = spec.prefill.last;
  if (queries == PrefillQueries::automatic) {  // what the eviction rule or the codec asks for
    last = geometry_->group_reads().queries;
    const bool all = geometry_->needs_mass() || geometry_->fits_queries();
    queries = all ? PrefillQueries::all : last > 0 ? PrefillQueries::last : PrefillQueries::none;
  }
  switch (queries) {
    case PrefillQueries::all:
      return begin;
    case PrefillQueries::last:
      return std::clamp(request.prompt > last ? request.prompt - last : 0, begin, end);
    default:
      return end;
  }
}

std::uint64_t Batcher::total_queries() const {
  std::uint64_t n = 0;
  for (const Request& request : requests_) n += request.total - query_begin(request, 0, request.prompt);
  return n;
}

std::uint64_t Batcher::least_steps() const {
  const std::uint64_t chunk = geometry_->spec().prefill.chunk_tokens;
  std::uint64_t n = 0;
  for (const Request& request : requests_) n = std::max(n, (request.prompt + chunk - 1) / chunk + request.total - request.prompt);
  const std::uint64_t most = geometry_->spec().batch.max_steps;
  return most > 0 ? std::min(n, most) : n;
}

void Batcher::start(std::uint32_t index) {
  RequestRecord& record = records_[index];
  record.first_step = static_cast<std::int64_t>(step_);
  record.queue_delay_model_ns = clock_ns_ - record.arrival_ns;
  start_measured_[index] = measured_ns_;
}

const StepBatch& Batcher::next() {
  admit();
  batch_.step = step_;
  batch_.items.clear();
  // Decode tokens first, then prompt chunks while the token budget lasts; both in ascending request order.
  std::uint32_t decode_room = 0;
  for (const Active& a : active_) decode_room += a.done >= a.request.prompt && decode_room < max_tokens_ ? 1 : 0;
  std::uint32_t prompt_room = max_tokens_ - decode_room;
  for (const Active& a : active_) {
    const Request& request = a.request;
    const std::uint32_t begin = a.done;
    if (begin >= request.prompt) {
      if (decode_room == 0) continue;
      decode_room -= 1;
      batch_.items.push_back({request.id, a.home, begin, begin + 1, begin, begin, request.prompt, request.total});
      if (begin == 0) start(a.index);
      continue;
    }
    const std::uint32_t take = std::min({geometry_->spec().prefill.chunk_tokens, request.prompt - begin, prompt_room}), end = begin + take;
    if (take == 0) continue;
    prompt_room -= take;
    if (begin == 0) start(a.index);
    batch_.items.push_back(
        {request.id, a.home, begin, end, query_begin(request, begin, end), observe_begin(request, begin, end), request.prompt, request.total});
  }
  return batch_;
}

void Batcher::Gaps::add(std::int64_t measured_ns, std::int64_t model_ns) {
  newest_.push_back({measured_ns, model_ns});
  if (newest_.size() == most_new) settle();
}

void Batcher::Gaps::settle() {
  for (const auto& [measured_ns, model_ns] : newest_) {
    measured.add(static_cast<double>(measured_ns));
    measured_bins.add(static_cast<std::uint64_t>(measured_ns));
    model.add(static_cast<double>(model_ns));
    model_bins.add(static_cast<std::uint64_t>(model_ns));
  }
  newest_.clear();
}

void Batcher::stamp_token(Active& active, std::uint32_t index) {
  if (index > 0) gaps_.add(measured_ns_ - active.token_measured_ns, clock_ns_ - active.token_clock_ns);
  active.token_measured_ns = measured_ns_;
  active.token_clock_ns = clock_ns_;
  if (index != 1) return;
  RequestRecord& record = records_[active.index];
  record.ttst_model_ns = clock_ns_ - record.arrival_ns;
  record.ttst_ns = measured_ns_ - start_measured_[active.index];
}

std::vector<RequestRecord> Batcher::records() const {
  std::vector<RequestRecord> all = records_;
  for (const Active& a : active_) all[a.index].last_step = a.last_step;
  std::erase_if(all, [](const RequestRecord& r) { return r.queue_delay_model_ns < 0; });
  return all;
}

void Batcher::take_gaps(RunOutcome& out) {
  gaps_.settle();
  // Every bin that a signed number can be in, so that modelled numbers stand in the same rows whatever was measured.
  for (std::size_t bin = 0; bin + 1 < LogBins::n_bins; ++bin)
    out.gaps.push_back({static_cast<std::int64_t>(LogBins::low(bin)), static_cast<std::int64_t>(LogBins::high(bin)), gaps_.measured_bins.count[bin],
                        gaps_.model_bins.count[bin]});
  out.kv_itl = std::move(gaps_.measured);
  out.kv_itl_model = std::move(gaps_.model);
}

void Batcher::finish_step(const StepBatch& batch, std::int64_t model_ns, std::int64_t measured_ns) {
  clock_ns_ += model_ns;
  measured_ns_ += measured_ns;
  step_ += 1;
  auto it = active_.begin();  // both lists are in the order of requests
  for (const BatchItem& item : batch.items) {
    it = std::find_if(it, active_.end(), [&](const Active& a) { return a.request.id == item.request; });
    it->done = item.end;
    it->last_step = static_cast<std::int64_t>(batch.step);
    const std::uint32_t first = std::min(item.total_tokens, item.prompt_tokens + 1);  // tokens stored once the first output token is
    if (item.begin < first && item.end >= first) {
      RequestRecord& record = records_[it->index];
      record.kv_ttft_model_ns = clock_ns_ - record.arrival_ns;
      record.kv_ttft_ns = measured_ns_ - start_measured_[it->index];
    }
    if (item.end > item.prompt_tokens) stamp_token(*it, item.end - item.prompt_tokens - 1);
    if (!item.finishes()) continue;
    RequestRecord& record = records_[it->index];
    record.last_step = it->last_step;
    record.e2e_model_ns = clock_ns_ - record.arrival_ns;
    record.e2e_ns = measured_ns_ - start_measured_[it->index];
    planned_ -= it->planned_bytes;
    it = active_.erase(it);
  }
}

}  // namespace moekv
