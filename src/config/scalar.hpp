// Scalars of a configuration: numbers with units, ratios, booleans. Own parser, because YAML's reads 010 as 8 and no as false.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace moekv {

/// A value, or the reason why the text is not one ("expected ...", to follow the key's name).
template <class T>
struct Parsed {
  T value{};
  std::string error;
  [[nodiscard]] bool ok() const { return error.empty(); }
};

/// An exact non-negative ratio in lowest terms.
struct Ratio {
  std::uint64_t numerator = 0, denominator = 1;
};

/// A whole number >= 0: "64", "1e3", "8Ki", "1.5M"; where `unit` is "byte" also "2GiB", "300MB". Octal-looking, negative, fractional and
/// too large numbers are errors.
[[nodiscard]] Parsed<std::uint64_t> parse_unsigned(std::string_view text, std::string_view unit);
/// A finite number: "0.25", "1e-3", "25%" (unit "1"), "50us" (units ns, us, ms, s are converted), "48GB/s".
[[nodiscard]] Parsed<double> parse_number(std::string_view text, std::string_view unit);
/// "25%", "1/4" or "0.25", exactly.
[[nodiscard]] Parsed<Ratio> parse_ratio(std::string_view text);
/// "true" or "false" and nothing else.
[[nodiscard]] Parsed<bool> parse_bool(std::string_view text);

}  // namespace moekv
