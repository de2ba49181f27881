// Every file of tests/cli/bad_configs is refused with the fragments that its "# expect:" lines name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "config/reader.hpp"
#include "core/error.hpp"

namespace moekv {
namespace {

std::vector<std::filesystem::path> bad_configs() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(MOEKV_SOURCE_DIR "/tests/cli/bad_configs")) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> expectations(const std::filesystem::path& path) {
  std::vector<std::string> found;
  std::ifstream in(path);
  const std::string mark = "# expect: ";
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(mark)) found.push_back(line.substr(mark.size()));
  }
  return found;
}

class BadConfig : public ::testing::TestWithParam<std::filesystem::path> {};

TEST_P(BadConfig, IsRefusedWithItsMessage) {
  const auto fragments = expectations(GetParam());
  ASSERT_FALSE(fragments.empty()) << "no '# expect:' line";
  try {
    (void)read_run_spec(GetParam().string());
    FAIL() << "was accepted";
  } catch (const UserError& e) {
    for (const std::string& fragment : fragments) EXPECT_THAT(e.what(), ::testing::HasSubstr(fragment));
    for (const Problem& problem : e.problems()) {
      EXPECT_THAT(problem.where, ::testing::HasSubstr(GetParam().filename().string())) << problem.what;
      EXPECT_FALSE(problem.what.empty());
    }
    EXPECT_LE(e.problems().size(), 4U) << "one mistake must not set off many messages:\n" << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(Files, BadConfig, ::testing::ValuesIn(bad_configs()), [](const auto& test) { return test.param.stem().string(); });

TEST(BadConfigs, AreAtLeastThirtyKinds) { EXPECT_GE(bad_configs().size(), 30U); }

}  // namespace
}  // namespace moekv
