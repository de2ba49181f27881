// A process that dies ends the whole job: nobody is left waiting in an exchange. The test starts itself again under mpirun.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "comm/transport.hpp"

namespace moekv {
namespace {

TEST(PeerDeath, DISABLED_Victim) {  // run by the test below, under mpirun
  const auto t = make_mpi_transport();
  for (int round = 0;; ++round) {
    if (round == 50 && t->process() == 1) std::raise(SIGKILL);
    for (int p = 0; p < t->n_processes(); ++p) t->outbox(p).resize(1000);
    t->exchange();
  }
}

TEST(PeerDeath, EndsTheJobWithinSeconds) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command = fmt::format("timeout -k 2 30 '{}' {} 3 '{}' --gtest_also_run_disabled_tests --gtest_filter='*Victim' 2>&1",
                                          MOEKV_MPIEXEC, MOEKV_MPIEXEC_NUMPROC_FLAG, self);
  const auto start = std::chrono::steady_clock::now();
  std::FILE* pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string output;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) output += static_cast<char>(c);
  const int status = pclose(pipe);
  const auto elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_LT(elapsed, std::chrono::seconds(15)) << output;
  ASSERT_TRUE(WIFEXITED(status)) << output;
  EXPECT_NE(WEXITSTATUS(status), 0) << output;
  EXPECT_NE(WEXITSTATUS(status), 124) << "mpirun did not end by itself\n" << output;
  EXPECT_NE(output.find("signal 9"), std::string::npos) << "the launcher names the cause\n" << output;
}

}  // namespace
}  // namespace moekv
