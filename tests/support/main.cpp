// The one main of every test program: starts MPI only under a launcher, prints on rank 0, and fails where any rank failed.
#include <gtest/gtest.h>
#include <mpi.h>

#include <cstdlib>

#include "core/heap.hpp"

int main(int argc, char** argv) {
  const bool launched = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMIX_RANK") != nullptr;
  ::testing::InitGoogleTest(&argc, argv);
  moekv::keep_freed_memory();  // tests make much the same again and again
  if (!launched) return RUN_ALL_TESTS();
  MPI_Init(&argc, &argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (rank > 0) delete listeners.Release(listeners.default_result_printer());
  int failed = RUN_ALL_TESTS();
  MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return failed;
}
