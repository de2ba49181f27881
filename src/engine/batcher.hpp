// Batcher: forms steps: continuous batching with chunked prefill, admission control and a virtual clock. Runs alike on every process.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/geometry.hpp"
#include "engine/records.hpp"
#include "engine/step_batch.hpp"
#include "trace/source.hpp"

namespace moekv {

class StateStream;

/// Pages that a request is planned to need in the fullest shard: an upper estimate from lengths alone, so every process agrees.
[[nodiscard]] std::uint64_t planned_bytes(const Geometry& geometry, std::uint32_t request_tokens);

class Batcher {
 public:
  /// Throws PointFailure when a request can never fit memory.shard_bytes.
  Batcher(const Geometry& geometry, const TraceSource& trace);

  [[nodiscard]] bool done() const { return next_ == requests_.size() && active_.empty(); }
  /// The next step, valid until the next call. Under load arrivals the clock first jumps to the next arrival when nothing is active.
  [[nodiscard]] const StepBatch& next();
  /// Closes the step: advances the virtual clock by its modelled time and stamps requests with it and with the measured time so far.
  void finish_step(const StepBatch& batch, std::int64_t model_ns, std::int64_t measured_ns);

  [[nodiscard]] std::uint64_t total_tokens() const { return total_tokens_; }
  /// Tokens of the run that attend (per layer).
  [[nodiscard]] std::uint64_t total_queries() const;
  /// The run takes at least as many steps as its longest request alone.
  [[nodiscard]] std::uint64_t least_steps() const;
  [[nodiscard]] std::uint64_t cut_prompts() const { return cut_prompts_; }
  /// Of the requests that took part in a step, in the order of their admission.
  [[nodiscard]] std::vector<RequestRecord> records() const;
  /// Gaps between consecutive output tokens, by the measured and by the virtual clock: gives `out` the gaps and their histogram.
  void take_gaps(RunOutcome& out);
  void transfer(StateStream& stream);

 private:
  struct Request {
    RequestId id;
    std::uint32_t prompt = 0, total = 0;
    std::int64_t arrival_ns = 0;
  };
  struct Active {
    Request request;
    std::uint32_t index;  // into requests_
    Rank home;
    std::uint32_t done = 0;  // tokens stored
    std::uint64_t planned_bytes = 0;
    std::int64_t last_step = 0;                              // that it took part in
    std::int64_t token_clock_ns = 0, token_measured_ns = 0;  // when its newest output token's KV path was ready
  };

  void admit();
  /// Stamps a request that takes part in a step for the first time.
  void start(std::uint32_t index);
  /// Stamps an output token that the step stored: `index` counts from 0.
  void stamp_token(Active& active, std::uint32_t index);
  [[nodiscard]] Rank choose_home(const Request& request) const;
  /// First position in [begin, end) whose attention eviction rules look at.
  [[nodiscard]] std::uint32_t observe_begin(const Request& request, std::uint32_t begin, std::uint32_t end) const;
  /// First one that attends: the same in a replay; a model needs the attention of every token.
  [[nodiscard]] std::uint32_t query_begin(const Request& request, std::uint32_t begin, std::uint32_t end) const {
    return geometry_->spec().model.path.empty() ? observe_begin(request, begin, end) : begin;
  }

  const Geometry* geometry_;
  std::uint32_t max_tokens_;  // of a step
  std::vector<Request> requests_;
  std::vector<RequestRecord> records_;
  std::vector<Active> active_;  // ascending request id
  std::size_t next_ = 0;
  std::uint64_t step_ = 0, total_tokens_ = 0, cut_prompts_ = 0, planned_ = 0;
  std::int64_t clock_ns_ = 0, measured_ns_ = 0;
  std::vector<std::int64_t> start_measured_;
  StepBatch batch_;  // the newest step
  /// Between tokens of one request. A step adds few and finds the bins out of every cache, so they are filled many at a time.
  class Gaps {
   public:
    SampleSketch measured, model;
    LogBins measured_bins, model_bins;
    void add(std::int64_t measured_ns, std::int64_t model_ns);
    /// Samples and bins hold all that was added only after it.
    void settle();
    void transfer(StateStream& stream);

   private:
    static constexpr std::size_t most_new = 256;
    struct Gap {
      std::int64_t measured_ns, model_ns;
    };
    std::vector<Gap> newest_;
  };
  Gaps gaps_;
};

}  // namespace moekv
