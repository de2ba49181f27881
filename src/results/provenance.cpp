// Facts about the machine, the libraries and the surroundings of a run.
#include "results/provenance.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/host.hpp"
#include "comm/mpi_session.hpp"
#include "core/json_text.hpp"
#include "results/build_info.hpp"

namespace moekv {
namespace {

std::string cpu_model() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.starts_with("model name") && line.find(": ") != std::string::npos) return line.substr(line.find(": ") + 2);
  }
  return "unknown";
}

/// "0-3,8" for the processors in `set`.
std::string describe_cpus(const cpu_set_t& set) {
  std::string text;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    int last = cpu;
    while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &set)) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", cpu);
    if (last > cpu) text += fmt::format("-{}", last);
    cpu = last;
  }
  return text;
}

std::vector<std::byte> to_bytes(const HostFacts& h) {
  nlohmann::json json;
  for_each_field(HostFacts::fields, [&](const auto& field) { json[std::string(field.name)] = h.*field.member; });
  const std::string text = json_text(json);
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

HostFacts from_bytes(const std::vector<std::byte>& bytes) {
  const auto json = nlohmann::json::parse(reinterpret_cast<const char*>(bytes.data()), reinterpret_cast<const char*>(bytes.data() + bytes.size()));
  HostFacts h;
  for_each_field(HostFacts::fields, [&](const auto& field) { json.at(std::string(field.name)).get_to(h.*field.member); });
  return h;
}

}  // namespace

std::string utc_now() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

HostFacts this_host() {
  HostFacts h;
  h.host = host_name();
  h.cpu_model = cpu_model();
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    h.cpus = describe_cpus(set);
    h.n_cpus = CPU_COUNT(&set);
  }
  h.openmp_threads = omp_get_max_threads();
  h.memory_bytes = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  return h;
}

std::vector<std::string> run_environment(const char* const* environment) {
  constexpr std::string_view prefixes[] = {"OMPI_", "PMIX_RANK", "PMI_RANK", "SLURM_", "CUDA_", "NCCL_", "OMP_", "HDF5_", "MOEKV_", "GOMP_"};
  constexpr std::string_view secret_words[] = {"KEY", "TOKEN", "SECRET", "PASS", "AUTH", "CRED", "JWT", "COOKIE", "precondition_transports"};
  std::vector<std::string> kept;
  for (; *environment != nullptr; ++environment) {
    const std::string_view entry = *environment;
    const std::string_view name = entry.substr(0, entry.find('='));
    const bool wanted = std::any_of(std::begin(prefixes), std::end(prefixes), [&](auto p) { return name.starts_with(p); });
    const bool secret = std::any_of(std::begin(secret_words), std::end(secret_words), [&](auto w) { return name.find(w) != name.npos; });
    if (wanted && !secret) kept.emplace_back(entry);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

Provenance collect_provenance(const std::vector<std::string>& argv, Transport& transport) {
  Provenance p;
  p.started_utc = utc_now();
  Facts& f = p.facts;
  f.set("argv", argv);
  f.set("transport", std::string(transport.name()));
  f.set("n_processes", std::int64_t{transport.n_processes()});
  f.set("mpi_library", MpiSession::library_version());
  f.set("mpi_takes_device_memory", std::int64_t{MpiSession::takes_device_memory() ? 1 : 0});
  f.set("hdf5_version", h5::library_version());
  f.set("environment", run_environment(environ));
  for (const auto& bytes : transport.gather(to_bytes(this_host()))) p.hosts.push_back(from_bytes(bytes));
  return p;
}

void add_trace_facts(const TraceInfo& trace, Provenance& provenance) {
  Facts& f = provenance.facts;
  f.set("trace_path", trace.path);
  f.set("trace_digest", trace.digest);
  f.set("trace_model", trace.model_name);
  f.set("trace_workload", trace.workload);
  f.set("trace_source", trace.source);
  f.set("trace_source_uri", trace.source_uri);
  f.set("trace_license", trace.license);
  f.set("trace_level", static_cast<std::int64_t>(trace.level));
  f.set("trace_pseudo_logits", static_cast<std::int64_t>(trace.pseudo_logits));
  f.set("trace_joined", static_cast<std::int64_t>(trace.joined));
  f.set("trace_n_experts", std::int64_t{trace.n_experts});
  f.set("trace_top_k", std::int64_t{trace.top_k});
}

}  // namespace moekv
