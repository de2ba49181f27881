// Writes joined traces: rows are copied from recordings as a plan says, request by request.
#include "trace/join.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "trace/import_target.hpp"
#include "trace/importers.hpp"
#include "trace/native_file.hpp"

namespace moekv {
namespace {

/// Requests of a trace without its rows.
class RequestList final : public TraceTarget {
 public:
  struct Entry {
    RequestInfo info;
    std::vector<std::uint64_t> hash_ids;
  };
  void open(const WriterSpec& spec) override { spec_ = spec; }
  void begin_request(const RequestInfo& request, std::span<const std::uint64_t> hash_ids) override {
    entries.push_back({request, {hash_ids.begin(), hash_ids.end()}});
  }
  void append(const TokenBlock&) override {}
  void note(const std::string&) override {}
  void finish(const std::vector<std::string>& names) override { domain_names = names; }
  [[nodiscard]] const WriterSpec& spec() const { return spec_; }

  std::vector<Entry> entries;
  std::vector<std::string> domain_names;

 private:
  WriterSpec spec_;
};

/// The recordings, and what a trace made of them says about itself.
class Recordings {
 public:
  explicit Recordings(const std::string& path) : file_(path), source_(open_native_trace(path)) {
    if (!source_->info().has_routing()) throw UserError(path, "is a request trace: it has no routing rows", "give it as the requests");
    for (const auto& request : file_.requests) lengths_.push_back(request.total_tokens());
  }
  [[nodiscard]] const std::vector<std::uint32_t>& lengths() const { return lengths_; }
  [[nodiscard]] const RequestInfo& request(std::uint32_t donor) const { return file_.requests[donor]; }
  [[nodiscard]] std::vector<std::string> domain_names() const {
    return file_.has("requests/domain_names") ? file_.file.dataset("requests/domain_names").read_texts() : std::vector<std::string>{};
  }
  /// Share of prompt tokens over all recordings.
  [[nodiscard]] double prompt_share() const {
    double prompt = 0, total = 0;
    for (const auto& r : file_.requests) {
      prompt += r.prompt_tokens;
      total += r.total_tokens();
    }
    return prompt / total;
  }
  [[nodiscard]] WriterSpec spec(const JoinOptions& options, JoinReport& report) const;
  void copy(const std::vector<Piece>& pieces, NativeWriter& writer);

 private:
  native::NativeFile file_;
  std::unique_ptr<TraceSource> source_;
  std::vector<std::uint32_t> lengths_;
  RoutingRows rows_;
};

WriterSpec Recordings::spec(const JoinOptions& options, JoinReport& report) const {
  WriterSpec spec;
  spec.info = source_->info();
  spec.weight_kind = file_.weight_kind;
  spec.generator = options.generator;
  spec.seed = static_cast<std::int64_t>(options.seed);
  report.notes.push_back(fmt::format("routing rows from {} ({} recordings, digest {})", options.routing, lengths_.size(), spec.info.digest));
  if (!spec.info.kv_layers.empty()) report.notes.emplace_back("recorded q, k, v are left out: their positions do not hold in new sequences");
  spec.info.kv_layers.clear();
  if (spec.info.level == RoutingLevel::candidates) {
    report.notes.emplace_back("candidate lists are left out; chosen experts and weights are kept");
    spec.info.level = RoutingLevel::weights;
    spec.info.n_candidates = 0;
  }
  if (file_.has("tokens/token_id")) report.notes.emplace_back("token ids are left out");
  return spec;
}

void Recordings::copy(const std::vector<Piece>& pieces, NativeWriter& writer) {
  const TraceInfo& info = source_->info();
  const auto n_layers = static_cast<std::uint32_t>(info.moe_layers.size());
  const bool logits = info.level == RoutingLevel::logits;
  TokenBlock block;
  for (const Piece& piece : pieces) {
    for (std::uint32_t begin = 0; begin < piece.n_tokens; begin += block_tokens) {
      const std::uint32_t end = std::min(begin + block_tokens, piece.n_tokens);
      source_->read(RequestId(piece.donor), begin, end, 0, n_layers, logits ? WantLogits::yes : WantLogits::no, rows_);
      block.n_tokens = end - begin;
      block.ids = rows_.ids;
      block.weights = rows_.weights;
      if (logits) block.logits = rows_.logits;
      writer.append(block);
    }
  }
}

void write_log(const JoinReport& report, NativeWriter& writer) {
  for (const auto& line : report.notes) writer.note(line);
}

}  // namespace

JoinReport join_requests(const JoinOptions& options, const std::string& out) {
  ImportOptions input;
  input.inputs = {options.requests};
  input.max_requests = options.n_requests;
  input.max_tokens = options.n_tokens;
  RequestList list;
  const ImportReport imported = import_into(input, list);
  Recordings recordings(options.routing);
  JoinReport report;
  std::vector<std::vector<Piece>> plans;
  for (std::uint32_t r = 0; r < list.entries.size(); ++r) {
    plans.push_back(fill_request(recordings.lengths(), list.entries[r].info.total_tokens(), options.seed, r));
    const Piece& first = plans.back().front();
    ++(plans.back().size() > 1 ? report.continued : first.n_tokens == recordings.lengths()[first.donor] ? report.exact : report.cut);
    report.tokens += list.entries[r].info.total_tokens();
  }
  report.requests = list.entries.size();
  WriterSpec spec = recordings.spec(options, report);
  spec.info.joined = spec.info.joined || report.continued > 0;
  spec.has_hash_ids = list.spec().has_hash_ids;
  spec.hash_block_tokens = list.spec().hash_block_tokens;
  spec.domain_names = list.domain_names;
  report.notes.push_back(fmt::format("arrivals and lengths from {} ({})", options.requests, imported.format));
  report.notes.push_back(fmt::format("{} requests fit a recording exactly, {} are the beginning of a longer one, {} are several in a row",
                                     report.exact, report.cut, report.continued));
  report.notes.emplace_back("recorded rows fill prompt, then output, whatever they were in the recording");
  NativeWriter writer(out, std::move(spec));
  for (std::size_t r = 0; r < plans.size(); ++r) {
    writer.begin_request(list.entries[r].info, list.entries[r].hash_ids);
    recordings.copy(plans[r], writer);
  }
  write_log(report, writer);
  writer.finish();
  return report;
}

JoinReport concat_recordings(const JoinOptions& options, const std::string& out) {
  if (options.n_requests == 0 || options.n_tokens == 0)
    throw UserError("--concat", "the number of sequences and their length are needed", "give --requests N --tokens T");
  Recordings recordings(options.routing);
  const auto plans = concatenate(recordings.lengths(), options.n_requests, options.n_tokens, options.seed);
  const double share = options.prompt_share >= 0 ? options.prompt_share : recordings.prompt_share();
  JoinReport report;
  WriterSpec spec = recordings.spec(options, report);
  spec.info.joined = true;
  spec.domain_names = recordings.domain_names();
  std::vector<std::uint32_t> uses(recordings.lengths().size(), 0);
  for (const auto& pieces : plans) {
    for (const Piece& piece : pieces) ++uses[piece.donor];
    ++(pieces.size() > 1 ? report.continued : pieces[0].n_tokens == recordings.lengths()[pieces[0].donor] ? report.exact : report.cut);
  }
  report.notes.push_back(fmt::format("{} sequences of {} tokens, recordings in an order shuffled by seed {}; one recording occurs up to {} times",
                                     options.n_requests, options.n_tokens, options.seed, *std::ranges::max_element(uses)));
  NativeWriter writer(out, std::move(spec));
  for (const auto& pieces : plans) {
    RequestInfo request = recordings.request(pieces.front().donor);
    request.arrival_ns = -1;
    request.session = -1;
    request.prompt_tokens = static_cast<std::uint32_t>(std::llround(share * options.n_tokens));
    request.output_tokens = options.n_tokens - request.prompt_tokens;
    writer.begin_request(request);
    recordings.copy(pieces, writer);
    report.tokens += options.n_tokens;
    ++report.requests;
  }
  write_log(report, writer);
  writer.finish();
  return report;
}

}  // namespace moekv
