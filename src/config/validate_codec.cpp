// Checks of the codecs: parts that fit each other, pages that hold their scale groups, tables that live equally long, classes in order.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "config/names.hpp"
#include "config/rule_keys.hpp"
#include "config/validate.hpp"

namespace moekv {
namespace {

/// Parts of a codec that do not go together, in K and where it has one in V.
void check_parts(Checks& c) {
  const RunSpec& s = c.spec();
  const bool shared = c.given("compression.codec");
  bool fits = true;
  const auto check = [&](const Codec& codec, Role role) {
    const auto* parts = std::get_if<codec::Parts>(&codec);
    if (parts == nullptr) return;
    const std::string section = shared ? "compression." : role == Role::k ? "compression.k." : "compression.v.";
    parts->check(role, [&](std::string_view parameter, std::string_view what, std::string_view advice) {
      fits = false;
      c.refuse({(section + std::string(parameter)).c_str(), (section + "codec").c_str()}, std::string(what), std::string(advice));
    });
  };
  check(s.compression.k, Role::k);
  if (!s.model.mla() && (fits || !shared)) check(s.compression.v, Role::v);
}

/// Groups of tokens that share scales lie within a page.
void check_token_group(Checks& c, const char* key, const Codec& codec, const PlaneFormat& plane) {
  const std::uint32_t slots = page_slots(c.spec());
  if (plane.scale != ScaleScheme::channel_group || slots % plane.group == 0) return;
  c.refuse({key, "compression.codec", "page.slots"},
           fmt::format("codec {} scales {} tokens of a page together, and a page has {}", rule_name(codec), plane.group, slots),
           fmt::format("set page.slots to a multiple of {}", plane.group));
}

/// Loaded codecs need a file; the tables of both planes live equally long.
void check_tables(Checks& c, const PlaneFormat& k, const PlaneFormat& v) {
  const RunSpec& s = c.spec();
  const bool loads = k.fit == TableFit::loaded || (!s.model.mla() && v.fit == TableFit::loaded);
  if (loads && s.compression.maps_path.empty()) {
    const Codec& codec = k.fit == TableFit::loaded ? s.compression.k : s.compression.v;
    c.refuse({"compression.codec", "compression.k.codec", "compression.v.codec"},
             fmt::format("codec {} takes its maps from a file, and none is given", rule_name(codec)), "give compression.maps_path");
  }
  if (!loads && !s.compression.maps_path.empty()) {
    c.refuse({"compression.maps_path"}, "no codec loads maps from a file", "remove it, or use lora, lora++, ae_loaded or lowrank with basis: loaded");
  }
  const auto shared = [](const PlaneFormat& f) { return f.has_table() && f.scope != TableScope::page; };
  if (!s.model.mla() && shared(k) && shared(v) && k.scope != v.scope) {
    c.refuse({"compression.v.codec", "compression.k.codec"}, "tables of K are made per sequence and those of V for the run, or the reverse",
             "use one basis for both: sequence, or offline or loaded");
  }
}

/// A page has one class for K and V; a larger class stores as much or more.
void check_classes(Checks& c) {
  const RunSpec& s = c.spec();
  const Codec &k = s.compression.k, &v = s.compression.v;
  const bool of_k = classes_of(k) > 1, of_v = !s.model.mla() && classes_of(v) > 1;
  if (of_k && of_v && choice_of(k) != choice_of(v)) {
    c.refuse({"compression.v.codec", "compression.k.codec"}, "a page has one class for K and V, and their codecs choose it differently",
             "choose both by the same rule and thresholds");
  }
  const auto bytes = [&](std::uint32_t i) {
    const BlockFormat page{plane_of(k, Role::k, s.model.d_k, i), plane_of(v, Role::v, s.model.d_v, i), page_slots(s), 1, s.model.d_k, s.model.d_v,
                           s.model.mla()};
    return page.block_bytes();
  };
  for (std::uint32_t i = 1; (of_k || of_v) && i < n_page_classes; ++i) {
    const Codec& codec = of_k ? k : v;
    if (bytes(i - 1) <= bytes(i)) continue;
    c.refuse({"compression.codec", "compression.k.codec", "compression.v.codec"},
             fmt::format("codec {} stores a page of {} bytes as {}, and one of {} as {}, which should be larger", rule_name(codec), bytes(i - 1),
                         class_name(codec, i - 1), bytes(i), class_name(codec, i)),
             "order small, medium and large by the size of their pages");
  }
}

}  // namespace

void check_compression(Checks& c) {
  const RunSpec& s = c.spec();
  const PlaneFormat k = plane_of(s.compression.k, Role::k, s.model.d_k), v = plane_of(s.compression.v, Role::v, s.model.d_v);
  check_parts(c);
  check_classes(c);
  const auto check_raw = [&](const char* key, const Codec& codec) {
    // Codecs that leave only V raw follow the payload, and so do pages that keep their own type.
    const bool whole = classes_of(codec) == 1 && plane_of(codec, Role::k, s.model.d_k).raw();
    const PlaneFormat plane = plane_of(codec, Role::v, s.model.d_v);
    if (!whole || plane.element == s.payload.element) return;
    c.refuse({key, "compression.codec", "payload.element"},
             fmt::format("raw pages hold the payload's type: codec {} does not fit payload {}", rule_name(codec), enum_name(s.payload.element)),
             fmt::format("set payload.element: {}, or leave the codec out", enum_name(plane.element)));
  };
  check_raw("compression.k.codec", s.compression.k);
  if (c.given("compression.v.codec") && !s.model.mla()) check_raw("compression.v.codec", s.compression.v);
  check_tables(c, k, v);
  for (std::uint32_t i = 0; i < n_page_classes; ++i) {
    if (i > 0 && i >= std::max(classes_of(s.compression.k), classes_of(s.compression.v))) break;
    check_token_group(c, "compression.k.codec", s.compression.k, plane_of(s.compression.k, Role::k, s.model.d_k, i));
    if (!s.model.mla()) check_token_group(c, "compression.v.codec", s.compression.v, plane_of(s.compression.v, Role::v, s.model.d_v, i));
  }
  if (c.given("compression.codec") && (c.given("compression.k") || c.given("compression.v"))) {
    c.refuse({"compression.codec", "compression.k"}, "codec sets K and V, but k or v is given too", "give codec, or k and v");
  }
  if (s.model.mla() && (rule_name(s.compression.v) != rule_name(s.compression.k) || plane_of(s.compression.v, Role::k, s.model.d_k) != k)) {
    c.refuse({"compression.v.codec", "compression.k.codec", "model"}, "MLA stores one latent plane, V is a part of it and has no codec of its own",
             "remove compression.v");
  }
}

}  // namespace moekv
