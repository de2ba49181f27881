// Small parsers for recorded text: exact integers and times, CSV tables by column name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/gzip.hpp"

namespace moekv {

/// The whole text as a decimal integer (a trailing ".0" is allowed); nothing when it is none or does not fit.
[[nodiscard]] std::optional<std::int64_t> parse_integer(std::string_view text);
[[nodiscard]] std::optional<double> parse_real(std::string_view text);
/// A decimal number of units as nanoseconds, exact for plain decimals ("5", "19440110.25"); also exponent notation.
[[nodiscard]] std::optional<std::int64_t> parse_time_ns(std::string_view text, std::int64_t unit_ns);
/// "2023-11-16 18:15:46.6805900" (or with T, Z, +hh:mm) as nanoseconds since 1970.
[[nodiscard]] std::optional<std::int64_t> parse_timestamp_ns(std::string_view text);
/// Number after the last occurrence of `word` (any case, '_' may follow it) in a file name; nothing when there is none.
[[nodiscard]] std::optional<std::uint16_t> number_after(std::string_view text, std::string_view word);
/// Lower case of ASCII letters.
[[nodiscard]] std::string lower(std::string_view text);

/// Splits one CSV line; a field may be quoted. `fields` point into `line` or into `unquoted`.
void split_csv(std::string_view line, std::vector<std::string_view>& fields, std::vector<std::string>& unquoted);

/// A CSV file with a header line.
class CsvReader {
 public:
  explicit CsvReader(const std::string& path);
  [[nodiscard]] const std::vector<std::string>& header() const { return header_; }
  /// Index of the first of `names` in the header, ignoring case; nothing when none is there, a UserError when two are.
  [[nodiscard]] std::optional<std::size_t> find(const std::vector<std::string_view>& names) const;
  /// As find, or a UserError that lists the header.
  [[nodiscard]] std::size_t require(const std::vector<std::string_view>& names) const;
  /// The next row that is not empty. A row with another number of fields than the header is a UserError.
  bool next();
  [[nodiscard]] std::string_view operator[](std::size_t column) const { return fields_[column]; }
  /// An integer >= 0 below 2^31, or a UserError naming line and column.
  [[nodiscard]] std::uint32_t count(std::size_t column) const;
  [[nodiscard]] std::string place() const { return lines_.place(); }

 private:
  LineReader lines_;
  std::vector<std::string> header_;
  std::vector<std::string_view> fields_;
  std::vector<std::string> unquoted_;
};

}  // namespace moekv
