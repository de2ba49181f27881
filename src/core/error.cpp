// Text of user errors: one line per problem, and the nearest known name for a misspelt one.
#include "core/error.hpp"

#include <algorithm>
#include <cctype>
#include <numeric>

#include "core/text.hpp"

namespace moekv {

std::string format_problems(const std::vector<Problem>& problems) {
  constexpr std::size_t most = 20;
  std::string text;
  for (std::size_t i = 0; i < std::min(problems.size(), most); ++i) {
    const Problem& p = problems[i];
    if (i > 0) text += '\n';
    text += (p.where.empty() ? "" : printable(p.where) + ": ") + "error: " + printable(p.what);
    if (!p.suggestion.empty()) text += " (" + printable(p.suggestion) + ")";
    if (!p.excerpt.empty()) text += '\n' + printable(p.excerpt, "\n\r\t");
  }
  if (problems.size() > most) text += "\n... and " + std::to_string(problems.size() - most) + " more";
  return text;
}

UserError::UserError(std::vector<Problem> problems) : std::runtime_error(format_problems(problems)), problems_(std::move(problems)) {}

UserError::UserError(std::string where, std::string what, std::string suggestion)
    : UserError(std::vector<Problem>{{std::move(where), std::move(what), std::move(suggestion)}}) {}

namespace {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  std::iota(d[0].begin(), d[0].end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t cost = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + cost});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

std::string_view nearest_name(std::string_view word, const std::vector<std::string_view>& known) {
  const auto in_small_letters = [](std::string_view text) {
    std::string small(text);
    std::transform(small.begin(), small.end(), small.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return small;
  };
  const std::string small = in_small_letters(word);
  std::string_view best;
  std::size_t best_distance = std::max<std::size_t>(1, word.size() / 3) + 1;
  for (const std::string_view name : known) {
    const std::size_t distance = edit_distance(small, in_small_letters(name));
    if (distance < best_distance) {
      best = name;
      best_distance = distance;
    }
  }
  if (!best.empty() || word.empty()) return best;
  const auto variant =
      std::find_if(known.begin(), known.end(), [&](std::string_view name) { return in_small_letters(name).starts_with(small + "."); });
  return variant == known.end() ? best : *variant;
}

std::string suggest_name(std::string_view word, const std::vector<std::string_view>& known) {
  std::string text;
  if (const auto near = nearest_name(word, known); !near.empty()) text = "did you mean '" + std::string(near) + "'? ";
  text += "known: ";
  for (std::size_t i = 0; i < known.size(); ++i) text += (i > 0 ? ", " : "") + std::string(known[i]);
  return text;
}

}  // namespace moekv
