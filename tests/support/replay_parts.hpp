// A replay that is stopped, saved, torn down and gone on with, again and again.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "core/state_stream.hpp"
#include "engine/replay.hpp"
#include "support/replay_fixture.hpp"

namespace moekv::testing {

/// Collective. Runs at most `steps` steps at a time, each part with a trace, a backend and caches of its own; 0: one part. The outcome of the last
/// one.
[[nodiscard]] inline RunOutcome replay_in_parts(const RunSpec& spec, Transport& transport, std::uint64_t steps,
                                                const std::vector<RequestInfo>& requests, const std::string& backend = "host") {
  auto state = std::make_unique<StateBuffer>();
  for (bool first = true;; first = false) {
    RandomTrace trace(spec.model, requests, 11);
    trace.add_logits();
    const auto device = make_backend(backend, 1);
    const auto before = std::move(state);
    state = std::make_unique<StateBuffer>();
    before->rewind();
    std::uint64_t done = 0;
    ReplayHooks hooks;
    hooks.interrupted = [&](const Progress&) { return ++done == steps; };
    hooks.stopped = [&](const StoppedRun& run) { run.save(*state); };
    hooks.resume = first ? nullptr : before.get();
    RunOutcome out = replay(spec, trace, *device, transport, hooks);
    if (!first) {
      EXPECT_TRUE(before->done()) << "something was saved and not read";
    }
    if (out.completed) return out;
    if (state->content().empty()) throw std::logic_error("an interrupted run was not saved");
  }
}

}  // namespace moekv::testing
