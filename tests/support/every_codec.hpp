// The catalogue of codecs as values of one test suite, and combinations of parts.
#pragma once

#include <gtest/gtest.h>

#include <string_view>
#include <variant>
#include <vector>

#include "rules/codec/catalogue.hpp"
#include "rules/codec/plane.hpp"
#include "support/parts_codecs.hpp"

namespace moekv::testing {

/// A codec of the catalogue: a suite by type would cost a minute of compile time.
struct CatalogueCodec {
  std::string_view name, doc, source;
  Codec codec;
  [[nodiscard]] PlaneFormat plane(Role role, std::uint32_t d) const {
    return std::visit([&](const auto& c) { return c.plane(role, d); }, codec);
  }
};
[[nodiscard]] inline std::vector<CatalogueCodec> every_codec() {
  std::vector<CatalogueCodec> all = []<class... C>(std::variant<C...>*) {
    return std::vector<CatalogueCodec>{{C::name, C::doc, C::source, C{}}...};
  }(static_cast<Codec*>(nullptr));
  for (const auto& [name, parts] : combinations()) all.push_back({name, parts.doc, parts.source, parts});
  return all;
}

class EveryCodec : public ::testing::TestWithParam<CatalogueCodec> {};

}  // namespace moekv::testing
