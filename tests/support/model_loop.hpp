// A tiny model in a folder of its own with a token file, and runs of it.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "engine/replay.hpp"
#include "model/model_driver.hpp"
#include "support/slow_model.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

namespace moekv::testing {

inline constexpr std::uint32_t n_sequences = 3, n_tokens = 41;  // 40 predictions each

inline std::vector<std::uint32_t> sequence(std::uint32_t s, std::uint32_t vocab) {
  std::vector<std::uint32_t> out;
  for (std::uint32_t t = 0; t < n_tokens; ++t) out.push_back(static_cast<std::uint32_t>(hash_words(17, s, t) % vocab));
  return out;
}

/// A tiny model in a folder of its own, with a token file.
struct Loop {
  explicit Loop(const TinyModel& m) : options(m), model_path(folder.file("model.h5")), tokens_path(folder.file("tokens.h5")) {
    write_tiny_model(model_path, m);
    h5::File file = h5::File::create(tokens_path);
    std::vector<std::uint32_t> all;
    for (std::uint32_t s = 0; s < n_sequences; ++s) {
      const auto own = sequence(s, m.vocab);
      all.insert(all.end(), own.begin(), own.end());
    }
    file.write("token_ids", std::span<const std::uint32_t>(all), {n_sequences, n_tokens});
    file.close();
    const ModelFile open(model_path);
    decoder = std::make_unique<Decoder>(open);
    tokens = std::make_unique<TokenSource>(tokens_path, 0, open.spec());
  }

  [[nodiscard]] RunSpec spec() const {
    RunSpec s;
    s.model = shape_of(decoder->spec(), model_path);
    s.trace.tokens = tokens_path;
    s.cluster.ranks = 2;
    s.payload.element = ElementFormat::fp32;
    s.eviction.access = AccessSource::dense;
    s.prefill.chunk_tokens = 7;
    s.probe.samples = 40;
    s.page.slots = 8;
    s.score.resamples = 100;
    return s;
  }
  [[nodiscard]] RunOutcome run(const RunSpec& s, const std::string& record = {}) const {
    omp_set_num_threads(1);  // there is too little to do for more
    const auto transport = make_local_transport();
    const auto backend = make_backend("host", 0);
    std::unique_ptr<TraceRecorder> recorder;
    if (!record.empty()) recorder = std::make_unique<TraceRecorder>(record, *tokens, decoder->spec(), KvType::fp16, "test", *transport);
    RunOutcome out = replay(s, *tokens, *backend, *transport, {}, model_driver(s, *decoder, *tokens, *transport, recorder.get()));
    if (recorder) recorder->finish();
    return out;
  }
  [[nodiscard]] std::vector<double> truth() const {
    SlowModel slow(model_path, options);
    std::vector<double> out;
    for (std::uint32_t s = 0; s < n_sequences; ++s) {
      const auto own = slow.losses(sequence(s, options.vocab));
      out.insert(out.end(), own.begin(), own.end());
    }
    return out;
  }

  TinyModel options;
  TempDir folder;
  std::string model_path, tokens_path;
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<TokenSource> tokens;
};

inline double metric(const RunOutcome& out, const std::string& name) {
  for (const Summary& s : out.summary) {
    if (s.name == name) return s.value;
  }
  ADD_FAILURE() << "no metric " << name;
  return std::nan("");
}

/// StreamingLLM under half of each sequence.
inline void evict_half(RunSpec& s) {
  s.eviction.rule = evict::Streaming{};
  s.eviction.unit = EvictUnit::token;
  s.eviction.protect = {1, 2};
  s.eviction.budget.kind = BudgetKind::fraction;
  s.eviction.budget.numerator = 1;
  s.eviction.budget.denominator = 2;
}

}  // namespace moekv::testing
