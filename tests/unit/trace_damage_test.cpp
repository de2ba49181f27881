// Damaged native traces: cut at any length or with any byte changed, a trace is read or refused with a UserError; never a crash.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "support/temp_dir.hpp"
#include "support/trace_fixtures.hpp"
#include "trace/source.hpp"

namespace moekv {
namespace {

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void store(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes; }

/// Reads everything; true where that succeeded, false where it was refused. Any other exception fails the test.
bool read_all(const std::string& path) {
  try {
    const auto trace = open_native_trace(path);
    RoutingRows rows;
    RecordedKv kv;
    for (std::uint32_t r = 0; r < trace->n_requests(); ++r) {
      const std::uint32_t n = trace->request(RequestId(r)).total_tokens();
      trace->read(RequestId(r), 0, n, 0, static_cast<std::uint32_t>(trace->info().moe_layers.size()), WantLogits::yes, rows);
      for (const auto layer : trace->info().kv_layers) trace->read_kv(RequestId(r), 0, n, LayerId(layer), kv);
    }
    return true;
  } catch (const UserError& e) {
    EXPECT_FALSE(std::string(e.what()).empty());
    return false;
  }
}

class Damage : public ::testing::Test {
 protected:
  void SetUp() override {
    FixtureSpec spec;
    spec.level = RoutingLevel::logits;
    spec.kv = FixtureKv::gqa;
    write_fixture(dir.file("sound.h5"), spec);
    sound = bytes_of(dir.file("sound.h5"));
    ASSERT_TRUE(read_all(dir.file("sound.h5")));
  }
  TempDir dir;
  std::string sound;
  std::string path = dir.file("damaged.h5");
};

TEST_F(Damage, EveryTruncationIsRefused) {
  for (std::size_t i = 0; i < 100; ++i) {
    const std::size_t length = i < 40 ? i * 24 : hash_words(7, i) % sound.size();
    store(path, sound.substr(0, length));
    EXPECT_FALSE(read_all(path)) << "cut to " << length << " of " << sound.size() << " bytes";
  }
  store(path, sound.substr(0, sound.size() - 1));
  EXPECT_FALSE(read_all(path));
}

TEST_F(Damage, ChangedBytesAreReadOrRefused) {
  std::size_t refused = 0;
  for (std::size_t i = 0; i < 200; ++i) {
    std::string bytes = sound;
    const std::size_t n = 1 + i % 3;
    for (std::size_t j = 0; j < n; ++j) bytes[hash_words(11, i, j) % bytes.size()] = static_cast<char>(hash_words(13, i, j) & 0xFFU);
    store(path, bytes);
    refused += read_all(path) ? 0 : 1;
  }
  EXPECT_GT(refused, 25U);
}

TEST_F(Damage, TheTextHeapsAreGuarded) {  // HDF5 itself would crash on some of these
  std::size_t refused = 0;
  for (std::size_t heap = sound.find("GCOL"); heap != std::string::npos; heap = sound.find("GCOL", heap + 4)) {
    for (std::size_t i = heap % 3; i < 256; i += 3) {
      std::string bytes = sound;
      bytes[heap + i] = static_cast<char>(hash_words(29, heap, i) | 0x41U);
      store(path, bytes);
      refused += read_all(path) ? 0 : 1;
    }
  }
  EXPECT_GT(refused, 20U);
}

TEST_F(Damage, ChangedRunsAreReadOrRefused) {
  for (std::size_t i = 0; i < 60; ++i) {
    std::string bytes = sound;
    const std::size_t at = hash_words(17, i) % bytes.size();
    const std::size_t n = std::min<std::size_t>(bytes.size() - at, 1 + hash_words(19, i) % 4096);
    const char value = i % 3 == 0 ? '\0' : i % 3 == 1 ? '\xFF' : static_cast<char>(hash_words(23, i) & 0xFFU);
    bytes.replace(at, n, n, value);
    store(path, bytes);
    (void)read_all(path);
  }
}

}  // namespace
}  // namespace moekv
