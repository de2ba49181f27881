// dlopen and dlsym of libnccl.
#include "nccl_api.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <cstdlib>

#include "core/error.hpp"

namespace moekv::kernels {
namespace {

template <class Function>
void find(void* library, const char* path, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) throw DeviceMissing(fmt::format("transport 'nccl': {} has no {}; NCCL 2.18 or newer is needed, or use transport: mpi", path, name));
}

NcclApi load(void* library, const char* path) {
  NcclApi api{};
  find(library, path, "ncclGetVersion", api.get_version);
  find(library, path, "ncclGetUniqueId", api.get_unique_id);
  find(library, path, "ncclCommInitRank", api.init_rank);
  find(library, path, "ncclCommDestroy", api.destroy);
  find(library, path, "ncclCommAbort", api.abort);
  find(library, path, "ncclCommGetAsyncError", api.async_error);
  find(library, path, "ncclGetErrorString", api.error_string);
  find(library, path, "ncclGetLastError", api.last_error);
  find(library, path, "ncclGroupStart", api.group_start);
  find(library, path, "ncclGroupEnd", api.group_end);
  find(library, path, "ncclSend", api.send);
  find(library, path, "ncclRecv", api.receive);
  api.path = path;
  return api;
}

NcclApi open() {
  std::string tried;
  for (const char* path : {static_cast<const char*>(std::getenv("MOEKV_NCCL_LIB")), "libnccl.so.2", "/usr/local/cuda/lib64/libnccl.so.2"}) {
    if (path == nullptr) continue;
    if (void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL)) return load(library, path);
    tried += fmt::format("{}{}", tried.empty() ? "" : ", ", path);
  }
  throw DeviceMissing(
      fmt::format("transport 'nccl': no NCCL library (tried {}); set MOEKV_NCCL_LIB to the path of libnccl.so.2, or use transport: mpi", tried));
}

}  // namespace

const NcclApi& nccl_api() {
  static const NcclApi api = open();
  return api;
}

}  // namespace moekv::kernels
