// Provenance: where, when, with what and from what a run was made (METRICS 7.8).
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "comm/transport.hpp"
#include "core/field.hpp"
#include "results/facts.hpp"
#include "trace/source.hpp"

namespace moekv {

/// One process of the job.
struct HostFacts {
  std::string host;
  std::string cpu_model;
  std::string cpus;  // "0-3,8"
  std::int64_t n_cpus = 0;
  std::int64_t openmp_threads = 0;
  std::int64_t memory_bytes = 0;

  static constexpr auto fields = std::tuple{
      Param{"host", &HostFacts::host, "1", "host name of the process"},
      Param{"cpu_model", &HostFacts::cpu_model, "1", "processor"},
      Param{"cpus", &HostFacts::cpus, "1", "logical processors that the process may use"},
      Param{"n_cpus", &HostFacts::n_cpus, "1", "how many they are"},
      Param{"openmp_threads", &HostFacts::openmp_threads, "1", "OpenMP threads by default"},
      Param{"memory_bytes", &HostFacts::memory_bytes, "byte", "memory of the host"},
  };
};

/// One resolved configuration key.
struct Parameter {
  std::string name;  // dotted: "eviction.protect.sinks"
  std::string text;  // its value as YAML flow text
  std::string unit;
  std::string definition;
  bool swept = false;  // an axis of the sweep that the run belongs to
};

struct Provenance {
  Facts facts;                        // libraries, trace, command line, environment
  std::vector<HostFacts> hosts;       // per process; complete on process 0
  std::vector<Parameter> parameters;  // every key after defaults; filled by the caller, who knows the configuration
  std::string started_utc;
};

/// Collective. To be called before the run: takes the start time.
[[nodiscard]] Provenance collect_provenance(const std::vector<std::string>& argv, Transport& transport);

/// Adds what a trace says of itself, as trace_* facts.
void add_trace_facts(const TraceInfo& trace, Provenance& provenance);

/// Now, as "2026-01-31T12:00:00Z".
[[nodiscard]] std::string utc_now();

/// Variables of `environment` ("NAME=value") that shape a run: OMPI_, SLURM_, CUDA_, NCCL_, OMP_, ... Those that may hold a secret are left out.
[[nodiscard]] std::vector<std::string> run_environment(const char* const* environment);

/// Facts of this host and process.
[[nodiscard]] HostFacts this_host();

}  // namespace moekv
