// moekv policy select: which pages a query reads, from the keys of the pages or from their bounds.
#include <algorithm>
#include <vector>

#include "app/policy.hpp"
#include "device/bounds_store.hpp"

namespace moekv {
namespace {

/// Bounds of pages of one KV head: [pages][low | high][d].
struct PageBounds {
  std::vector<float> values;
  std::uint32_t n_pages = 0, d = 0;
  [[nodiscard]] const float* low(std::uint32_t page) const { return &values[std::size_t{page} * 2 * d]; }
  [[nodiscard]] const float* high(std::uint32_t page) const { return low(page) + d; }
};

/// Stores the keys in pages of `slots`, as a shard does; the last page may be partial.
PageBounds store_keys(const Matrix<float>& keys, std::uint32_t slots) {
  PageBounds out;
  out.d = static_cast<std::uint32_t>(keys.n_columns);
  out.n_pages = static_cast<std::uint32_t>((keys.n_rows + slots - 1) / slots);
  BlockFormat format{PlaneFormat{ElementFormat::fp32}, PlaneFormat{ElementFormat::fp32}, slots, 1, out.d, out.d, false, true, ElementFormat::fp32};
  BoundsStore store(format);
  out.values.resize(std::size_t{2} * out.n_pages * out.d);
  for (std::uint32_t page = 0; page < out.n_pages; ++page) {
    store.use(page);
    for (std::size_t i = std::size_t{page} * slots; i < std::min<std::size_t>(keys.n_rows, std::size_t{page + 1} * slots); ++i) {
      store.widen(page, reinterpret_cast<const std::byte*>(keys.row(i)), i % slots == 0);
    }
    store.read(page, 0, &out.values[std::size_t{page} * 2 * out.d]);
  }
  return out;
}

PageBounds read_keys(Case& given) {
  const auto slots = given.value<std::uint32_t>("page_slots", {1, 1 << 20});
  const auto keys = given.matrix<float>("keys");
  if (!given.failed() && (keys.n_rows == 0 || keys.n_columns == 0)) given.complain("keys", "is empty", "give one key per token");
  return given.failed() ? PageBounds{} : store_keys(keys, slots);
}

PageBounds read_bounds(Case& given) {
  PageBounds out;
  const Json& list = *given.find("bounds");
  if (!list.is_array() || list.empty()) {
    given.complain("bounds", list.is_array() ? "is empty" : "expected a list, got " + describe(list), "give {\"min\": [...], \"max\": [...]} of each page");
    return out;
  }
  for (std::size_t i = 0; i < list.size() && !given.failed(); ++i) {
    Case page(list[i], fmt::format("{}/bounds/{}", given.where(), i));
    for (const char* name : {"min", "max"}) page.require(name);
    const auto low = page.list<float>("min"), high = page.list<float>("max");
    if (!page.failed() && (low.size() != high.size() || low.empty() || (i > 0 && low.size() != out.d))) {
      page.complain("", fmt::format("has {} minima and {} maxima{}", low.size(), high.size(), i > 0 ? fmt::format(", the first page has {}", out.d) : ""),
                    "give one of each per channel");
    }
    for (std::size_t c = 0; !page.failed() && c < low.size(); ++c) {
      if (low[c] > high[c]) page.complain(fmt::format("min/{}", c), "is above its maximum");
    }
    page.finish();
    out.d = static_cast<std::uint32_t>(low.size());
    out.values.insert(out.values.end(), low.begin(), low.end());
    out.values.insert(out.values.end(), high.begin(), high.end());
    out.n_pages += 1;
  }
  return out;
}

struct Reading {
  PageBounds pages;
  Matrix<float> query;
  std::uint32_t layer = 0, newest = 0;
  bool of_prompt = false;
};

Reading read_case(Case& given, const SelectRule& rule) {
  Reading in;
  if (given.has("keys") == given.has("bounds")) given.complain("keys", "give either the keys of the pages or their bounds");
  if (given.has("keys") && !given.has("bounds")) in.pages = read_keys(given);
  if (given.has("bounds") && !given.has("keys")) in.pages = read_bounds(given);
  given.require("query");
  in.query = given.matrix<float>("query");
  const std::uint32_t last = std::max(1U, in.pages.n_pages) - 1;
  in.newest = given.value_or<std::uint32_t>("newest", last, {0, static_cast<double>(last)});
  in.layer = given.value_or<std::uint32_t>("layer", 65536, {0, 65536});
  in.of_prompt = given.value_or<bool>("prompt_query", false);
  if (!given.failed() && !selects(rule)) given.complain("rule", "all reads every page: there is nothing to decide");
  if (!given.failed() && in.query.n_columns != in.pages.d)
    given.complain("query", fmt::format("has {} channels, keys have {}", in.query.n_columns, in.pages.d));
  return in;
}

std::vector<float> score_all(const SelectRule& rule, const Reading& in) {
  std::vector<float> scores(in.pages.n_pages);
  std::visit([&](const auto& r) {
    if constexpr (select::needs_bounds<std::decay_t<decltype(r)>>) {
      for (std::uint32_t p = 0; p < in.pages.n_pages; ++p) {
        for (std::size_t h = 0; h < in.query.n_rows; ++h) {
          const float score = r.score(in.query.row(h), in.pages.low(p), in.pages.high(p), in.pages.d);
          scores[p] = h == 0 ? score : select::join(r.heads, scores[p], score);
        }
      }
    }
  }, rule);
  return scores;
}

}  // namespace

Json decide_select(Case& given) {
  const auto rule = given.rule<SelectRule>("rule");
  const Reading in = read_case(given, rule);
  given.finish();
  const std::vector<float> scores = score_all(rule, in);
  std::vector<std::uint32_t> selected;
  if (selects_at(rule, in.layer, in.of_prompt)) {
    select::choose_pages(pick_of(rule), scores, in.newest, selected);
  } else {
    for (std::uint32_t p = 0; p < in.pages.n_pages; ++p) selected.push_back(p);
  }
  Json bounds = Json::array();
  for (std::uint32_t p = 0; p < in.pages.n_pages; ++p) {
    const float* low = in.pages.low(p);
    bounds.push_back({{"min", std::vector<float>(low, low + in.pages.d)}, {"max", std::vector<float>(low + in.pages.d, low + 2 * in.pages.d)}});
  }
  return {{"scores", scores}, {"selected", selected}, {"bounds", bounds}};
}

}  // namespace moekv
