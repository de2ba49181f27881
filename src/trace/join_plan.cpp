// Which recordings fill which request: pure plans.
#include <algorithm>
#include <numeric>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "trace/join.hpp"

namespace moekv {
namespace {

std::uint64_t draw(std::uint64_t seed, std::uint32_t request, std::uint32_t step, std::uint64_t n) {
  return hash_words(seed, static_cast<std::uint32_t>(Stream::join), request, step) % n;
}

}  // namespace

std::vector<Piece> fill_request(const std::vector<std::uint32_t>& lengths, std::uint32_t n_tokens, std::uint64_t seed, std::uint32_t request) {
  MOEKV_EXPECT(!lengths.empty());
  std::vector<std::uint32_t> exact, longer;
  for (std::uint32_t d = 0; d < lengths.size(); ++d) {
    if (lengths[d] == n_tokens) exact.push_back(d);
    if (lengths[d] > n_tokens) longer.push_back(d);
  }
  const auto& fitting = exact.empty() ? longer : exact;
  if (!fitting.empty()) return {{fitting[draw(seed, request, 0, fitting.size())], n_tokens}};
  std::vector<Piece> pieces;
  for (std::uint32_t filled = 0, step = 0; filled < n_tokens; filled += pieces.back().n_tokens, ++step) {
    const auto donor = static_cast<std::uint32_t>(draw(seed, request, step, lengths.size()));
    pieces.push_back({donor, std::min(lengths[donor], n_tokens - filled)});
  }
  return pieces;
}

std::vector<std::vector<Piece>> concatenate(const std::vector<std::uint32_t>& lengths, std::uint32_t n_requests, std::uint32_t n_tokens,
                                            std::uint64_t seed) {
  MOEKV_EXPECT(!lengths.empty());
  std::vector<std::uint32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0U);
  std::size_t next = order.size();
  std::uint32_t round = 0;
  std::vector<std::vector<Piece>> sequences(n_requests);
  for (auto& pieces : sequences) {
    for (std::uint32_t filled = 0; filled < n_tokens; filled += pieces.back().n_tokens) {
      if (next == order.size()) {  // all used: shuffle anew (Fisher-Yates)
        for (auto i = static_cast<std::uint32_t>(order.size()); i > 1; --i) std::swap(order[i - 1], order[draw(seed, round, i, i)]);
        next = 0;
        ++round;
      }
      const std::uint32_t donor = order[next++];
      pieces.push_back({donor, std::min(lengths[donor], n_tokens - filled)});
    }
  }
  return sequences;
}

}  // namespace moekv
