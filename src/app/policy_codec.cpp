// moekv policy codec: what a codec stores of the rows of one page, as bytes, and what comes back.
#include <vector>

#include "app/policy.hpp"
#include "device/code_entropy.hpp"
#include "device/fit_table.hpp"
#include "rules/codec/catalogue.hpp"
#include "rules/codec/map.hpp"
#include "rules/codec/plane.hpp"

namespace moekv {
namespace {

constexpr std::size_t max_rows = 4096, max_channels = 4096;

/// One plane of a page outside any pool: [codes | metadata | table].
struct StoredPlane {
  PlaneFormat format;
  std::uint32_t d = 0, n = 0;
  std::vector<std::byte> codes, meta, table;

  [[nodiscard]] MapView map() const { return map_view(format, d, table.data()); }
};

StoredPlane store(const PlaneFormat& f, const Matrix<float>& values, const Matrix<float>& queries) {
  StoredPlane s{f, static_cast<std::uint32_t>(values.n_columns), static_cast<std::uint32_t>(values.n_rows), {}, {}, {}};
  s.codes.resize(std::size_t{s.n} * code_bytes(f, s.d));
  s.meta.resize(plane_meta_bytes(f, s.d, s.n));
  s.table.resize(table_bytes(f, s.d));
  if (f.has_table()) {
    fit_table(f, s.d, {values.values.data(), s.n, queries.values.data(), static_cast<std::uint32_t>(queries.n_rows)}, s.table.data());
  }
  const MapView map = s.map();
  std::vector<float> rows = values.values, mapped(std::size_t{s.n} * map.width);
  for (std::uint32_t t = 0; t < s.n; ++t) map_forward(map, &rows[std::size_t{t} * s.d], &mapped[std::size_t{t} * map.width]);
  encode_plane(f, mapped.data(), s.n, map.width, s.codes.data(), s.meta.data());
  return s;
}

Json decoded(const StoredPlane& s) {
  Json rows = Json::array();
  const MapView map = s.map();
  std::vector<float> values(map.width);
  for (std::uint32_t t = 0; t < s.n; ++t) {
    std::vector<float> row(s.d);
    decode_slot(s.format, s.codes.data(), s.meta.data(), t, map.width, values.data());
    map_back(map, values.data(), 1.0F, row.data(), s.d);
    Json out = Json::array();
    for (const float x : row) out.push_back(static_cast<double>(x));
    rows.push_back(std::move(out));
  }
  return rows;
}

std::string hex(const StoredPlane& s) {
  std::string text;
  for (const auto* part : {&s.codes, &s.meta, &s.table}) {
    for (const std::byte b : *part) text += fmt::format("{:02x}", std::to_integer<int>(b));
  }
  return text;
}

}  // namespace

Json decide_codec(Case& given) {
  const auto codec = given.rule<Codec>("codec");
  const auto role = given.value_or<Role>("role", Role::k);
  given.require("values");
  const auto values = given.matrix<float>("values"), queries = given.matrix<float>("queries");
  if (!given.failed() && (values.n_rows == 0 || values.n_columns == 0 || values.n_rows > max_rows || values.n_columns > max_channels)) {
    given.complain("values", fmt::format("{} rows of {} values", values.n_rows, values.n_columns),
                   fmt::format("give 1 to {} tokens of 1 to {} channels", max_rows, max_channels));
  }
  if (!given.failed() && queries.n_rows > 0 && queries.n_columns != values.n_columns) {
    given.complain("queries", fmt::format("has {} channels, values have {}", queries.n_columns, values.n_columns));
  }
  given.finish();
  const StoredPlane s = store(plane_of(codec, role, static_cast<std::uint32_t>(values.n_columns)), values, queries);
  CodeCounts counts;
  count_codes(s.format, s.codes.data(), s.n, s.map().width, counts);
  return {{"bytes_hex", hex(s)},           {"stored_bytes", s.codes.size() + s.meta.size() + s.table.size()},
          {"code_bytes", s.codes.size()},  {"meta_bytes", s.meta.size()},
          {"table_bytes", s.table.size()}, {"code_entropy_bits", entropy_bits(counts)},
          {"decoded", decoded(s)}};
}

}  // namespace moekv
