// The codecs. One line here makes a codec known to YAML, help, kernels, HDF5 attributes and the every-rule tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <variant>

#include "rules/codec/adaptive.hpp"
#include "rules/codec/alias.hpp"
#include "rules/codec/channel.hpp"
#include "rules/codec/choice.hpp"
#include "rules/codec/fp4.hpp"
#include "rules/codec/fp8.hpp"
#include "rules/codec/integer.hpp"
#include "rules/codec/kivi.hpp"
#include "rules/codec/loaded.hpp"
#include "rules/codec/lowrank.hpp"
#include "rules/codec/parts.hpp"
#include "rules/codec/pq.hpp"
#include "rules/codec/raw.hpp"
#include "rules/codec/turboquant.hpp"

namespace moekv {

using Codec = std::variant<codec::Bf16, codec::Fp16, codec::Fp32,                                                        //
                           codec::Fp8Head, codec::Fp8Token, codec::Fp8E5m2,                                              //
                           codec::Int8Token, codec::Int8TokenAsymmetric,                                                 //
                           codec::Int4Token, codec::Int4TokenHadamard, codec::Int4TokenCentred,                          //
                           codec::Int4TokenHadamardCentred, codec::Int4G64, codec::Int4G32, codec::Kivi4, codec::Kivi2,  //
                           codec::Nvfp4, codec::Nvfp4FourOverSix, codec::Mxfp4,                                          //
                           codec::TurboQuant4, codec::TurboQuant3, codec::TurboQuant2,                                   //
                           codec::TurboK8V4, codec::Turbo4Nc, codec::TurboK3V4Nc, codec::Turbo3Nc,                       //
                           codec::PruneCrop, codec::PruneMagnitude, codec::PruneThink, codec::PyramidRes,                //
                           codec::LowrankPca, codec::LowrankKqSvd, codec::BlockPca, codec::Pq,                           //
                           codec::Lora, codec::LoraPlus, codec::AeLoaded,                                                //
                           codec::Adaptive, codec::Parts>;

/// Codecs that store a page in one of n_page_classes ways.
template <class C>
concept PagewiseCodec = requires(const C& c) { c.choice(); };

[[nodiscard]] std::uint32_t classes_of(const Codec& codec);
[[nodiscard]] ClassChoice choice_of(const Codec& codec);

/// How a codec stores the plane of a role with d channels: its largest class.
[[nodiscard]] PlaneFormat plane_of(const Codec& codec, Role role, std::uint32_t d);
/// The same of a class; a codec with one way has it for every class.
[[nodiscard]] PlaneFormat plane_of(const Codec& codec, Role role, std::uint32_t d, std::uint32_t page_class);
/// Name of a class; the codec's own where it has one.
[[nodiscard]] std::string_view class_name(const Codec& codec, std::uint32_t page_class);

}  // namespace moekv
