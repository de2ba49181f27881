// moekv doctor: what this machine and build offer, each line with a verdict and what to do about it. Leaves nothing behind.
#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "app/command.hpp"
#include "comm/mpi_session.hpp"
#include "core/units.hpp"
#include "io/hdf5.hpp"
#include "results/build_info.hpp"
#include "results/provenance.hpp"

namespace moekv {
namespace {

enum class Health : std::uint8_t { ok, warn, missing };

struct Finding {
  std::string_view topic;
  Health verdict = Health::ok;
  std::string found;
  std::string advice;  // what to do; empty for ok
};

bool is_set(const char* variable) { return std::getenv(variable) != nullptr; }

/// Full path of a program on PATH; empty where there is none.
std::string find_program(std::string_view name) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "" : path;
  while (!rest.empty()) {
    const std::string_view folder = rest.substr(0, rest.find(':'));
    rest.remove_prefix(std::min(rest.size(), folder.size() + 1));
    std::string candidate = fmt::format("{}/{}", folder, name);
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return {};
}

/// First line that a shell command prints; empty where it fails.
std::string first_line_of(const std::string& command) {
  std::FILE* pipe = popen((command + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return {};
  std::array<char, 256> line{};
  const bool read = std::fgets(line.data(), line.size(), pipe) != nullptr;
  while (std::fgetc(pipe) != EOF) {
  }
  if (pclose(pipe) != 0 || !read) return {};
  const std::string text = line.data();
  return text.substr(0, text.find('\n'));
}

/// A shared library that is opened at run time. Stays open: a driver does not like to be unloaded.
class Library {
 public:
  explicit Library(const char* name) : handle_(dlopen(name, RTLD_LAZY | RTLD_LOCAL)) {}
  [[nodiscard]] bool found() const { return handle_ != nullptr; }
  /// The function `name`, null where the library lacks it.
  template <class Function>
  [[nodiscard]] Function* function(const char* name) const {
    return handle_ == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(handle_, name));
  }

 private:
  void* handle_;
};

Finding check_program() { return {"moekv", Health::ok, build_text(), ""}; }

Finding check_mpi() {
  const char* device = MpiSession::takes_device_memory() ? "takes device memory, which moekv hands it none of" : "takes no device memory";
  return {"MPI", Health::ok, fmt::format("{}; {}", MpiSession::library_version(), device), ""};
}

Finding check_launcher() {
  const std::string mpirun = find_program("mpirun");
  if (mpirun.empty()) return {"launcher", Health::missing, "no mpirun on PATH", "install openmpi-bin; one process runs without it"};
  const bool root_refused = geteuid() == 0 && !(is_set("OMPI_ALLOW_RUN_AS_ROOT") && is_set("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"));
  if (root_refused) {
    return {"launcher", Health::warn, mpirun + ", which refuses to run as root",
            "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 (scripts/mpi_env.sh)"};
  }
  return {"launcher", Health::ok, mpirun, ""};
}

Finding check_yielding() {
  const HostFacts host = this_host();
  if (host.n_cpus >= 4 || is_set("OMPI_MCA_mpi_yield_when_idle"))
    return {"processors", Health::ok, fmt::format("{} ({})", host.n_cpus, host.cpu_model), ""};
  return {"processors", Health::warn, fmt::format("{} ({})", host.n_cpus, host.cpu_model),
          "with more processes than processors: export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1 (scripts/mpi_env.sh)"};
}

Finding check_openmp() {
  const HostFacts host = this_host();
  const bool too_many = host.openmp_threads > host.n_cpus;
  return {"OpenMP", too_many ? Health::warn : Health::ok,
          fmt::format("{} threads on {} processors ({})", host.openmp_threads, host.n_cpus, host.cpus),
          too_many ? "set OMP_NUM_THREADS to at most the number of processors" : ""};
}

/// The processor's features as Linux names them, each between blanks.
std::string cpu_flags() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if ((line.starts_with("flags") || line.starts_with("Features")) && line.find(':') != std::string::npos)
      return line.substr(line.find(':') + 1) + " ";
  }
  return " ";
}

Finding check_instructions() {
  const std::string flags = cpu_flags();
  std::string found;
  for (const char* name : {"avx2", "fma", "f16c", "avx512f", "avx512bw", "asimd"}) {
    if (flags.find(fmt::format(" {} ", name)) != std::string::npos) found += fmt::format("{}{}", found.empty() ? "" : ", ", name);
  }
  if (found.empty())
    return {"instructions", Health::warn, "no vector instructions found", "the host backend chooses a slower kernel; results are the same"};
  return {"instructions", Health::ok, found, ""};
}

Finding check_memory() { return {"memory", Health::ok, format_bytes(this_host().memory_bytes), ""}; }

Finding check_hdf5() { return {"HDF5", Health::ok, h5::library_version(), ""}; }

/// Some network file systems know no locks; HDF5 then cannot open files.
Finding check_locking() {
  std::string name = (std::filesystem::current_path() / ".moekv_lock_XXXXXX").string();
  const int fd = mkstemp(name.data());
  if (fd < 0) return {"file locking", Health::warn, "this folder is not writable", "results need a writable folder: pass --out"};
  const bool locks = flock(fd, LOCK_EX | LOCK_NB) == 0;
  close(fd);
  unlink(name.c_str());
  if (locks) return {"file locking", Health::ok, "works in this folder", ""};
  return {"file locking", Health::warn, "does not work in this folder", "export HDF5_USE_FILE_LOCKING=FALSE"};
}

Finding check_cuda_build() {
  const auto architectures = build_info().cuda_architectures;
  if (!architectures.empty()) return {"CUDA build", Health::ok, fmt::format("architectures {}", architectures), ""};
  return {"CUDA build", Health::missing, "this program has no CUDA backend",
          "backends host and count work; for cuda configure with a CUDA toolkit (MOEKV_CUDA=ON)"};
}

Finding check_driver() {
  const Library cuda("libcuda.so.1");
  if (!cuda.found()) return {"GPU driver", Health::missing, "no libcuda.so.1", "install the NVIDIA driver where a GPU is to be used"};
  const auto init = cuda.function<int(unsigned)>("cuInit");
  const auto driver_version = cuda.function<int(int*)>("cuDriverGetVersion");
  const auto device_count = cuda.function<int(int*)>("cuDeviceGetCount");
  int version = 0, devices = 0;
  if (init == nullptr || driver_version == nullptr || device_count == nullptr || driver_version(&version) != 0) {
    return {"GPU driver", Health::warn, "libcuda.so.1 does not answer", "reinstall the NVIDIA driver"};
  }
  const std::string text = fmt::format("CUDA {}.{}", version / 1000, version % 1000 / 10);
  if (init(0) != 0 || device_count(&devices) != 0 || devices == 0)
    return {"GPU driver", Health::warn, text + ", no usable device", "check nvidia-smi and CUDA_VISIBLE_DEVICES"};
  std::string names;
  if (const auto name_of = cuda.function<int(char*, int, int)>("cuDeviceGetName")) {
    for (int i = 0; i < devices; ++i) {
      std::array<char, 128> name{};
      if (name_of(name.data(), static_cast<int>(name.size()) - 1, i) == 0) names += fmt::format("{}{}", names.empty() ? ": " : ", ", name.data());
    }
  }
  return {"GPU driver", Health::ok, fmt::format("{}, {} device(s){}", text, devices, names), ""};
}

/// The first of a library's places that has it and its function `version`, with what the function says.
template <class Version>
Finding check_library(std::string_view topic, const char* variable, const std::string& file, Version version, const std::string& use) {
  std::vector<std::string> paths{file, "/usr/local/cuda/lib64/" + file};
  if (const char* chosen = std::getenv(variable)) paths.insert(paths.begin(), chosen);
  for (const std::string& path : paths) {
    const std::string found = version(Library(path.c_str()));
    if (!found.empty()) return {topic, Health::ok, fmt::format("{} ({})", found, path), ""};
  }
  return {topic, Health::missing, "no " + file, fmt::format("needed for {} only; set {} to its path", use, variable)};
}

Finding check_nccl() {
  return check_library(
      "NCCL", "MOEKV_NCCL_LIB", "libnccl.so.2",
      [](const Library& nccl) -> std::string {
        const auto get_version = nccl.function<int(int*)>("ncclGetVersion");
        int version = 0;
        if (get_version == nullptr || get_version(&version) != 0) return {};
        return fmt::format("{}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
      },
      "transport nccl");
}

Finding check_cublas() {
  return check_library(
      "cuBLAS", "MOEKV_CUBLAS_LIB", "libcublas.so.13",
      [](const Library& cublas) -> std::string {
        const auto get_property = cublas.function<int(int, int*)>("cublasGetProperty");
        int major = 0, minor = 0;
        if (get_property == nullptr || get_property(0, &major) != 0 || get_property(1, &minor) != 0) return {};
        return fmt::format("{}.{}", major, minor);
      },
      "moekv score on backend cuda");
}

Finding check_slurm() {
  const std::string srun = find_program("srun");
  if (srun.empty()) return {"Slurm", Health::missing, "no srun on PATH", "only needed on clusters"};
  const char* job = std::getenv("SLURM_JOB_ID");
  return {"Slurm", Health::ok, job == nullptr ? srun : fmt::format("{}, inside job {}; start with srun --mpi=pmix", srun, job), ""};
}

Finding check_python() {
  for (const char* python : {"python3", "/usr/bin/python3"}) {
    const std::string version =
        first_line_of(fmt::format("{} -c 'import sys, h5py; print(sys.version.split()[0], h5py.__version__, sys.executable)'", python));
    if (!version.empty()) return {"Python", Health::ok, fmt::format("{} (version, h5py, program)", version), ""};
  }
  return {"Python", Health::missing, "no python3 with h5py", "install python3-h5py python3-matplotlib for the figure scripts"};
}

ExitCode run_doctor() {
  constexpr std::string_view words[] = {"ok", "warn", "missing"};
  int warnings = 0;
  for (const auto& check : {check_program, check_mpi, check_launcher, check_yielding, check_openmp, check_instructions, check_memory, check_hdf5,
                            check_locking, check_cuda_build, check_driver, check_nccl, check_cublas, check_slurm, check_python}) {
    const Finding f = check();
    fmt::print("{:<8}{:<14}{}\n", words[static_cast<std::size_t>(f.verdict)], f.topic, f.found);
    if (!f.advice.empty()) fmt::print("{:<22}-> {}\n", "", f.advice);
    warnings += f.verdict == Health::warn ? 1 : 0;
  }
  fmt::print("{}\n", warnings == 0 ? "nothing stands in the way of a run" : fmt::format("{} warning(s): see the arrows", warnings));
  return ExitCode::ok;
}

}  // namespace

void add_doctor(Command& parent, Action& action) {
  Command* doctor = parent.add_subcommand("doctor", "say what this machine and build offer, and what to do where something is missing");
  doctor->callback([&action] { action.run = run_doctor; });
}

}  // namespace moekv
