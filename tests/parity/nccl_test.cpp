// NCCL of one process: what it sends to itself goes through the library and comes back.
#include <gtest/gtest.h>

#include <string>

#include "comm/transport.hpp"
#include "core/error.hpp"
#include "core/rng.hpp"

namespace moekv::test {
namespace {

class NcclSelfExchange : public ::testing::TestWithParam<std::string> {};

TEST_P(NcclSelfExchange, ReturnsWhatWasSent) {
  const auto job = make_local_transport();
  std::unique_ptr<Transport> nccl;
  try {
    nccl = make_nccl_transport(*job, OwnBytes::through_device);
  } catch (const DeviceMissing& e) {
    GTEST_SKIP() << e.what();
  }
  for (const std::size_t size : {std::size_t{1}, std::size_t{0}, std::size_t{300}, std::size_t{5} << 20, std::size_t{77}}) {
    for (std::size_t i = 0; i < size; ++i) nccl->outbox(0).push_back(static_cast<std::byte>(hash_words(size, i)));
    nccl->exchange();
    const auto got = nccl->received(0);
    ASSERT_EQ(got.size(), size);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < size; ++i) wrong += got[i] != static_cast<std::byte>(hash_words(size, i)) ? 1 : 0;
    EXPECT_EQ(wrong, 0U) << size;
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, NcclSelfExchange, ::testing::Values("cuda"), [](const auto& param) { return param.param; });

}  // namespace
}  // namespace moekv::test
