// The catalogue of codecs as values of one test suite.
#pragma once

#include <gtest/gtest.h>

#include <string_view>
#include <variant>
#include <vector>

#include "rules/codec/catalogue.hpp"
#include "rules/codec/plane.hpp"

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
  return []<class... C>(std::variant<C...>*) {
    return std::vector<CatalogueCodec>{{C::name, C::doc, C::source, C{}}...};
  }(static_cast<Codec*>(nullptr));
}

class EveryCodec : public ::testing::TestWithParam<CatalogueCodec> {};

}  // namespace moekv::testing
