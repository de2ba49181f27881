// moekv sweep --submit: memory is compared and the folder made ready here, jobs are written and submitted by scripts/slurm/submit.sh.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "app/child_process.hpp"
#include "app/sweep.hpp"
#include "app/sweep_plan.hpp"
#include "config/library.hpp"
#include "core/units.hpp"
#include "io/file_descriptor.hpp"

namespace moekv {
namespace {

/// A file of scripts/slurm, beside the folder of configurations.
std::string script_path(const std::string& name) {
  for (const std::string& configs : config_directories()) {
    const std::filesystem::path path = std::filesystem::path(configs).parent_path() / "scripts/slurm" / name;
    if (std::filesystem::exists(path)) return path.string();
  }
  throw UserError("scripts/slurm/" + name, "is not where this program looks", "set MOEKV_CONFIGS to the folder configs beside scripts");
}

std::string site_path(const SweepOptions& options) {
  if (options.site.empty()) return script_path("site.sh");
  if (!std::filesystem::is_regular_file(options.site)) throw UserError(options.site, "no such file", "copy scripts/slurm/site.sh and edit the copy");
  return options.site;
}

/// submit.sh with the site, this program and `arguments`.
std::vector<std::string> submit_command(const SweepOptions& options, std::vector<std::string> arguments) {
  std::vector<std::string> command{script_path("submit.sh"), site_path(options), std::filesystem::read_symlink("/proc/self/exe").string()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

/// Absolute: a folder may be called as submit.sh calls what it does.
std::string folder_path(const SweepFolder& folder) { return std::filesystem::absolute(folder.path()).string(); }

/// Exit code of a command; what it prints on stdout goes to `output` where that is not null.
int run_command(const std::vector<std::string>& command, std::string* output) {
  std::array<int, 2> ends{-1, -1};
  if (output != nullptr && ::pipe2(ends.data(), O_CLOEXEC) != 0) throw SystemError(fmt::format("pipe: {}", std::strerror(errno)));
  const FileDescriptor from(ends[0]);
  FileDescriptor to(ends[1]);
  const pid_t child = start_child(command, {to.get()});
  to.close();
  std::array<char, 512> text{};
  for (ssize_t n = 0; output != nullptr && (n = ::read(from.get(), text.data(), text.size())) > 0;)
    output->append(text.data(), static_cast<std::size_t>(n));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 70;
}

/// What the site file asks for.
JobShape read_shape(const SweepOptions& options) {
  std::string text;
  const int code = run_command(submit_command(options, {"shape"}), &text);
  std::istringstream in(text);
  JobShape shape;
  if (code != 0 || !(in >> shape.nodes >> shape.tasks_per_node >> shape.node_bytes >> shape.device_bytes) || shape.nodes == 0 ||
      shape.tasks_per_node == 0)
    throw UserError(site_path(options), "is no site file, for the reason above", "scripts/slurm/site.sh says what may stand there");
  return shape;
}

std::string bytes_text(double bytes) { return format_bytes(std::llround(bytes)); }

bool fits(const JobNeed& need, const JobShape& shape) {
  return (shape.node_bytes == 0 || need.node_bytes <= shape.node_bytes) && (shape.device_bytes == 0 || need.device_bytes <= shape.device_bytes);
}

/// The smallest number of nodes on which the point fits; 0 where none does.
std::uint32_t enough_nodes(const PointPlan& plan, const JobShape& shape) {
  for (std::uint32_t nodes = shape.nodes + 1; nodes * shape.tasks_per_node <= plan.host_bytes.size(); ++nodes) {
    if (fits(job_need(plan, nodes, shape.tasks_per_node), shape)) return nodes;
  }
  return 0;
}

[[noreturn]] void refuse(const SweepOptions& options, const std::string& point, const PointPlan& plan, const JobShape& shape, std::size_t n_refused) {
  const JobNeed need = job_need(plan, shape.nodes, shape.tasks_per_node);
  const bool node = shape.node_bytes > 0 && need.node_bytes > shape.node_bytes;
  const std::uint32_t nodes = enough_nodes(plan, shape);
  throw UserError(
      site_path(options),
      fmt::format("point {} needs {} {}, {} is {}{}", point, bytes_text(node ? need.node_bytes : need.device_bytes), node ? "on a node" : "on a GPU",
                  node ? "memory_per_node" : "gpu_memory", bytes_text(node ? shape.node_bytes : shape.device_bytes),
                  n_refused > 1 ? fmt::format("; {} more points need too much", n_refused - 1) : ""),
      fmt::format("{}{}, or leave such points out with --only; moekv sweep --dry-run lists all",
                  node ? fmt::format("set memory_per_node={}M", std::llround(std::ceil(need.node_bytes / (1U << 20)))) : "take larger GPUs",
                  nodes > 0 ? fmt::format(" or nodes={}", nodes) : ""));
}

}  // namespace

int processes_of_jobs(const SweepOptions& options) {
  if (options.isolate == "process" && !options.launch.empty()) return std::max(1, static_cast<int>(options.processes));
  const JobShape shape = read_shape(options);
  return static_cast<int>(shape.nodes * shape.tasks_per_node);
}

void check_job_memory(const SweepOptions& options, const SweepWork& work) {
  const JobShape shape = read_shape(options);
  PointCache cache;
  JobNeed most, bound;  // of what must fit; of what may grow to that before its evictions
  std::size_t n_refused = 0, worst = 0, n_no_run = 0;
  PointPlan worst_plan;
  std::string no_run;
  for (const std::size_t i : work.chosen) {
    PointPlan plan = plan_point(work.sweep.points[i], cache, static_cast<int>(shape.nodes * shape.tasks_per_node));
    if (!plan.refusal.empty()) {  // recorded as failed when its turn comes
      if (++n_no_run == 1) no_run = fmt::format("point {} {}: {}", i, work.list.points[i].id, plan.refusal);
      continue;
    }
    const JobNeed need = job_need(plan, shape.nodes, shape.tasks_per_node);
    JobNeed& largest = plan.evicts ? bound : most;
    const bool more = need.node_bytes > largest.node_bytes;
    largest = {std::max(largest.node_bytes, need.node_bytes), std::max(largest.device_bytes, need.device_bytes)};
    if (plan.evicts || fits(need, shape) || (++n_refused > 1 && !more)) continue;
    worst = i;
    worst_plan = std::move(plan);
  }
  if (n_refused > 0) refuse(options, fmt::format("{} {}", worst, work.list.points[worst].id), worst_plan, shape, n_refused);
  if (n_no_run > 0)
    fmt::print("{} of {} points cannot run in jobs of {} processes and will count as failed; the first is {}\n", n_no_run, work.chosen.size(),
               shape.nodes * shape.tasks_per_node, no_run);
  const double needed = std::max(most.node_bytes, bound.node_bytes);
  if (shape.node_bytes == 0)
    fmt::print("memory is not compared: {} names no memory_per_node; points need up to {} on a node\n", site_path(options), bytes_text(needed));
  else if (bound.node_bytes > shape.node_bytes)
    fmt::print("memory may not suffice: before their evictions points need at most {} on a node, memory_per_node is {}\n",
               bytes_text(bound.node_bytes), bytes_text(shape.node_bytes));
}

void check_submission(const SweepOptions& options, const SweepFolder& folder) {
  const int code = run_command(submit_command(options, {"ready", folder_path(folder)}), nullptr);
  if (code == 3) throw DeviceMissing("no jobs are submitted; without --submit the points run here");
  if (code != 0) throw UserError(folder.path(), "gets no jobs, for the reason above");
}

void submit_sweep(const SweepOptions& options, const SweepWork& work, const SweepFolder& folder) {
  const std::size_t n_jobs = std::min<std::size_t>(options.submit, work.chosen.size());
  std::vector<std::string> command = submit_command(
      options, {folder_path(folder), options.config, fmt::format("{}", n_jobs), fmt::format("{}", options.at_once == 0 ? n_jobs : options.at_once)});
  const auto pass_on = [&](const char* option, const std::string& value) {
    if (!value.empty()) command.insert(command.end(), {option, value});
  };
  command.insert(command.end(), options.overrides.begin(), options.overrides.end());
  pass_on("--only", options.only);
  pass_on("--attempts", std::to_string(options.attempts));
  pass_on("--budget", options.budget);
  pass_on("--point-limit", options.point_limit);
  pass_on("--files", options.files);
  if (options.retry_failed) command.emplace_back("--retry-failed");
  if (options.fail_fast) command.emplace_back("--fail-fast");
  if (options.isolate != "none") {  // a process of its own starts the job's processes for each point
    pass_on("--isolate", options.isolate);
    pass_on("--launch", options.launch);
    pass_on("--processes", std::to_string(processes_of_jobs(options)));
  }
  const int code = run_command(command, nullptr);
  if (code != 0)
    throw UserError(site_path(options), fmt::format("submission failed: {} ended with exit code {}", command.front(), code),
                    "what Slurm said stands above; then the same command with --resume");
  fmt::print("moekv sweep {} --status says how far they are\n", folder.path());
}

}  // namespace moekv
