// Exact decimal parsing of numbers with units: no value is ever rounded or guessed.
#include "config/scalar.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>

namespace moekv {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::size_t digits_at(std::string_view text, std::size_t i) {
  std::size_t n = 0;
  while (i + n < text.size() && is_digit(text[i + n])) ++n;
  return n;
}

/// [sign] digits [. digits] [e [sign] digits] [blanks] suffix.
struct Lexeme {
  bool negative = false;
  std::string_view whole, fraction, exponent, number, suffix;
};

std::optional<Lexeme> lex(std::string_view text) {
  Lexeme out;
  std::size_t i = 0;
  if (i < text.size() && (text[i] == '-' || text[i] == '+')) out.negative = text[i++] == '-';
  const std::size_t begin = i;
  out.whole = text.substr(i, digits_at(text, i));
  i += out.whole.size();
  if (i < text.size() && text[i] == '.') {
    out.fraction = text.substr(i + 1, digits_at(text, i + 1));
    i += 1 + out.fraction.size();
  }
  if (out.whole.empty() && out.fraction.empty()) return std::nullopt;
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    std::size_t j = i + 1;
    if (j < text.size() && (text[j] == '-' || text[j] == '+')) ++j;
    if (const std::size_t n = digits_at(text, j); n > 0) {
      out.exponent = text.substr(i + 1, j + n - i - 1);
      i = j + n;
    }
  }
  out.number = text.substr(begin, i - begin);
  while (i < text.size() && text[i] == ' ') ++i;
  out.suffix = text.substr(i);
  return out;
}

/// Why a lexeme is no decimal number at all; empty when it is one.
std::string refuse(std::string_view text, const std::optional<Lexeme>& lexeme, std::string_view expected) {
  if (!lexeme) return fmt::format("expected {}, got '{}'", expected, text);
  if (lexeme->whole.size() > 1 && lexeme->whole.front() == '0') {
    const std::size_t first = lexeme->whole.find_first_not_of('0');
    const std::string_view plain = first == std::string_view::npos ? std::string_view("0") : lexeme->whole.substr(first);
    return fmt::format("'{}' starts with 0 and could be read as octal; write {}{}", text, plain,
                       text.substr(text.find(lexeme->whole) + lexeme->whole.size()));
  }
  return {};
}

struct Prefix {
  std::string_view name;
  std::uint64_t factor;
};
constexpr std::array<Prefix, 10> factors{{{"", 1},
                                          {"k", 1000},
                                          {"K", 1000},
                                          {"M", 1000000},
                                          {"G", 1000000000},
                                          {"T", 1000000000000},
                                          {"Ki", 1ULL << 10},
                                          {"Mi", 1ULL << 20},
                                          {"Gi", 1ULL << 30},
                                          {"Ti", 1ULL << 40}}};

/// Factor of a count or size suffix: "Ki", and for bytes "KiB" and "B".
std::optional<std::uint64_t> count_factor(std::string_view suffix, std::string_view unit) {
  if (unit == "byte" && !suffix.empty() && suffix.back() == 'B') suffix.remove_suffix(1);
  for (const Prefix& p : factors) {
    if (p.name == suffix) return p.factor;
  }
  return std::nullopt;
}

std::optional<double> seconds_of(std::string_view unit) {
  if (unit == "ns") return 1e-9;
  if (unit == "us") return 1e-6;
  if (unit == "ms") return 1e-3;
  if (unit == "s") return 1.0;
  return std::nullopt;
}

std::optional<double> number_factor(std::string_view suffix, std::string_view unit) {
  if (suffix.empty() || suffix == unit) return 1.0;
  if (suffix == "%" && unit == "1") return 0.01;
  const auto from = seconds_of(suffix), to = seconds_of(unit);
  if (from && to) return *from / *to;
  return std::nullopt;
}

std::string unknown_suffix(std::string_view text, std::string_view suffix, std::string_view unit) {
  const bool bytes = unit == "byte";
  return fmt::format("unknown unit '{}' in '{}'; {}", suffix, text,
                     bytes              ? "use B, KiB, MiB, GiB, TiB, kB, MB, GB or TB"
                     : seconds_of(unit) ? "use ns, us, ms or s"
                     : unit == "1"      ? "use a plain number or %"
                     : unit.empty()     ? "use a plain number"
                                        : fmt::format("the number is in {}", unit));
}

constexpr std::string_view too_large = "is too large";

/// digits(whole + fraction) * factor * 10^(exponent - |fraction|), exactly.
Parsed<std::uint64_t> exact(std::string_view text, const Lexeme& lexeme, std::uint64_t factor) {
  std::string_view fraction = lexeme.fraction;
  while (!fraction.empty() && fraction.back() == '0') fraction.remove_suffix(1);
  const std::string digits = std::string(lexeme.whole) + std::string(fraction);
  std::uint64_t value = 0;
  if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc{}) return {0, fmt::format("'{}' {}", text, too_large)};
  int exponent = 0;
  std::string_view e = lexeme.exponent;
  if (!e.empty() && e.front() == '+') e.remove_prefix(1);
  if (!e.empty() && std::from_chars(e.data(), e.data() + e.size(), exponent).ec != std::errc{}) exponent = e.front() == '-' ? -1000 : 1000;
  exponent -= static_cast<int>(std::min<std::size_t>(fraction.size(), 100));
  if (value == 0) return {0, {}};
  if (__builtin_mul_overflow(value, factor, &value)) return {0, fmt::format("'{}' {}", text, too_large)};
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(value, std::uint64_t{10}, &value)) return {0, fmt::format("'{}' {}", text, too_large)};
  }
  for (; exponent < 0; ++exponent) {
    if (value % 10 != 0) return {0, fmt::format("expected a whole number, got '{}'", text)};
    value /= 10;
  }
  return {value, {}};
}

}  // namespace

Parsed<std::uint64_t> parse_unsigned(std::string_view text, std::string_view unit) {
  const auto lexeme = lex(text);
  if (auto error = refuse(text, lexeme, "a whole number"); !error.empty()) return {0, error};
  if (lexeme->negative) return {0, fmt::format("'{}' is negative", text)};
  const auto factor = count_factor(lexeme->suffix, unit);
  if (!factor) return {0, unknown_suffix(text, lexeme->suffix, unit)};
  return exact(text, *lexeme, *factor);
}

Parsed<double> parse_number(std::string_view text, std::string_view unit) {
  const auto lexeme = lex(text);
  if (auto error = refuse(text, lexeme, "a finite number"); !error.empty()) return {0, error};
  const auto factor = number_factor(lexeme->suffix, unit);
  if (!factor) return {0, unknown_suffix(text, lexeme->suffix, unit)};
  double value = 0;
  const auto [end, ec] = std::from_chars(lexeme->number.data(), lexeme->number.data() + lexeme->number.size(), value);
  if (ec == std::errc::result_out_of_range || !std::isfinite(value * *factor)) return {0, fmt::format("'{}' is out of the range of a double", text)};
  if (ec != std::errc{} || end != lexeme->number.data() + lexeme->number.size()) return {0, fmt::format("expected a finite number, got '{}'", text)};
  return {(lexeme->negative ? -value : value) * *factor, {}};
}

Parsed<Ratio> parse_ratio(std::string_view text) {
  Ratio ratio;
  if (const std::size_t slash = text.find('/'); slash != std::string_view::npos) {
    const auto numerator = parse_unsigned(text.substr(0, slash), "");
    const auto denominator = parse_unsigned(text.substr(slash + 1), "");
    if (!numerator.ok() || !denominator.ok() || denominator.value == 0)
      return {{}, fmt::format("expected a fraction such as 25%, 1/4 or 0.25, got '{}'", text)};
    ratio = {numerator.value, denominator.value};
  } else {
    auto lexeme = lex(text);
    if (auto error = refuse(text, lexeme, "a fraction such as 25%, 1/4 or 0.25"); !error.empty()) return {{}, error};
    if (lexeme->negative) return {{}, fmt::format("'{}' is negative", text)};
    const bool percent = lexeme->suffix == "%";
    if ((!percent && !lexeme->suffix.empty()) || !lexeme->exponent.empty() || lexeme->fraction.size() > 9) {
      return {{}, fmt::format("expected a fraction such as 25%, 1/4 or 0.25, got '{}'", text)};
    }
    std::uint64_t scale = 1;
    for (std::size_t i = 0; i < lexeme->fraction.size(); ++i) scale *= 10;
    const auto digits = exact(text, *lexeme, scale);
    if (!digits.ok()) return {{}, digits.error};
    ratio = {digits.value, scale * (percent ? 100 : 1)};
  }
  const std::uint64_t divisor = std::max<std::uint64_t>(1, std::gcd(ratio.numerator, ratio.denominator));
  return {{ratio.numerator / divisor, ratio.denominator / divisor}, {}};
}

Parsed<bool> parse_bool(std::string_view text) {
  if (text == "true") return {true, {}};
  if (text == "false") return {false, {}};
  return {false, fmt::format("expected true or false, got '{}'", text)};
}

}  // namespace moekv
