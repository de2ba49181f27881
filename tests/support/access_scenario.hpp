// A small random run as an access log: what it writes, looks up and evicts, known to the test in plain form too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "core/rng.hpp"
#include "engine/oracle/access_trace.hpp"

namespace moekv::testing {

/// A random run of two shards with one page chain each: what it writes and looks up, what it holds, and when its requests end.
struct Scenario {
  struct Step {
    std::vector<std::uint32_t> written, looked_up, returned, gone;  // pages; returned: without a lookup; gone: at the end of the step
    std::vector<std::uint64_t> capacity;                  // of shard 0, shard 1, after the step's evictions
  };
  std::vector<Step> steps;
  std::vector<std::uint32_t> shard_of;  // [pages]
  AccessTrace trace{"scenario"};
  std::int64_t n_miss = 0, n_req = 0;
};

inline AccessEvent event(AccessKind kind, std::uint32_t shard, std::uint32_t request, std::uint32_t page, std::uint32_t count = 1) {
  AccessEvent e;
  e.kind = kind;
  e.shard = shard;
  e.request = request;
  e.first = page;
  e.count = count;
  return e;
}

/// Pages 0..n-1; page p is of request p / 4 % 2 and of shard p % 2. Request 0 ends in the middle. The run may exceed its budget by one page.
/// `demotes`: most pages that are looked up and not held come back, and now and then another.
inline Scenario random_scenario(std::uint64_t seed, bool demotes = false) {
  Scenario out;
  auto draw = [&, n = std::uint64_t{0}](std::uint64_t below) mutable { return static_cast<std::uint32_t>(hash_words(seed, n++) % below); };
  const std::uint32_t n_pages = 6 + draw(3), n_steps = 6 + draw(4), end_of_first = 3 + draw(3);
  const std::vector<std::uint32_t> budget = {1 + draw(3), 1 + draw(3)};
  std::set<std::uint32_t> alive, held;
  std::vector<std::uint32_t> due;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> chain_length;
  std::vector<std::uint32_t> index(n_pages);
  const auto request_of = [](std::uint32_t p) { return p / 4 % 2; };
  for (std::uint32_t p = 0; p < n_pages; ++p) out.shard_of.push_back(p % 2);
  std::uint32_t next_page = 0;
  for (std::uint32_t s = 0; s < n_steps; ++s) {
    Scenario::Step step;
    AccessRecorder recorder;
    for (const std::uint32_t p : due) {
      if (held.erase(p) > 0) recorder.add(event(AccessKind::evicted, p % 2, request_of(p), index[p]));
    }
    due.clear();
    if (s > 0) {
      for (std::uint32_t shard = 0; shard < 2; ++shard) {
        const auto used = static_cast<std::uint64_t>(std::count_if(held.begin(), held.end(), [&](std::uint32_t p) { return p % 2 == shard; }));
        out.steps.back().capacity.push_back(std::max<std::uint64_t>(budget[shard], used));
      }
    } else {
      for (std::uint32_t shard = 0; shard < 2; ++shard) recorder.add(event(AccessKind::opened, shard, AccessEvent::whole_shard, 0, budget[shard]));
    }
    for (std::uint32_t k = 1 + draw(2); k > 0 && next_page < n_pages; --k, ++next_page) {
      if (s > end_of_first && request_of(next_page) == 0) continue;
      index[next_page] = chain_length[{next_page % 2, request_of(next_page)}]++;
      recorder.add(event(AccessKind::written, next_page % 2, request_of(next_page), index[next_page]));
      step.written.push_back(next_page);
      alive.insert(next_page);
      held.insert(next_page);
    }
    for (const std::uint32_t p : held) {  // appended to: a write brings a page back to every cache
      if (draw(3) != 0 || std::find(step.written.begin(), step.written.end(), p) != step.written.end()) continue;
      step.written.push_back(p);
      recorder.add(event(AccessKind::written, p % 2, request_of(p), index[p]));
    }
    for (const std::uint32_t p : alive) {
      if (draw(2) == 0) continue;
      step.looked_up.push_back(p);
      recorder.add(event(held.contains(p) ? AccessKind::hit : AccessKind::miss, p % 2, request_of(p), index[p]));
      out.n_req += 1;
      out.n_miss += held.contains(p) ? 0 : 1;
    }
    for (const std::uint32_t p : alive) {
      if (!demotes || held.contains(p)) continue;
      const bool wanted = std::find(step.looked_up.begin(), step.looked_up.end(), p) != step.looked_up.end();
      if (draw(6) >= (wanted ? 5U : 3U)) continue;
      if (!wanted) step.returned.push_back(p);
      recorder.add(event(AccessKind::recalled, p % 2, request_of(p), index[p]));
      held.insert(p);
    }
    if (s == end_of_first) {
      for (std::uint32_t shard = 0; shard < 2; ++shard) {
        if (std::any_of(alive.begin(), alive.end(), [&](std::uint32_t p) { return p % 2 == shard && request_of(p) == 0; }))
          recorder.add(event(AccessKind::finished, shard, 0, 0, 0));
      }
      for (const std::uint32_t p : std::set<std::uint32_t>(alive)) {
        if (request_of(p) != 0) continue;
        step.gone.push_back(p);
        alive.erase(p);
        held.erase(p);
      }
    }
    for (std::uint32_t shard = 0; shard < 2; ++shard) {
      std::vector<std::uint32_t> own;
      for (const std::uint32_t p : held) {
        if (p % 2 == shard) own.push_back(p);
      }
      while (own.size() > budget[shard] + draw(2)) {
        const auto victim = own.begin() + draw(own.size());
        due.push_back(*victim);
        own.erase(victim);
      }
    }
    for (const AccessEvent& e : recorder.end_step()) out.trace.add(s, e);
    out.steps.push_back(step);
  }
  out.steps.back().capacity = {budget[0], budget[1]};
  out.trace.close();
  return out;
}

}  // namespace moekv::testing
