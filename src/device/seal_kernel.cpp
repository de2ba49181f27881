// The SIMD row encoders, compiled once per instruction set. Every operation is the one of rules/codec, so the bytes are equal.
#include "device/seal.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/seal_kernel.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <limits>
#include <vector>

#include "core/error.hpp"
#include "rules/codec/plane.hpp"

HWY_BEFORE_NAMESPACE();
namespace moekv::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using DU = hn::RebindToUnsigned<D>;
using DI = hn::RebindToSigned<D>;
using V = hn::Vec<D>;
constexpr D d;
constexpr DU du;
constexpr std::uint32_t lanes = HWY_LANES(float);

V load_values(ElementFormat format, const std::byte* row, std::size_t i) {
  if (format == ElementFormat::fp32) return hn::LoadU(d, reinterpret_cast<const float*>(row) + i);
  if (format == ElementFormat::fp16) {
    const hn::Rebind<hwy::float16_t, D> dh;
    return hn::PromoteTo(d, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(row) + i));
  }
  const hn::Rebind<std::uint16_t, D> dw;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(dw, reinterpret_cast<const std::uint16_t*>(row) + i))));
}

struct Range {
  float lo, hi;
};

/// Values in fp32 with NaN as 0, and their range.
Range load_row(ElementFormat format, const std::byte* row, std::size_t n, float* x) {
  V lo = hn::Set(d, std::numeric_limits<float>::infinity());
  V hi = hn::Neg(lo);
  for (std::size_t i = 0; i < n; i += lanes) {
    V value = load_values(format, row, i);
    value = hn::IfThenZeroElse(hn::IsNaN(value), value);
    lo = hn::Min(lo, value);
    hi = hn::Max(hi, value);
    hn::StoreU(value, d, x + i);
  }
  return {hn::GetLane(hn::MinOfLanes(d, lo)), hn::GetLane(hn::MaxOfLanes(d, hi))};
}

/// e4m3_from_float of values that are not NaN, in the low byte.
hn::Vec<DU> e4m3_codes(V x) {
  const auto bits = hn::BitCast(du, x);
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFU));
  const auto shifted = hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 16384.0F));
  const auto subnormal = hn::Sub(hn::BitCast(du, shifted), hn::Set(du, 0x46800000U));
  const auto odd = hn::And(hn::ShiftRight<20>(magnitude), hn::Set(du, 1U));
  const auto rounded = hn::ShiftRight<20>(hn::Add(hn::Add(magnitude, hn::Set(du, 0x7FFFFU - (120U << 23))), odd));
  const auto is_small = hn::Lt(hn::BitCast(DI(), magnitude), hn::Set(DI(), 0x3C800000));
  const auto code = hn::IfThenElse(hn::RebindMask(du, is_small), subnormal, hn::Min(rounded, hn::Set(du, 0x7EU)));
  return hn::Or(code, hn::And(hn::ShiftRight<24>(bits), hn::Set(du, 0x80U)));
}

/// Integer codes as quantise gives them.
hn::Vec<DI> integer_codes(V x, V zero, V scale, V lowest, V highest) {
  return hn::NearestInt(hn::Min(hn::Max(hn::Div(hn::Sub(x, zero), scale), lowest), highest));
}

void store_codes(const PlaneFormat& f, const RowScale& s, const float* x, std::size_t n, std::byte* codes) {
  const hn::Rebind<std::uint8_t, D> db;
  auto* out = reinterpret_cast<std::uint8_t*>(codes);
  const V zero = hn::Set(d, s.zero);
  const V scale = hn::Set(d, s.scale);
  const V highest = hn::Set(d, s.flat && f.zero_point ? 0.0F : largest_code(f));
  const V lowest = f.zero_point ? hn::Zero(d) : hn::Neg(highest);
  if (f.element == ElementFormat::fp8_e4m3) {
    for (std::size_t i = 0; i < n; i += lanes)
      hn::StoreU(hn::DemoteTo(db, hn::BitCast(DI(), e4m3_codes(hn::Div(hn::LoadU(d, x + i), scale)))), db, out + i);
  } else if (f.element == ElementFormat::int8) {
    const auto byte = hn::Set(DI(), 0xFF);
    for (std::size_t i = 0; i < n; i += lanes) {
      hn::StoreU(hn::DemoteTo(db, hn::And(integer_codes(hn::LoadU(d, x + i), zero, scale, lowest, highest), byte)), db, out + i);
    }
  } else {
    const auto nibble = hn::Set(DI(), 15);
    for (std::size_t i = 0; i < n; i += 2 * lanes) {
      V even;
      V odd;
      hn::LoadInterleaved2(d, x + i, even, odd);
      const auto low = hn::And(integer_codes(even, zero, scale, lowest, highest), nibble);
      const auto high = hn::And(integer_codes(odd, zero, scale, lowest, highest), nibble);
      hn::StoreU(hn::DemoteTo(db, hn::Or(low, hn::ShiftLeft<4>(high))), db, out + i / 2);
    }
  }
}

}  // namespace

void encode_rows_simd(const PlaneRows& from, const PlaneRows& to, std::uint32_t width, std::uint32_t n, float* x) {
  MOEKV_EXPECT(from.format.scale == ScaleScheme::none);
  const std::size_t from_bytes = code_bytes(from.format, width);
  const std::size_t to_bytes = code_bytes(to.format, width);
  const bool simd = to.format.scale != ScaleScheme::none && reads_codes(to.format) && width % (2 * lanes) == 0;
  if (to.format.scale == ScaleScheme::channel_group) {
    std::vector<float> rows(std::size_t{n} * width);
    for (std::uint32_t i = 0; i < n; ++i) decode_row(from.format, from.codes + i * from_bytes, nullptr, width, &rows[std::size_t{i} * width]);
    return encode_plane(to.format, rows.data(), n, width, to.codes, to.meta);
  }
  for (std::uint32_t i = 0; i < n; ++i) {
    const std::byte* row = from.codes + i * from_bytes;
    std::byte* codes = to.codes + i * to_bytes;
    std::byte* meta = to.meta + std::size_t{i} * row_meta_bytes(to.format, width);
    if (simd) {
      const Range range = load_row(from.format.element, row, width, x);
      const RowScale s = scale_of_range(to.format, range.lo, range.hi);
      store_scale(to.format, s, meta);
      store_codes(to.format, s, x, width, codes);
    } else {
      decode_row(from.format, row, nullptr, width, x);
      encode_row(to.format, x, width, codes, meta);
    }
  }
}

}  // namespace moekv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moekv {

HWY_EXPORT(encode_rows_simd);

void encode_rows(const PlaneRows& from, const PlaneRows& to, std::uint32_t d, std::uint32_t n) {
  thread_local std::vector<float> row;
  row.resize(d);
  HWY_DYNAMIC_DISPATCH(encode_rows_simd)(from, to, d, n, row.data());
}

}  // namespace moekv
#endif
