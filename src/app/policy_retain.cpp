// moekv policy codec, selectors: layer budgets of PyramidKV and chunks of ChunkKV, which multiply the compression of a codec.
#include <cmath>
#include <numeric>
#include <vector>

#include "app/policy.hpp"
#include "engine/allocate.hpp"
#include "rules/retain.hpp"

namespace moekv {
namespace {

/// Tokens outside the window that each layer keeps: the allocator's, where something has to go.
allocate::Shares exact_pyramid(const retain::PyramidShape& s) {
  if (s.prompt < s.capacity) return allocate::Shares(s.layers, pyramid_integer(s, 0));
  allocate::Request request;
  request.scores.assign(s.layers, {0.0});
  request.held.assign(s.layers, s.prompt - s.window);
  request.window = s.window;
  request.total = s.layers * (s.capacity - s.window);
  return allocate::Pyramid{static_cast<double>(s.beta)}.capacity(request);
}

}  // namespace

Json decide_pyramid_budget(Case& given) {
  Case params = given.part("params");
  retain::PyramidShape shape;
  shape.window = params.value_or<std::uint64_t>("window", shape.window, {0, 1e12});
  shape.capacity = params.value_or<std::uint64_t>("capacity", shape.capacity, {1, 1e12});
  shape.beta = params.value_or<std::uint64_t>("beta", shape.beta, {1, 1e9});
  const bool integer = params.value_or<bool>("integer_compat", false);
  shape.layers = given.value<std::uint32_t>("layers", {1, 65536});
  shape.prompt = given.value<std::uint64_t>("prompt", {1, 1e12});
  if (shape.capacity < shape.window) params.complain("capacity", "is smaller than the window, which always stays");
  given.finish();
  allocate::Shares capacity(shape.layers);
  for (std::uint32_t l = 0; integer && l < shape.layers; ++l) capacity[l] = pyramid_integer(shape, l);
  if (!integer) capacity = exact_pyramid(shape);
  return {{"capacity", capacity}, {"sum", std::accumulate(capacity.begin(), capacity.end(), std::uint64_t{0})}};
}

Json decide_chunk_retain(Case& given) {
  Case params = given.part("params");
  const auto chunk = params.value_or<std::uint64_t>("chunk", 10, {1, 1e9});
  const auto ratio = params.value_or<double>("ratio", 0.5, {0, 1});
  given.require("scores");
  const auto scores = given.list<double>("scores");
  if (!given.failed() && scores.empty()) given.complain("scores", "is empty", "give one score per token");
  given.finish();
  const std::uint64_t chunks = (scores.size() + chunk - 1) / chunk;
  const auto keep = static_cast<std::uint64_t>(std::floor(static_cast<double>(chunks) * (1 - ratio)));
  Json retained = Json::array();
  for (std::uint64_t t = 0; t < scores.size(); ++t) {
    if (retain::chunk_is_kept(scores.data(), scores.size(), chunk, keep, t / chunk)) retained.push_back(t);
  }
  return {{"retained", retained}};
}

}  // namespace moekv
