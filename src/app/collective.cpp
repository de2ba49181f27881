// Failures and specifications that all processes of a job share.
#include "app/collective.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>

#include "comm/mpi_session.hpp"
#include "config/reader.hpp"
#include "core/json_text.hpp"

namespace moekv {
namespace {

std::vector<std::byte> to_bytes(const std::string& text) {
  std::vector<std::byte> bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

std::string to_text(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

}  // namespace

Failure current_failure() {
  try {
    throw;
  } catch (const UserError& e) {
    return {ExitCode::usage, e.what()};
  } catch (const DeviceMissing& e) {
    return {ExitCode::no_device, fmt::format("error: {}", e.what())};
  } catch (const PointFailure& e) {
    return {ExitCode::points_failed, e.what()};
  } catch (const std::bad_alloc&) {
    return {ExitCode::points_failed, "out of host memory"};
  } catch (const SystemError& e) {
    return {ExitCode::internal, fmt::format("system error: {}", e.what())};
  } catch (const std::system_error& e) {
    return {ExitCode::internal, fmt::format("system error: {}", e.what())};
  } catch (const std::exception& e) {
    return {ExitCode::internal, fmt::format("internal error: {}", e.what())};
  }
}

std::string line_of(const Failure& failure) { return (failure.code == ExitCode::points_failed ? "failed: " : "") + failure.text; }

Failure worst_failure(Transport& transport, const Failure& mine) {
  auto code = static_cast<std::int64_t>(mine.code);
  transport.allreduce_max({&code, 1});
  Failure worst{static_cast<ExitCode>(code), {}};
  if (code == 0) return worst;
  const auto texts = transport.gather(to_bytes(mine.text));
  std::vector<std::string> told{std::string()};
  for (const auto& bytes : texts) {
    const std::string text = to_text(bytes);
    if (std::find(told.begin(), told.end(), text) != told.end()) continue;
    worst.text += (worst.text.empty() ? "" : "\n") + text;
    told.push_back(text);
  }
  return worst;
}

void agree_on(Transport& transport, const Failure& mine) {
  const Failure worst = worst_failure(transport, mine);
  if (worst.code == ExitCode::ok) return;
  if (!worst.text.empty()) fmt::print(stderr, "{}\n", line_of(worst));
  std::fflush(stderr);
  transport.barrier();  // nobody leaves before the words are out
  throw AgreedFailure{worst.code};
}

std::unique_ptr<Transport> make_job_transport() { return MpiSession::launched_by_launcher() ? make_mpi_transport() : make_local_transport(); }

RunSpec read_run_spec_everywhere(const std::string& path, const std::vector<std::string>& overrides, Transport& transport) {
  const int n = transport.n_processes();
  const bool first = transport.process() == 0;
  return share_run_spec(agree(transport, [&] { return first ? read_run_spec(path, overrides, n) : RunSpec{}; }), transport);
}

RunSpec share_run_spec(RunSpec spec, Transport& transport) {
  const int n = transport.n_processes();
  const bool first = transport.process() == 0;
  if (n == 1) return spec;
  std::vector<std::byte> bytes;
  if (first) {
    const nlohmann::json parts{spec.config_path, spec.config_yaml, spec.resolved_yaml, spec.config_digest};
    bytes = to_bytes(json_text(parts));  // text that is not UTF-8 is no reason to fail
  }
  transport.broadcast(bytes);
  return agree(transport, [&] {
    if (first) return std::move(spec);
    const auto parts = nlohmann::json::parse(to_text(bytes)).get<std::vector<std::string>>();
    RunSpec copy = parse_run_spec(parts.at(2), parts.at(0), n);
    copy.config_path = parts[0];
    copy.config_yaml = parts[1];
    copy.resolved_yaml = parts[2];
    copy.config_digest = parts[3];
    return copy;
  });
}

}  // namespace moekv
