// gpu_bench: of the memory bandwidth that this GPU gives at this moment, how much do the kernels of backend cuda use? README.md says how to read it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "cuda_check.hpp"
#include "gpu_baselines.hpp"
#include "gpu_cases.hpp"

namespace moekv::bench {
namespace {

struct Options {
  int rounds = 30;
  std::string json, only;
  bool quick = false;
};

/// Buffers of the baselines, and one that is overwritten before every piece so that nothing is found in the L2 cache.
struct Buffers {
  explicit Buffers(kernels::CudaDevice& device) {
    int l2 = 0;
    kernels::check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, 0));
    bytes = std::max<std::uint64_t>(std::uint64_t{1} << 29, 4 * static_cast<std::uint64_t>(l2));
    from = device.allocate(bytes);
    to = device.allocate(bytes);
    sink = reinterpret_cast<unsigned*>(device.allocate(sizeof(unsigned)));
    flush = device.allocate(flush_bytes = 2 * static_cast<std::uint64_t>(l2));
    launch_fill(from, bytes, 9, device.stream());
  }
  std::uint64_t bytes = 0, flush_bytes = 0;
  std::byte *from = nullptr, *to = nullptr, *flush = nullptr;
  unsigned* sink = nullptr;
};

/// What a case shall reach: a share of the bandwidth of `read` or `copy`, or a time.
enum class GoalOf : std::uint8_t { none, read, copy, microseconds };
struct Goal {
  GoalOf of = GoalOf::none;
  double bound = 0;
};

struct Row {
  std::string name;
  double bytes, median, p5, p95, of_read, of_copy, ideal_share;
  Goal goal;

  [[nodiscard]] bool meets() const {
    if (goal.of == GoalOf::microseconds) return median * 1e6 <= goal.bound;
    return goal.of == GoalOf::none || (goal.of == GoalOf::read ? of_read : of_copy) >= goal.bound;
  }
  [[nodiscard]] std::string goal_text() const {
    if (goal.of == GoalOf::none) return "";
    const std::string text = goal.of == GoalOf::microseconds ? fmt::format("<= {:g} us", goal.bound)
                                                             : fmt::format(">= {:.2f} {}", goal.bound, goal.of == GoalOf::read ? "read" : "copy");
    return text + (meets() ? ": met" : ": missed");
  }
};

class Bench {
 public:
  Bench(kernels::CudaDevice& device, const Options& options) : device_(device), options_(options), buffers_(device) {
    kernels::check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, 0));
  }

  /// `make` makes the case, where it is wanted.
  template <class Make>
  void run(const std::string& name, Make&& make, const Goal& goal = {}) {
    if (name.find(options_.only) == std::string::npos) return;
    const std::unique_ptr<Case> work = make();
    Piece piece = work->piece();
    piece.name = name;
    const cudaStream_t stream = device_.stream();
    const int blocks = multiprocessors_ * 8;
    const std::vector<Piece> pieces{
        {"read", static_cast<double>(buffers_.bytes), [&] { launch_read(buffers_.from, buffers_.bytes, buffers_.sink, blocks, stream); }},
        piece,
        {"copy", 2.0 * static_cast<double>(buffers_.bytes), [&] { launch_copy(buffers_.to, buffers_.from, buffers_.bytes, blocks, stream); }},
        {"empty", 0.0, [&] { launch_nothing(stream); }}};
    const std::vector<Times> times = time_pieces(stream, pieces, options_.rounds, [&] { device_.clear(buffers_.flush, buffers_.flush_bytes); });
    const double read = pieces[0].bytes / times[0].quantile(0.5), copy = pieces[2].bytes / times[2].quantile(0.5), empty = times[3].quantile(0.5);
    const double t = times[1].quantile(0.5), rate = piece.bytes / t;
    const double ideal = empty + piece.bytes / read;
    rows_.push_back({name, piece.bytes, t, times[1].quantile(0.05), times[1].quantile(0.95), rate / read, rate / copy, ideal / t, goal});
    if (rows_.size() == 1)
      fmt::print("{:<44}{:>9}{:>10}{:>18}{:>9}{:>8}{:>8}{:>8}  {}\n", "case", "MB", "us", "[p5, p95]", "GB/s", "/read", "/copy", "ideal/t", "goal");
    const Row& r = rows_.back();
    fmt::print("{:<44}{:>9.1f}{:>10.1f}{:>18}{:>9.0f}{:>8.2f}{:>8.2f}{:>8.2f}  {}\n", r.name, r.bytes * 1e-6, r.median * 1e6,
               fmt::format("[{:.1f}, {:.1f}]", r.p5 * 1e6, r.p95 * 1e6), rate * 1e-9, r.of_read, r.of_copy, r.ideal_share, r.goal_text());
    std::fflush(stdout);
    baselines_ = {{"read_gb_s", read * 1e-9}, {"copy_gb_s", copy * 1e-9}, {"empty_us", empty * 1e6}};
  }

  void attention() {
    const AttendShape gqa{"32/4/128", 4, 8, 128, 128, false, 64}, small{"32/4/128 P=16", 4, 8, 128, 128, false, 16},
        oss{"64/8/64", 8, 8, 64, 64, false, 64}, mla{"MLA 16x576", 1, 16, 576, 512, true, 64};
    struct OfCodec {
      std::string name;
      Codec codec;
      double share;
    };
    for (const auto& [name, codec, share] : {OfCodec{"bf16", codec::Bf16{}, 0.90},
                                             {"fp8", codec::Fp8Token{}, 0.75},
                                             {"int8", codec::Int8Token{}, 0.70},
                                             {"int4", codec::Int4Token{}, 0.55}})
      run(fmt::format("attend {} {} b32 L8K", name, gqa.name), [&] { return attend_case(device_, gqa, codec, 32, 8192); }, {GoalOf::read, share});
    run(fmt::format("attend bf16 {} b32 L8K", small.name), [&] { return attend_case(device_, small, codec::Bf16{}, 32, 8192); });
    run(fmt::format("attend bf16 {} b32 L8K", oss.name), [&] { return attend_case(device_, oss, codec::Bf16{}, 32, 8192); });
    run(fmt::format("attend bf16 {} b64 L8K", mla.name), [&] { return attend_case(device_, mla, codec::Bf16{}, 64, 8192); });
    if (options_.quick) return;
    run(fmt::format("attend bf16 {} b1 L128K", gqa.name), [&] { return attend_case(device_, gqa, codec::Bf16{}, 1, 131072); });
    run(fmt::format("attend bf16 {} b8 L1K", gqa.name), [&] { return attend_case(device_, gqa, codec::Bf16{}, 8, 1024); });
    run(fmt::format("attend kivi4 {} b4 L8K (portable)", gqa.name), [&] { return attend_case(device_, gqa, codec::Kivi4{}, 4, 8192); });
    run(fmt::format("attend int4.hadamard {} b4 L8K (portable)", gqa.name),
        [&] { return attend_case(device_, gqa, codec::Int4TokenHadamard{}, 4, 8192); });
  }

  void rest() {
    run("append 4096 tokens x 8 heads", [&] { return append_case(device_, 4096); }, {GoalOf::copy, 0.85});
    run("append 32768 tokens x 8 heads", [&] { return append_case(device_, 32768); }, {GoalOf::copy, 0.85});
    run("append 64 tokens x 8 heads", [&] { return append_case(device_, 64); });
    run("seal bf16 -> fp8", [&] { return seal_case(device_, codec::Fp8Token{}, 2048); }, {GoalOf::copy, 0.90});
    run("seal bf16 -> int8", [&] { return seal_case(device_, codec::Int8Token{}, 2048); }, {GoalOf::copy, 0.90});
    run("seal bf16 -> int4", [&] { return seal_case(device_, codec::Int4Token{}, 2048); }, {GoalOf::copy, 0.80});
    run("score 8192 pages x 8 query heads", [&] { return score_case(device_, 8192); });
    run("select 1024 of 8192 pages", [&] { return select_case(device_, 8192, 1); }, {GoalOf::microseconds, 12});
    run("select 1024 of 8192 pages x 2048 queries", [&] { return select_case(device_, 8192, 2048); }, {GoalOf::read, 1 / 1.5});
    run("evict 1024 of 8192 units", [&] { return lowest_case(device_, 8192, 1); }, {GoalOf::microseconds, 15});
    run("evict 1024 of 8192 units x 256 lists", [&] { return lowest_case(device_, 8192, 256); });
    run("generate q, k, v of 4096 tokens 32/4/128", [&] { return generate_case(device_, 4096); });
    run("gate 256 tokens, 8 of 256 experts", [&] { return gate_case(device_, 256, 256, 8); }, {GoalOf::microseconds, 5});
    run("gate 4096 tokens, 8 of 128 experts", [&] { return gate_case(device_, 4096, 128, 8); });
    run("gate 256 tokens, 22 of 896 experts", [&] { return gate_case(device_, 256, 896, 22); });
    run("mass b32 L8K x 32 heads", [&] { return mass_case(device_, 32, 8192, 32); });
  }

  void write() const {
    if (options_.json.empty()) return;
    nlohmann::json out{{"device", device_.description()}, {"rounds", options_.rounds}, {"baselines", baselines_}};
    for (const Row& r : rows_)
      out["cases"].push_back({{"name", r.name},
                              {"bytes", r.bytes},
                              {"median_s", r.median},
                              {"p5_s", r.p5},
                              {"p95_s", r.p95},
                              {"of_read", r.of_read},
                              {"of_copy", r.of_copy},
                              {"ideal_over_time", r.ideal_share},
                              {"goal", r.goal_text()},
                              {"meets_goal", r.meets()}});
    std::ofstream(options_.json) << out.dump(2) << '\n';
  }

 private:
  kernels::CudaDevice& device_;
  Options options_;
  Buffers buffers_;
  int multiprocessors_ = 0;
  std::vector<Row> rows_;
  nlohmann::json baselines_;
};

int run_bench(const Options& options) {
  kernels::CudaDevice device(kernels::choose_device());
  int clock_khz = 0, memory_khz = 0;
  kernels::check(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, 0));
  kernels::check(cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate, 0));
  fmt::print("{}\nlargest clocks: {} MHz, memory {} MHz (those at work: nvidia-smi -q -d CLOCK)\n", device.description(), clock_khz / 1000,
             memory_khz / 1000);
  Bench bench(device, options);
  bench.attention();
  bench.rest();
  bench.write();
  return 0;
}

}  // namespace
}  // namespace moekv::bench

int main(int argc, char** argv) {
  moekv::bench::Options options;
  CLI::App app{"gpu_bench: kernels of backend cuda against what the memory gives"};
  app.add_option("--rounds", options.rounds, "interleaved rounds of every case")->check(CLI::Range(3, 10000));
  app.add_option("--json", options.json, "file for all numbers");
  app.add_option("--only", options.only, "cases whose names hold this text");
  app.add_flag("--quick", options.quick, "large attention only, and the other kernels");
  CLI11_PARSE(app, argc, argv);
  try {
    return moekv::bench::run_bench(options);
  } catch (const moekv::DeviceMissing& e) {
    std::cerr << "error: " << e.what() << '\n';
    return static_cast<int>(moekv::ExitCode::no_device);
  } catch (const std::exception& e) {
    std::cerr << "error: " << e.what() << '\n';
    return static_cast<int>(moekv::ExitCode::internal);
  }
}
