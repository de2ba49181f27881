// Two outcomes are the same in all that a specification decides: digests, counted and modelled rows, measured fidelity.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string_view>
#include <vector>

#include "engine/records.hpp"

namespace moekv::testing {

/// Times and buffers of the machine that measured them, and how many times lie in a bin.
[[nodiscard]] inline bool is_of_the_machine(std::string_view name, std::string_view unit, ClaimClass claim) {
  return claim == ClaimClass::measured && (unit == "ns" || unit == "byte" || name == "kv_itl");
}

/// `left_out`: a field that is not compared.
template <class Record>
void expect_same_rows(const std::vector<Record>& a, const std::vector<Record>& b, std::string_view left_out = {}) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    for_each_field(Record::metrics, [&](const auto& m) {
      const bool both_nan = std::isnan(static_cast<double>(a[i].*m.member)) && std::isnan(static_cast<double>(b[i].*m.member));
      if (m.name == left_out || is_of_the_machine(m.name, m.unit, m.claim)) return;
      EXPECT_TRUE(both_nan || a[i].*m.member == b[i].*m.member)
          << m.name << " of row " << i << ": " << a[i].*m.member << " against " << b[i].*m.member;
    });
  }
}

inline void expect_same(const RunOutcome& a, const RunOutcome& b, std::string_view left_out = {}) {
  EXPECT_EQ(to_hex(a.digest), to_hex(b.digest));
  EXPECT_EQ(a.window_digests, b.window_digests);
  expect_same_rows(a.steps, b.steps, left_out);
  expect_same_rows(a.layers, b.layers);
  expect_same_rows(a.loads, b.loads);
  expect_same_rows(a.layer_loads, b.layer_loads);
  expect_same_rows(a.histograms, b.histograms);
  expect_same_rows(a.codecs, b.codecs);
  expect_same_rows(a.traffic, b.traffic);
  expect_same_rows(a.allocations, b.allocations);
  expect_same_rows(a.probes, b.probes);
  EXPECT_TRUE(a.violations.empty()) << a.violations.front();
}

}  // namespace moekv::testing
