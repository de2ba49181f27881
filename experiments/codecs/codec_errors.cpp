// codec_errors: what every codec of the catalogue and some from parts store and what that costs attention, on the generator's presets.
#include <cstdio>
#include <string>

#include "support/codec_lab.hpp"
#include "support/parts_codecs.hpp"

namespace moekv::test {
namespace {

void print_codec(const HeadRows& head, char preset, const Codec& codec, const std::string& name) {
  const CodecErrors e = measure_codec(head, codec, codec, 64, 4);
  const double raw16 = static_cast<double>(e.raw_bytes) / 2;
  std::printf("%-32s %c %7.2f %7.2f %7.2f %8.4f %8.4f %8.4f %8.4f %8.4f\n", name.c_str(), preset, raw16 / static_cast<double>(e.code_bytes),
              raw16 / static_cast<double>(e.stored_bytes), raw16 / static_cast<double>(e.allocated_bytes), e.rel_k, e.rel_v, e.logit, e.attention,
              e.out);
}

template <std::size_t... I>
void print_all(const HeadRows& head, char preset, std::index_sequence<I...>) {
  (print_codec(head, preset, std::variant_alternative_t<I, Codec>{}, std::string(std::variant_alternative_t<I, Codec>::name)), ...);
  for (const auto& [name, parts] : moekv::testing::combinations()) print_codec(head, preset, parts, std::string(name));
}

}  // namespace
}  // namespace moekv::test

int main() {
  using namespace moekv;
  std::printf("%-32s p %7s %7s %7s %8s %8s %8s %8s %8s\n", "codec", "codes x", "page x", "total x", "rel K", "rel V", "logit", "attn", "out");
  for (const char preset : {'A', 'B', 'C', 'D'}) {
    const test::HeadRows head = test::generated_head(std::string(1, preset), 6, 128, 4096, 48);
    test::print_all(head, preset, std::make_index_sequence<std::variant_size_v<Codec>>{});
  }
  return 0;
}
