// Codecs put together from parts: those that have a name, and combinations that have none.
#pragma once

#include <cstddef>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "rules/codec/catalogue.hpp"

namespace moekv::testing {

/// A codec of the catalogue and what its planes are made of.
struct NamedParts {
  Codec named;
  codec::Parts k, v;
};

/// Every codec of the catalogue that stores all pages alike, some with other parameters too.
[[nodiscard]] inline std::vector<NamedParts> named_parts() {
  using namespace codec;
  using E = PartElement;
  using S = PartScale;
  using M = PartMap;
  constexpr PartCentre mean = PartCentre::mean;
  const auto both = [](const Codec& named, const Parts& parts) { return NamedParts{named, parts, parts}; };
  const Parts int4, bf16{.element = E::bf16, .scale = S::none}, e4m3_head{.element = E::fp8_e4m3, .scale = S::head};
  const Parts turbo4{.element = E::lloyd4, .map = M::hadamard}, turbo3{.element = E::lloyd3, .map = M::hadamard};
  const Parts pca{.element = E::fp16, .scale = S::none, .map = M::pca, .centre = mean};
  return {
      both(Bf16{}, bf16),
      both(Fp16{}, {.element = E::fp16, .scale = S::none}),
      both(Fp32{}, {.element = E::fp32, .scale = S::none}),
      both(Fp8Head{}, e4m3_head),
      both(Fp8Head{.head_scale = 0.25F}, {.element = E::fp8_e4m3, .scale = S::head, .head_scale = 0.25F}),
      both(Fp8Token{}, {.element = E::fp8_e4m3}),
      both(Fp8E5m2{}, {.element = E::fp8_e5m2, .scale = S::head}),
      both(Int8Token{}, {.element = E::int8_sym}),
      both(Int8TokenAsymmetric{}, {.element = E::int8_asym}),
      both(Int4Token{}, int4),
      both(Int4TokenHadamard{}, {.map = M::hadamard}),
      {Int4TokenCentred{}, {.centre = mean}, int4},
      {Int4TokenHadamardCentred{}, {.map = M::hadamard, .centre = mean}, {.map = M::hadamard}},
      both(Int4G64{}, {.scale = S::group, .group = 64}),
      both(Int4G32{}, {.scale = S::group}),
      {Kivi4{}, {.scale = S::channel}, {.scale = S::group}},
      {Kivi2{}, {.element = E::int2_asym, .scale = S::channel}, {.element = E::int2_asym, .scale = S::group}},
      both(Nvfp4{}, {.element = E::e2m1, .scale = S::group, .group = 16, .scale_code = PartScaleCode::e4m3}),
      both(Nvfp4{.tensor_scale = 0.5F}, {.element = E::e2m1, .scale = S::group, .group = 16, .scale_code = PartScaleCode::e4m3, .head_scale = 0.5F}),
      both(Nvfp4FourOverSix{}, {.element = E::e2m1, .scale = S::group, .group = 16, .scale_code = PartScaleCode::e4m3_4over6}),
      both(Mxfp4{}, {.element = E::e2m1, .scale = S::group, .scale_code = PartScaleCode::e8m0}),
      both(TurboQuant4{}, turbo4),
      both(TurboQuant3{}, turbo3),
      both(TurboQuant2{}, {.element = E::lloyd2, .map = M::hadamard}),
      {TurboK8V4{}, e4m3_head, int4},
      {Turbo4Nc{}, turbo4, int4},
      {TurboK3V4Nc{}, turbo3, int4},
      {Turbo3Nc{}, turbo3, {.element = E::int3_asym}},
      both(PruneCrop{}, {.element = E::bf16, .scale = S::none, .map = M::crop}),
      both(PruneMagnitude{.pruned = 0.25F}, {.element = E::bf16, .scale = S::none, .map = M::magnitude, .pruned = 0.25F}),
      {PruneThink{}, {.element = E::bf16, .scale = S::none, .map = M::think, .pruned = 0.4F}, bf16},
      both(PyramidRes{}, {.element = E::fp16, .scale = S::none, .map = M::pool}),
      both(PyramidRes{.level = 3}, {.element = E::fp16, .scale = S::none, .map = M::pool, .level = 3}),
      both(LowrankPca{}, pca),
      both(LowrankPca{.rank = 24, .latents = Latents::int4, .basis = BasisFrom::offline},
           {.map = M::pca, .rank = 24, .centre = mean, .table = PartTable::offline}),
      both(LowrankPca{.rank = 24, .latents = Latents::int4, .basis = BasisFrom::loaded}, {.map = M::loaded, .rank = 24, .centre = mean}),
      {LowrankKqSvd{}, {.element = E::fp16, .scale = S::none, .map = M::kq_svd}, pca},
      both(BlockPca{}, {.element = E::fp16, .scale = S::none, .map = M::pca, .rank = 16, .table = PartTable::page}),
      both(Lora{}, {.element = E::fp16, .scale = S::none, .map = M::loaded}),
      both(AeLoaded{}, {.element = E::fp16, .scale = S::none, .map = M::loaded, .centre = mean})};
}

struct Combination {
  std::string_view name;
  codec::Parts parts;
};

/// Combinations without a name of their own, of every kind of part.
[[nodiscard]] inline std::vector<Combination> combinations() {
  using namespace codec;
  using E = PartElement;
  using S = PartScale;
  using M = PartMap;
  constexpr PartCentre mean = PartCentre::mean;
  return {
      {"parts.int4_sym_channel_centred", {.element = E::int4_sym, .scale = S::channel, .centre = mean, .table = PartTable::page}},
      {"parts.fp8_group_hadamard_centred", {.element = E::fp8_e4m3, .scale = S::group, .map = M::hadamard, .centre = mean}},
      {"parts.int8_head", {.element = E::int8_sym, .scale = S::head, .head_scale = 0.25F}},
      {"parts.int3_group_pca", {.element = E::int3_asym, .scale = S::group, .map = M::pca, .rank = 96, .centre = mean}},
      {"parts.nvfp4_select_centred",
       {.element = E::e2m1, .scale = S::group, .group = 16, .scale_code = PartScaleCode::e4m3, .map = M::magnitude, .pruned = 0.25F, .centre = mean}},
      {"parts.turboquant4_centred", {.element = E::lloyd4, .map = M::hadamard, .centre = mean}},
      {"parts.pool_centred", {.element = E::fp16, .scale = S::none, .map = M::pool, .centre = mean, .table = PartTable::page}},
      {"parts.int4_smooth", {.map = M::diag}},
      {"parts.int3_group_smooth_centred",
       {.element = E::int3_asym, .scale = S::group, .map = M::diag, .alpha = 1.0F, .centre = mean, .table = PartTable::page}}};
}

/// Calls f(parts) for every element, scale, scale code, map, centre and table, whether they go together or not.
template <class F>
void for_each_combination(F&& f) {
  codec::Parts parts;
  const auto each = [](auto& part, auto&& rest) {
    for (std::size_t i = 0; i < enum_names(part).size(); ++i) {
      part = static_cast<std::decay_t<decltype(part)>>(i);
      rest();
    }
  };
  each(parts.element, [&] {
    each(parts.scale, [&] {
      each(parts.scale_code, [&] { each(parts.map, [&] { each(parts.centre, [&] { each(parts.table, [&] { f(std::as_const(parts)); }); }); }); });
    });
  });
}

/// How many parts do not go together.
[[nodiscard]] inline int misfits(const codec::Parts& parts, Role role) {
  int n = 0;
  parts.check(role, [&](std::string_view, std::string_view, std::string_view) { ++n; });
  return n;
}

}  // namespace moekv::testing
