// Compares two runs field by field, driven by the records' declarations.
#include "results/diff.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <type_traits>

#include "results/record_table.hpp"

namespace moekv {
namespace {

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

bool must_be_equal(ClaimClass claim) { return claim == ClaimClass::counted || claim == ClaimClass::modelled; }

/// "first_step=64, layer=3": the key fields of a row.
template <class Record>
std::string key_text(const Record& row) {
  std::string text;
  for_each_field(Record::metrics, [&](const auto& m) {
    if (m.combine == Combine::key && must_be_equal(m.claim)) text += fmt::format("{}{}={}", text.empty() ? "" : ", ", m.name, row.*m.member);
  });
  return text;
}

/// "status: ok | failed", where the two texts differ.
void diff_texts(std::string_view what, const std::string& a, const std::string& b, RunDifference& out) {
  if (a != b) out.shapes.push_back(fmt::format("{}: {} | {}", what, a.empty() ? "-" : a, b.empty() ? "-" : b));
}

template <class Record>
void diff_rows(std::string_view kind, const std::vector<Record>& a, const std::vector<Record>& b, RunDifference& out) {
  if (a.size() != b.size()) out.shapes.push_back(fmt::format("record {}: {} | {} rows", kind, a.size(), b.size()));
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    for_each_field(Record::metrics, [&](const auto& m) {
      const auto x = static_cast<double>(a[i].*m.member), y = static_cast<double>(b[i].*m.member);
      if (!must_be_equal(m.claim) || same(x, y)) return;
      out.exact.push_back({fmt::format("record {}[{}] {} ({})", kind, i, m.name, key_text(a[i])), std::string(m.unit), x, y});
    });
  }
}

void diff_summary(const std::vector<Summary>& a, const std::vector<Summary>& b, RunDifference& out) {
  std::map<std::string_view, const Summary*> in_b;
  for (const Summary& s : b) in_b[s.name] = &s;
  for (const Summary& s : a) {
    const auto it = in_b.find(s.name);
    if (it == in_b.end()) {
      out.shapes.push_back(fmt::format("metric {}: only in the first run", s.name));
      continue;
    }
    const Summary& t = *it->second;
    in_b.erase(it);
    if (same(s.value, t.value) && same(s.numerator, t.numerator) && same(s.denominator, t.denominator)) continue;
    (must_be_equal(s.claim) || must_be_equal(t.claim) ? out.exact : out.measured).push_back({"metric " + s.name, s.unit, s.value, t.value});
  }
  for (const auto& [name, summary] : in_b) out.shapes.push_back(fmt::format("metric {}: only in the second run", name));
}

void diff_keys(const RunFile& a, const RunFile& b, RunDifference& out) {
  for (const Parameter& p : a.parameters) {
    const auto it = std::find_if(b.parameters.begin(), b.parameters.end(), [&](const Parameter& q) { return q.name == p.name; });
    const std::string other = it == b.parameters.end() ? "-" : it->text;
    if (p.text != other) out.keys.push_back(fmt::format("{}: {} | {}", p.name, p.text, other));
  }
  for (const Parameter& q : b.parameters) {
    const bool known = std::any_of(a.parameters.begin(), a.parameters.end(), [&](const Parameter& p) { return p.name == q.name; });
    if (!known) out.keys.push_back(fmt::format("{}: - | {}", q.name, q.text));
  }
}

/// Records of every kind.
void diff_records(const RunOutcome& a, const RunOutcome& b, RunDifference& out) {
  for_each_record(a, [&](std::string_view kind, const auto& rows) {
    for_each_record(b, [&](std::string_view other, const auto& others) {
      if constexpr (std::is_same_v<decltype(rows), decltype(others)>) {
        if (kind == other) diff_rows(kind, rows, others, out);
      }
    });
  });
}

/// Heading and at most `most` lines, then how many more.
void append_list(std::string& text, std::string_view heading, const std::vector<std::string>& lines, std::size_t most) {
  if (lines.empty()) return;
  text += fmt::format("{} ({})\n", heading, lines.size());
  for (std::size_t i = 0; i < std::min(most, lines.size()); ++i) text += fmt::format("  {}\n", lines[i]);
  if (lines.size() > most) text += fmt::format("  ... and {} more\n", lines.size() - most);
}

std::vector<std::string> to_lines(const std::vector<NumberDifference>& numbers) {
  std::vector<std::string> lines;
  for (const NumberDifference& n : numbers) {
    const std::string change =
        n.a != 0 && std::isfinite(n.a) && std::isfinite(n.b) ? fmt::format("  {:+.2f} %", 100 * (n.b - n.a) / std::abs(n.a)) : "";
    lines.push_back(fmt::format("{}: {:.10g} | {:.10g} {}{}", n.what, n.a, n.b, n.unit == "1" ? "" : n.unit, change));
  }
  return lines;
}

}  // namespace

std::optional<WindowDifference> first_different_window(const RunFile& run_a, const RunFile& run_b) {
  if (!run_a.has_records || !run_b.has_records) return std::nullopt;
  const RunOutcome &a = run_a.outcome, &b = run_b.outcome;
  const std::size_t most = std::max(a.window_digests.size(), b.window_digests.size());
  const auto at = [](const RunOutcome& run, std::size_t w) {
    return w < run.window_digests.size() ? to_hex(run.window_digests[w]) : std::string("-");
  };
  for (std::size_t w = 0; w < most; ++w) {
    if (at(a, w) != at(b, w)) return WindowDifference{static_cast<std::int64_t>(64 * w), at(a, w), at(b, w)};
  }
  return std::nullopt;
}

RunDifference diff_runs(const RunFile& a, const RunFile& b) {
  RunDifference out;
  out.digests_differ = a.outcome.digest != b.outcome.digest;
  out.window = first_different_window(a, b);
  diff_keys(a, b, out);
  const auto status = [](const RunFile& run) { return std::string(run_status_names[static_cast<std::size_t>(run.status)]); };
  diff_texts("status", status(a), status(b), out);
  diff_texts("violations", fmt::format("{}", fmt::join(a.outcome.violations, "; ")), fmt::format("{}", fmt::join(b.outcome.violations, "; ")), out);
  diff_texts("labels", fmt::format("{}", fmt::join(a.outcome.labels, " ")), fmt::format("{}", fmt::join(b.outcome.labels, " ")), out);
  diff_summary(a.outcome.summary, b.outcome.summary, out);
  if (a.has_records && b.has_records) diff_records(a.outcome, b.outcome, out);
  return out;
}

std::string format_difference(const RunDifference& difference, const RunFile& a, const RunFile& b, std::size_t most_lines) {
  std::string text = fmt::format("a: {}\nb: {}\n", a.path, b.path);
  append_list(text, "configuration keys that differ", difference.keys, most_lines);
  if (difference.window) {
    const WindowDifference& w = *difference.window;
    text += fmt::format("decisions differ: first in steps {} to {}: {} | {}\n", w.first_step, w.first_step + 63, w.a, w.b);
  } else {
    text += difference.digests_differ ? "decisions differ: total digests\n" : fmt::format("decisions equal: digest {}\n", to_hex(a.outcome.digest));
  }
  append_list(text, "shapes that differ", difference.shapes, most_lines);
  append_list(text, "counted and modelled numbers that differ", to_lines(difference.exact), most_lines);
  append_list(text, "measured numbers that differ (for information)", to_lines(difference.measured), most_lines);
  text += difference.different() ? "different\n" : "same decisions and counters\n";
  return text;
}

}  // namespace moekv
