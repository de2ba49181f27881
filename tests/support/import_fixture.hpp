// ImportRouting: writes small inputs, imports them into memory and gives the messages of those that are refused.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/id.hpp"
#include "support/archives.hpp"
#include "support/recording_target.hpp"
#include "support/temp_dir.hpp"
#include "trace/importers.hpp"

namespace moekv::testing {

using Ids = std::vector<std::uint16_t>;
inline constexpr std::uint16_t absent = ExpertId::invalid;

class ImportRouting : public ::testing::Test {
 protected:
  std::string file(const std::string& name, const std::string& bytes) {
    write_bytes(dir_.file(name), bytes);
    return dir_.file(name);
  }
  ImportOptions input(const std::string& path, std::uint32_t n_experts = 0, std::uint32_t top_k = 0) {
    ImportOptions options;
    options.inputs = {path};
    options.n_experts = n_experts;
    options.top_k = top_k;
    return options;
  }
  ImportReport run(const ImportOptions& options) {
    target = {};
    return report = import_into(options, target);
  }
  /// The message of the UserError; nothing may have been finished.
  std::string failure(const ImportOptions& options) {
    try {
      run(options);
    } catch (const UserError& e) {
      EXPECT_FALSE(target.finished);
      return e.what();
    }
    return "no error";
  }
  std::string warnings() const {
    std::string text;
    for (const auto& w : report.warnings) text += w + "\n";
    return text;
  }

  TempDir dir_;
  RecordingTarget target;
  ImportReport report;
};

/// One line of a vLLM-style log.
inline std::string route(const std::string& request, int token, int layer, const std::string& ids, const std::string& weights) {
  return std::string(R"({"type": "route", "req_id": ")") + request + R"(", "token_idx": )" + std::to_string(token) + R"(, "layer": )" +
         std::to_string(layer) + R"(, "topk_ids": [)" + ids + R"(], "topk_weights": [)" + weights + "]}\n";
}

}  // namespace moekv::testing
