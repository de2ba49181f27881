// How many pages a chain of entries takes when each token joins it with a given probability: what `moekv plan` needs instead of a run.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

namespace moekv {

/// E[ceil(N / slots)] and E[floor(N / slots)] for N ~ Binomial(n, p).
struct PageExpectation {
  double ceil = 0, floor = 0;
};
[[nodiscard]] PageExpectation expected_pages(std::uint64_t n, double p, std::uint32_t slots);

/// When pages of a chain are raw and when sealed (MODEL section 5).
struct PageRule {
  std::uint32_t slots = 64;
  bool compressed = false;
  std::uint32_t sink_tokens = 0;  // compressed only: positions below go to a raw side page
  std::uint32_t raw_window_tokens = 0;
  std::uint32_t min_sealed_entries = 16;  // a partial page is sealed at the prompt's end from here on
};

struct ChainPages {
  double raw = 0, sealed = 0;
};

/// Pages after `tokens` of a request of `prompt` prompt tokens when every token is in the chain.
[[nodiscard]] ChainPages pages_of_all(const PageRule& rule, std::uint32_t tokens, std::uint32_t prompt);
/// The same for a chain that holds exactly `side` sink entries and `main` others (`settled` of them behind the raw window).
[[nodiscard]] ChainPages pages_of_counts(const PageRule& rule, std::uint32_t side, std::uint32_t main, std::uint32_t settled);

/// Expected pages of a chain that each of `tokens` joins `per_token` times with probability p, all independent. Remembers what it computed.
class ExpectedChain {
 public:
  explicit ExpectedChain(const PageRule& rule) : rule_(rule) {}
  [[nodiscard]] ChainPages operator()(std::uint32_t tokens, double p, std::uint32_t per_token = 1);

 private:
  PageRule rule_;
  std::map<std::pair<std::uint64_t, double>, ChainPages> known_;
};

}  // namespace moekv
