// host_bench: attention, appending and sealing of the host backend, each beside the memory bandwidth of the same moment and the same access pattern.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "fma_peak.hpp"
#include "page_set.hpp"
#include "reads.hpp"
#include "rules/codec/catalogue.hpp"
#include "slices.hpp"

namespace moekv::bench {
namespace {

struct Options {
  double working_set_gib = 1.25;
  double slice_mib = 8.0;
  int rounds = 100;
  std::vector<int> threads = {1, 2};
  std::vector<std::uint32_t> page_slots = {16, 64};
  std::vector<std::string> codecs = {"bf16", "fp8_e4m3.token", "int8_token", "int4_token"};
  Shape shape;
  bool cpu_clock = false;
  bool attend = true;
  bool write = true;
};

PlaneFormat plane_named(const std::string& name) {
  PlaneFormat plane;
  const auto found = [&]<std::size_t... I>(std::index_sequence<I...>) {
    return ((std::variant_alternative_t<I, Codec>::name == name && (plane = std::variant_alternative_t<I, Codec>{}.plane(Role::k, 128), true)) ||
            ...);
  }
  (std::make_index_sequence<std::variant_size_v<Codec>>{});
  if (!found) throw CLI::ValidationError("--codec", "unknown codec " + name);
  return plane;
}

void print_line(const std::string& what, const Work& work, const Work& base) {
  const Spread r = ratio(work, base);
  const Spread w = spread(work.gb_per_s);
  const Spread b = spread(base.gb_per_s);
  std::printf("%-46s %-7s %6.2f (%5.2f) GB/s  %-7s %6.2f (%5.2f) GB/s  ratio %.2f [%.2f, %.2f] quiet %.2f\n", what.c_str(), work.name.c_str(),
              w.median, w.p95, base.name.c_str(), b.median, b.p95, r.median, r.p5, r.p95, w.p95 / b.p95);
  std::fflush(stdout);
}

/// Attention against the slower of its two limits: reading its bytes, and doing its multiply-adds.
void print_roofline(const Work& work, const Work& pread, const Work& fma, double fmas_per_byte) {
  std::vector<double> fractions, bound;
  for (std::size_t i = 0; i < work.gb_per_s.size(); ++i) {
    const double memory = work.gb_per_s[i] / pread.gb_per_s[i], arithmetic = work.gb_per_s[i] * fmas_per_byte / fma.gb_per_s[i];
    fractions.push_back(std::max(memory, arithmetic));
    bound.push_back(arithmetic > memory ? 1.0 : 0.0);
  }
  const Spread s = spread(fractions), f = spread(fma.gb_per_s);
  std::printf("%-46s roofline %.2f [%.2f, %.2f], bound by %s; fma %.0f G/s, %.1f per byte\n", "", s.median, s.p5, s.p95,
              spread(bound).median > 0.5 ? "arithmetic" : "memory", f.median, fmas_per_byte);
  std::fflush(stdout);
}

/// Attention over pages against reading the same bytes at the same places (pread) and as streams (sread).
void bench_attend(const Options& options, const std::string& codec, std::uint32_t page_slots, int n_threads, const Arena& arena) {
  PageSet set(options.shape, plane_named(codec), page_slots, arena.size(), n_threads);
  const std::vector<std::size_t> offsets = set.tile_offsets();
  const auto n_tasks = std::max<std::size_t>(1, static_cast<std::size_t>(options.slice_mib * 1048576.0) / set.task_bytes());
  const std::size_t n_tiles = n_tasks * set.task_bytes() / set.tile_bytes();
  const std::size_t slice_bytes = n_tiles * set.tile_bytes();
  volatile std::uint64_t sink = 0;
  std::vector<Work> works;
  works.push_back({"attend", [&](std::size_t) { return set.attend(n_tasks); }});
  works.push_back({"pread", [&](std::size_t i) {
                     const std::size_t first = i * n_tiles % (offsets.size() - n_tiles + 1) / n_tiles * n_tiles;
                     sink = read_pieces(arena.data(), offsets, first, n_tiles, set.tile_bytes(), n_threads);
                     return slice_bytes;
                   }});
  works.push_back({"sread", [&](std::size_t i) {
                     sink = read_streams(arena.data() + i * slice_bytes % (arena.size() - slice_bytes) / 4096 * 4096, slice_bytes, n_threads);
                     return slice_bytes;
                   }});
  works.push_back({"fma", [&](std::size_t) { return do_fmas(100000, n_threads); }});
  run_interleaved(works, options.rounds, options.cpu_clock && n_threads == 1 ? Clock::cpu : Clock::wall);
  char what[128];
  std::snprintf(what, sizeof what, "%s P=%u tile=%zuB threads=%d", codec.c_str(), page_slots, set.tile_bytes(), n_threads);
  print_line(what, works[0], works[1]);
  print_line("", works[0], works[2]);
  const Shape& shape = options.shape;
  const double fmas = static_cast<double>(page_slots) * (shape.d_k + shape.d_v) * shape.group;
  print_roofline(works[0], works[1], works[3], fmas / static_cast<double>(set.tile_bytes()));
}

/// Appending bf16 rows to open pages, and sealing them, against copying the same raw bytes.
void bench_write(const Options& options, const std::string& codec, int n_threads, const Arena& arena) {
  constexpr std::uint32_t page_slots = 64;
  const Shape& s = options.shape;
  const PlaneFormat bf16{ElementFormat::bf16};
  const auto backend = make_host_backend(n_threads);
  BlockFormat format{bf16, bf16, page_slots, s.n_kv_heads, s.d_k, s.d_v, s.latent};
  const auto n_blocks = static_cast<std::uint32_t>(arena.size() / 4 / format.block_bytes());
  const PoolId raw = backend->create_pool(format, n_blocks);
  format.k = format.v = plane_named(codec);
  const PoolId sealed = backend->create_pool(format, n_blocks);
  const std::size_t k_bytes = std::size_t{2} * s.n_kv_heads * s.d_k;
  const std::size_t row_bytes = k_bytes + (s.latent ? 0 : std::size_t{2} * s.n_kv_heads * s.d_v);
  const auto slice_blocks = static_cast<std::uint32_t>(options.slice_mib * 1048576.0 / static_cast<double>(row_bytes * page_slots));
  const auto rows = gaussian_bf16(std::size_t{slice_blocks} * page_slots * row_bytes / 2, 5);
  const auto first_block = [&](std::size_t i) { return static_cast<std::uint32_t>(i * slice_blocks % (n_blocks - slice_blocks)); };
  std::vector<AppendOp> appends;
  std::vector<SealOp> seals;
  const auto plan = [&](std::uint32_t first) {
    appends.clear();
    seals.clear();
    for (std::uint32_t slot = 0; slot < page_slots; ++slot) {  // token by token, as many requests decode at once
      for (std::uint32_t b = 0; b < slice_blocks; ++b) {
        const std::byte* row = rows.data() + (std::size_t{slot} * slice_blocks + b) * row_bytes;
        appends.push_back({{raw, first + b}, slot, row, s.latent ? nullptr : row + k_bytes});
      }
    }
    for (std::uint32_t b = 0; b < slice_blocks; ++b) seals.push_back({{raw, first + b}, {sealed, first + b}, page_slots});
  };
  for (std::uint32_t first = 0; first + slice_blocks <= n_blocks; first += slice_blocks) {
    plan(first);
    backend->append(appends);
    backend->seal(seals);
  }
  const std::size_t bytes = appends.size() * row_bytes;
  std::vector<Work> works;
  works.push_back({"append", [&](std::size_t) {
                     backend->append(appends);
                     return bytes;
                   }});
  works.push_back({"seal", [&](std::size_t) {
                     backend->seal(seals);
                     return bytes;
                   }});
  works.push_back({"memcpy", [&](std::size_t i) {
                     copy(arena.data() + arena.size() / 2 + i * bytes % (arena.size() / 2 - bytes) / 4096 * 4096, rows.data(), bytes, n_threads);
                     return bytes;
                   }});
  (void)first_block;
  run_interleaved(works, options.rounds, options.cpu_clock && n_threads == 1 ? Clock::cpu : Clock::wall);
  print_line("append bf16 threads=" + std::to_string(n_threads), works[0], works[2]);
  print_line("seal to " + codec + " threads=" + std::to_string(n_threads), works[1], works[2]);
}

int run(int argc, char** argv) {
  Options o;
  CLI::App app("Host backend against memory bandwidth; see experiments/bench/README.md for what the ratios mean.");
  app.add_option("--working-set-gib", o.working_set_gib, "bytes of pages, at least four times the last-level cache")
      ->check(CLI::Range(0.00001, 1024.0));
  app.add_option("--slice-mib", o.slice_mib, "payload of one slice")->check(CLI::Range(0.001, 1024.0));
  app.add_option("--rounds", o.rounds, "interleaved rounds")->check(CLI::Range(5, 100000));
  app.add_option("--threads", o.threads, "numbers of threads");
  app.add_option("--page", o.page_slots, "slots per page");
  app.add_option("--codec", o.codecs, "formats of the pages");
  app.add_option("--kv-heads", o.shape.n_kv_heads, "KV heads");
  app.add_option("--group", o.shape.group, "query heads per KV head");
  app.add_option("--dk", o.shape.d_k, "channels of K");
  app.add_option("--dv", o.shape.d_v, "channels of V");
  app.add_option("--context", o.shape.context_tokens, "tokens per query");
  app.add_flag("--latent", o.shape.latent, "MLA: V is a prefix of K");
  app.add_flag("--cpu-clock", o.cpu_clock, "time one-thread slices by the thread's CPU time, where other programs use the cores");
  app.add_flag("!--no-attend", o.attend, "leave out attention");
  app.add_flag("!--no-write", o.write, "leave out appending and sealing");
  CLI11_PARSE(app, argc, argv);
  const Arena arena(static_cast<std::size_t>(o.working_set_gib * 1073741824.0));
  std::printf("median of %d interleaved rounds; ratio [p5, p95] of rounds\n", o.rounds);
  for (const int n_threads : o.threads) {
    for (const std::string& codec : o.codecs) {
      for (const std::uint32_t page_slots : o.page_slots) {
        if (o.attend) bench_attend(o, codec, page_slots, n_threads, arena);
      }
      if (o.write && plane_named(codec).scale != ScaleScheme::none) bench_write(o, codec, n_threads, arena);
    }
  }
  return 0;
}

}  // namespace
}  // namespace moekv::bench

int main(int argc, char** argv) { return moekv::bench::run(argc, argv); }
