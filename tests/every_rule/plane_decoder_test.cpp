// Rows of every codec decoded together are those that the reference decodes one by one, bit for bit.
#include "device/plane_decoder.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "core/rng.hpp"
#include "support/every_codec.hpp"

namespace moekv {
namespace {

using testing::EveryCodec;

TEST_P(EveryCodec, DecodesTogetherAsOneByOne) {
  constexpr std::uint32_t n = 40;
  const std::vector<std::uint16_t> slots = {0, 3, 4, 30, 31, 32, 33, 39};
  for (const Role role : {Role::k, Role::v}) {
    const PlaneFormat f = plane_of(GetParam().codec, role, 128, 0);
    for (const std::uint32_t width : {1U, 31U, 64U, 97U, 576U}) {
      std::vector<float> x(std::size_t{n} * width);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = 8.0F * uniform_float(static_cast<std::uint32_t>(hash_words(1, width, i))) - 3.0F;
      std::vector<std::byte> codes((std::size_t{width} * element_bits(f.element) + 7) / 8 * n), meta(std::size_t{n} * width * 4 + 64);
      encode_plane(f, x.data(), n, width, codes.data(), meta.data());
      const std::size_t stride = width + 3;
      std::vector<float> memory(PlaneDecoder::size(width)), rows(n * stride, 7.0F), one(width);
      PlaneDecoder decoder(memory.data());
      decoder.decode(f, codes.data(), meta.data(), slots, width, rows.data(), stride);
      for (const std::uint16_t t : slots) {
        decode_slot(f, codes.data(), meta.data(), t, width, one.data());
        ASSERT_EQ(std::memcmp(&rows[t * stride], one.data(), width * sizeof(float)), 0) << "width " << width << " row " << t;
        EXPECT_EQ(rows[t * stride + width], 7.0F);
      }
    }
  }
}

}  // namespace
}  // namespace moekv
