// What a codec chosen at run time says of itself.
#include "rules/codec/catalogue.hpp"

namespace moekv {

std::uint32_t classes_of(const Codec& codec) {
  return std::visit([]<class C>(const C&) { return PagewiseCodec<C> ? n_page_classes : 1U; }, codec);
}

ClassChoice choice_of(const Codec& codec) {
  return std::visit(
      []<class C>(const C& c) -> ClassChoice {
        if constexpr (PagewiseCodec<C>) return c.choice();
        return {};
      },
      codec);
}

PlaneFormat plane_of(const Codec& codec, Role role, std::uint32_t d) {
  return std::visit([&](const auto& c) { return c.plane(role, d); }, codec);
}

PlaneFormat plane_of(const Codec& codec, Role role, std::uint32_t d, std::uint32_t page_class) {
  return std::visit(
      [&]<class C>(const C& c) {
        if constexpr (PagewiseCodec<C>) return c.plane(role, d, page_class);
        return c.plane(role, d);
      },
      codec);
}

std::string_view class_name(const Codec& codec, std::uint32_t page_class) {
  return std::visit(
      [&]<class C>(const C& c) -> std::string_view {
        if constexpr (requires { c.classes(); }) return enum_names(codec::PageCodec{})[static_cast<std::size_t>(c.classes()[page_class])];
        if constexpr (requires { C::class_names; }) return C::class_names[page_class];
        return C::name;
      },
      codec);
}

}  // namespace moekv
