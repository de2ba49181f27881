// Parsers for integers, times and CSV lines.
#include "trace/text.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>

#include "core/error.hpp"

namespace moekv {
namespace {

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// Digits at the start of `text`, exactly n of them when n > 0; removes them.
std::optional<std::int64_t> take_digits(std::string_view& text, std::size_t n = 0) {
  std::size_t length = 0;
  while (length < text.size() && text[length] >= '0' && text[length] <= '9' && (n == 0 || length < n)) ++length;
  std::int64_t value = 0;
  if (length == 0 || (n > 0 && length != n)) return std::nullopt;
  if (std::from_chars(text.data(), text.data() + length, value).ec != std::errc()) return std::nullopt;
  text.remove_prefix(length);
  return value;
}

bool take(std::string_view& text, char c) {
  if (text.empty() || text.front() != c) return false;
  text.remove_prefix(1);
  return true;
}

/// ".680590" as a fraction of `unit_ns`, rounded down; removes it. 0 when there is none.
std::int64_t take_fraction(std::string_view& text, std::int64_t unit_ns) {
  if (!take(text, '.')) return 0;
  std::int64_t value = 0, scale = unit_ns;
  for (; !text.empty() && text.front() >= '0' && text.front() <= '9'; text.remove_prefix(1)) {
    const std::int64_t next = scale / 10;
    value += (text.front() - '0') * next;
    scale = next;
  }
  return value;
}

}  // namespace

std::optional<std::int64_t> parse_integer(std::string_view text) {
  text = trimmed(text);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc()) return std::nullopt;
  std::string_view rest(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (take(rest, '.')) {
    while (take(rest, '0')) {
    }
  }
  return rest.empty() ? std::optional(value) : std::nullopt;
}

std::optional<double> parse_real(std::string_view text) {
  text = trimmed(text);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::int64_t> parse_time_ns(std::string_view text, std::int64_t unit_ns) {
  text = trimmed(text);
  std::string_view rest = text;
  const auto whole = take_digits(rest);
  std::int64_t ns = 0;
  if (whole && !__builtin_mul_overflow(*whole, unit_ns, &ns)) {
    ns += take_fraction(rest, unit_ns);
    if (rest.empty()) return ns;
  }
  const auto real = parse_real(text);
  if (!real || !std::isfinite(*real) || std::abs(*real) * static_cast<double>(unit_ns) > 9e18) return std::nullopt;
  return std::llround(*real * static_cast<double>(unit_ns));
}

std::optional<std::int64_t> parse_timestamp_ns(std::string_view text) {
  constexpr std::int64_t second = 1'000'000'000;
  text = trimmed(text);
  const auto year = take_digits(text, 4);
  if (!year || !take(text, '-')) return std::nullopt;
  const auto month = take_digits(text, 2);
  if (!month || !take(text, '-')) return std::nullopt;
  const auto day = take_digits(text, 2);
  if (!day || !(take(text, ' ') || take(text, 'T'))) return std::nullopt;
  const auto hour = take_digits(text, 2);
  if (!hour || !take(text, ':')) return std::nullopt;
  const auto minute = take_digits(text, 2);
  if (!minute || !take(text, ':')) return std::nullopt;
  const auto seconds = take_digits(text, 2);
  const std::chrono::year_month_day date{std::chrono::year(static_cast<int>(*year)), std::chrono::month(static_cast<unsigned>(*month)),
                                         std::chrono::day(static_cast<unsigned>(*day))};
  if (!seconds || !date.ok() || *year < 1970 || *year > 2200 || *hour > 23 || *minute > 59 || *seconds > 60) return std::nullopt;
  std::int64_t ns = ((std::chrono::sys_days(date).time_since_epoch().count() * 24 + *hour) * 60 + *minute) * 60 * second + *seconds * second;
  ns += take_fraction(text, second);
  if (take(text, 'Z') || text.empty()) return text.empty() ? std::optional(ns) : std::nullopt;
  const std::int64_t sign = text.front() == '-' ? 1 : -1;  // local time to UTC
  if (!take(text, '+') && !take(text, '-')) return std::nullopt;
  const auto hours = take_digits(text, 2);
  take(text, ':');
  const auto minutes = take_digits(text, 2);
  if (!hours || !minutes || !text.empty()) return std::nullopt;
  return ns + sign * (*hours * 60 + *minutes) * 60 * second;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return out;
}

std::optional<std::uint16_t> number_after(std::string_view text, std::string_view word) {
  const std::string low = lower(text);
  const std::size_t at = low.rfind(word);
  if (at == std::string::npos) return std::nullopt;
  std::string_view rest = std::string_view(low).substr(at + word.size());
  take(rest, '_');
  const auto value = take_digits(rest);
  if (!value || *value > 65534) return std::nullopt;
  return static_cast<std::uint16_t>(*value);
}

void split_csv(std::string_view line, std::vector<std::string_view>& fields, std::vector<std::string>& unquoted) {
  fields.clear();
  unquoted.clear();
  unquoted.reserve(line.size() / 2 + 1);  // views into it must stay valid
  for (;;) {
    if (!line.empty() && line.front() == '"') {
      std::string text;
      std::size_t at = 1;
      for (; at < line.size(); ++at) {
        if (line[at] != '"')
          text += line[at];
        else if (at + 1 < line.size() && line[at + 1] == '"')
          text += line[at++];
        else
          break;
      }
      unquoted.push_back(std::move(text));
      fields.emplace_back(unquoted.back());
      line.remove_prefix(std::min(at + 1, line.size()));
      if (line.empty()) return;
      line.remove_prefix(1);
      continue;
    }
    const std::size_t comma = line.find(',');
    fields.push_back(line.substr(0, comma));
    if (comma == std::string_view::npos) return;
    line.remove_prefix(comma + 1);
  }
}

CsvReader::CsvReader(const std::string& path) : lines_(open_byte_stream(path)) {
  std::string_view line;
  do {
    if (!lines_.next(line)) throw UserError(path, "is empty");
  } while (trimmed(line).empty());
  split_csv(line, fields_, unquoted_);
  for (const auto field : fields_) header_.emplace_back(trimmed(field));
}

std::optional<std::size_t> CsvReader::find(const std::vector<std::string_view>& names) const {
  for (const auto name : names) {
    const auto named = [&](const std::string& column) { return lower(column) == lower(name); };
    const auto at = std::ranges::find_if(header_, named);
    if (at == header_.end()) continue;
    if (std::find_if(at + 1, header_.end(), named) != header_.end())
      throw UserError(lines_.stream().name() + ":1", fmt::format("two columns are called '{}'", *at), "rename one");
    return static_cast<std::size_t>(at - header_.begin());
  }
  return std::nullopt;
}

std::size_t CsvReader::require(const std::vector<std::string_view>& names) const {
  if (const auto at = find(names)) return *at;
  throw UserError(lines_.stream().name() + ":1", fmt::format("no column '{}'", names.empty() ? "" : names.front()),
                  fmt::format("columns: {}", fmt::join(header_, ", ")));
}

bool CsvReader::next() {
  std::string_view line;
  do {
    if (!lines_.next(line)) return false;
  } while (trimmed(line).empty());
  split_csv(line, fields_, unquoted_);
  if (fields_.size() != header_.size())
    throw UserError(place(), fmt::format("{} fields, the header has {}", fields_.size(), header_.size()), "is the file complete?");
  return true;
}

std::uint32_t CsvReader::count(std::size_t column) const {
  const auto value = parse_integer(fields_[column]);
  if (!value || *value < 0 || *value >= (std::int64_t{1} << 31)) {
    throw UserError(place(), fmt::format("column '{}': '{}' is not a number of tokens", header_[column], fields_[column]));
  }
  return static_cast<std::uint32_t>(*value);
}

}  // namespace moekv
