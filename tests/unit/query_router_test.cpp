// The router of key query_router with a matrix from a file: its choice by hand, and files that do not fit.
#include "engine/query_router.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "io/hdf5.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

void write_matrix(const std::string& path, std::uint64_t rows, std::uint64_t columns, const std::vector<float>& values) {
  h5::File file = h5::File::create(path);
  file.write("weights", std::span<const float>(values), {rows, columns});
  file.close();
}

TEST(QueryRouter, ChoosesByTheMatrixOfAFile) {
  const TempDir folder;
  const std::string path = folder.file("router.h5");
  write_matrix(path, 3, 2, {1, 0, 0, 1, 1, 1});
  ModelShape model;
  model.n_heads = 2;
  model.d_k = 2;
  const QueryRouter router(path, 1, model, 3, 2);
  const std::vector<float> q = {1, 0, 1, 0,    // sum of heads (2, 0): scores 2, 0, 2
                                0, 3, 1, -1,   // (1, 2): 1, 2, 3
                                -1, 0, 0, 0};  // (-1, 0): -1, 0, -1
  std::vector<std::uint16_t> ids;
  router.choose(q, ids);
  EXPECT_EQ(ids, (std::vector<std::uint16_t>{0, 2, 2, 1, 1, 0}));
}

TEST(QueryRouter, RefusesFilesThatDoNotFit) {
  const TempDir folder;
  const std::string path = folder.file("router.h5");
  ModelShape model;
  model.n_heads = 2;
  model.d_k = 2;
  EXPECT_THROW(QueryRouter(path, 1, model, 3, 2), UserError);
  write_matrix(path, 2, 2, {1, 0, 0, 1});
  EXPECT_THROW(QueryRouter(path, 1, model, 3, 2), UserError);
}

}  // namespace
}  // namespace moekv
