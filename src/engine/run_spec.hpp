// RunSpec: the complete, validated, immutable input of one run. config/ writes it, the engine reads it, results/ stores it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/model.hpp"
#include "core/model_shape.hpp"
#include "engine/allocate.hpp"
#include "rules/attend.hpp"
#include "rules/codec/catalogue.hpp"
#include "rules/eplb.hpp"
#include "rules/evict/catalogue.hpp"
#include "rules/place.hpp"
#include "rules/route/catalogue.hpp"
#include "rules/select/catalogue.hpp"
#include "trace/qkv.hpp"
#include "trace/synthetic.hpp"

namespace moekv {

/// Version of the semantics of MODEL.md that results are made with.
inline constexpr int semantics_version = 1;

struct TraceSpec {
  std::string path;                          // native file; empty = synthetic, or tokens
  std::string tokens;                        // token file that the model of model.path is scored on
  std::uint32_t prompt_tokens = 0;           // of each sequence of `tokens`; 0 = half
  SyntheticSpec synthetic;
  std::uint32_t first_request = 0;
  std::uint32_t max_requests = 0;            // 0 = all
  std::uint32_t max_prompt_tokens = 0;       // 0 = as recorded; longer prompts are cut, counted and said
  std::uint32_t max_output_tokens = 0;
  std::vector<std::uint16_t> layers;         // model layers to replay; empty = all that hold KV
};

struct ClusterSpec {
  std::uint32_t ranks = 0;                   // G; 0 = number of MPI processes
  std::uint32_t shards_per_rank = 1;
  ClusterModel network;
};

/// Where the first plan of map eplb takes expert loads from: the replayed requests, those before trace.first_request, a file, or nowhere (all
/// experts alike, until the first replan counts what the run itself chose).
enum class LoadSource : std::uint8_t { trace, history, file, window };
/// Which experts have their entries on the home rank: none, or those that FasterMoE's cost rule would copy to every worker.
enum class ShadowRule : std::uint8_t { none, fastermoe };
inline constexpr std::uint32_t max_window_steps = 4096;

struct PlacementSpec {
  Layout layout = Layout::local;
  ShardMap map = ShardMap::none;             // the reader fills the layout's default
  Dedup dedup = Dedup::none;
  bool fold = false;
  std::uint32_t n_tok = 0, n_exp = 0;        // pikv_xor moduli; 0 = number of shards
  HomeRule home = HomeRule::modulo;
  DenseLayers dense_layers = DenseLayers::home;
  std::uint32_t replicas = 0;                // eplb: physical experts of a layer; 0 = the experts, rounded up to a multiple of the shards
  LoadSource load = LoadSource::trace;       // eplb: whose choices are counted
  std::string load_path;                     // HDF5 dataset `load` [MoE layers, experts] for load file
  std::uint32_t replan_every_steps = 0;      // eplb: steps between plans; 0 = one plan for the whole run
  std::uint32_t window_steps = 0;            // eplb: a replan counts the choices of this many steps before it; 0 = replan_every_steps
  ShadowRule shadow = ShadowRule::none;      // eplb
  double shadow_tflops = 11.5;               // fastermoe: 1e12/s of a worker
  double shadow_alpha = 2.0;                 // fastermoe: hidden width of an expert over that of the model
};

enum class RoutingKey : std::uint8_t { previous_layer, previous_token, query_router, same_layer };

struct RoutingSpec {
  RouteRule rule = route::Recorded{};
  RoutingKey key = RoutingKey::previous_layer;
  std::string query_router_path;             // HDF5 matrix [n_experts, d_k] applied to the mean query head; empty = seeded
};

enum class ReadScope : std::uint8_t { all, routed };
enum class CopyRule : std::uint8_t { surviving, hash, paper };

struct ReadSpec {
  ReadScope scope = ReadScope::all;
  SelectRule select;
  CopyRule copies = CopyRule::surviving;
};

enum class PageKey : std::uint8_t { automatic, expert, shard };

struct PageSpec {
  std::uint32_t slots = 0;                   // P, 8..256; 0 = 16 for key expert, 64 for key shard
  PageKey key = PageKey::automatic;          // automatic: expert for layout expert, shard otherwise
  std::uint32_t head_groups = 1;             // KV heads are divided over this many groups
};

enum class BudgetKind : std::uint8_t { unlimited, fraction, tokens, pages, bytes };
enum class EvictScope : std::uint8_t { request, shard };
enum class EvictUnit : std::uint8_t { automatic, token, page };   // automatic: the rule's own (token where it needs mass, else page)
enum class AccessSource : std::uint8_t { dense, routed, mass, selected };
enum class Trigger : std::uint8_t { on_full, watermark, every, prefill_end };
enum class EvictAction : std::uint8_t { drop, demote };  // demote: to the shard's host tier, back on access
enum class PageReducer : std::uint8_t { mean, sum, max, min };
enum class Ties : std::uint8_t { newest, oldest };  // which of equal scores stays

/// A budget is an integer. `fraction` is numerator/denominator of prompt + output tokens of each request, rounded once.
struct BudgetSpec {
  BudgetKind kind = BudgetKind::unlimited;
  std::uint64_t amount = 0;                  // tokens, pages or bytes
  std::uint64_t numerator = 1, denominator = 1;
};

struct ProtectSpec {
  std::uint32_t sinks = 4;                   // tokens, inside the budget
  std::uint32_t recent = 32;
};

struct EvictionSpec {
  EvictRule rule = evict::Full{};
  EvictScope scope = EvictScope::request;
  EvictUnit unit = EvictUnit::automatic;
  BudgetSpec budget;
  Allocator allocator = allocate::Uniform{};  // how layers and head groups of a (request, shard) divide their budget
  std::string allocator_path;                // gates or shares of the allocators duo and file
  ProtectSpec protect;
  AccessSource access = AccessSource::routed;
  double access_mass = 1e-4;                 // eps of access mass
  Trigger trigger = Trigger::on_full;
  double high_watermark = 1.0, low_watermark = 0.9;  // of the budget; trigger watermark
  std::uint32_t every_steps = 32;            // trigger every
  EvictAction action = EvictAction::drop;
  Reducer head_reducer = Reducer::mean;      // query heads -> head group
  PageReducer page_reducer = PageReducer::mean;  // tokens -> page
  Ties ties = Ties::newest;
  std::string weights_path;                  // HDF5 file of a rule that loads weights; empty: drawn from the seed
  std::uint64_t seed = 1;
};

struct CompressionSpec {
  Codec k = codec::Bf16{};
  Codec v = codec::Bf16{};
  std::uint32_t sink_tokens = 4;             // positions below stay in a raw side page (compressed codecs only)
  std::string maps_path;                     // HDF5 file of loaded codecs
  std::uint32_t raw_window_tokens = 0;       // sealing waits until the page is this far behind the newest token
};

enum class PrefillQueries : std::uint8_t { automatic, none, last, all };
enum class PrefillEvict : std::uint8_t { end, chunk };

struct PrefillSpec {
  PrefillQueries queries = PrefillQueries::automatic;
  std::uint32_t last = 32;                   // queries: last
  PrefillEvict evict = PrefillEvict::end;
  std::uint32_t chunk_tokens = 512;
};

enum class LoadKind : std::uint8_t { concurrency, arrivals };

struct BatchSpec {
  std::uint32_t max_num_seqs = 64;
  std::uint32_t max_num_batched_tokens = 2048;
  LoadKind load = LoadKind::concurrency;
  std::uint32_t concurrency = 8;             // requests in flight under load concurrency
  std::uint64_t max_steps = 0;               // 0 = until every request is finished
};

struct MemorySpec {
  std::uint64_t shard_bytes = 0;             // capacity for page blocks of one shard; 0 = unlimited
};

enum class QkvKind : std::uint8_t { automatic, recorded, generated };  // automatic: recorded where the trace has it

struct PayloadSpec {
  ElementFormat element = ElementFormat::bf16;  // type of q, k, v on the wire and of raw pages
  QkvKind qkv = QkvKind::automatic;
  GeneratorSpec generator;
};

enum class CombineType : std::uint8_t { fp32, bf16 };
enum class StepOrder : std::uint8_t { standard, pikv };  // pikv: evictions between admit and attend, as Algorithm 1

struct ProbeSpec {
  std::uint32_t samples = 64;                // queries whose exact attention is computed; 0 = none
  std::uint32_t top_k = 16;                  // of topk_recall
  std::uint64_t seed = 1;
};

/// What a changed loss is compared with: the same model with every entry at hand, run along, or nothing.
enum class ScoreReference : std::uint8_t { dense, none };

struct ScoreSpec {
  ScoreReference reference = ScoreReference::dense;
  std::uint32_t from_position = 0;           // numbers named _tail are of positions from here on; 0 = from the end of each prompt
  std::uint32_t resamples = 2000;            // of the bootstrap over sequences
  std::uint64_t seed = 1;
};

struct MetricsSpec {
  std::uint32_t window_steps = 64;
  bool per_step = false;                     // rows per step instead of per window
  std::uint32_t warmup_steps = 0;            // excluded from warm totals, counted
  std::uint32_t traffic_max_ranks = 64;      // the (src, dst) matrix is stored up to this many ranks
  double slo_ttft_ms = 0, slo_tpot_ms = 0;   // bounds of slo_attainment and goodput_req; 0 = none
};

struct RunSpec {
  std::string name = "run";
  ModelShape model;
  TraceSpec trace;
  ClusterSpec cluster;
  PlacementSpec placement;
  RoutingSpec routing;
  ReadSpec read;
  PageSpec page;
  EvictionSpec eviction;
  CompressionSpec compression;
  PrefillSpec prefill;
  BatchSpec batch;
  MemorySpec memory;
  PayloadSpec payload;
  CombineType combine = CombineType::fp32;
  StepOrder step_order = StepOrder::standard;
  ProbeSpec probe;
  ScoreSpec score;
  MetricsSpec metrics;
  std::string backend = "host";              // host, count, cuda
  std::string transport = "auto";            // auto = local for one process, else mpi; nccl; ipc
  int threads = 0;                           // OpenMP threads of the host backend; 0 = default
  bool graphs = true;                        // backend cuda launches what comes back as graphs
  std::uint64_t seed = 1;

  // Provenance of the specification itself, filled by config/.
  std::vector<std::string> notes;            // what a reader of the result must know of the names that were given
  std::string config_path;
  std::string config_yaml;                   // as given
  std::string resolved_yaml;                 // after defaults and overrides, canonical
  std::string config_digest;  // XXH3-128 hex of what decides in resolved_yaml (no backend, transport, threads, graphs); files by name and content
};

/// Logical ranks of a run by so many processes.
[[nodiscard]] inline std::uint32_t ranks_of(const RunSpec& spec, int n_processes) {
  return spec.cluster.ranks > 0 ? spec.cluster.ranks : static_cast<std::uint32_t>(n_processes);
}

}  // namespace moekv
