// The functions of libnccl by name.
#include "nccl_api.hpp"

#include "library.hpp"

namespace moekv::kernels {
namespace {

NcclApi load() {
  const Library library("transport 'nccl'", "NCCL", "MOEKV_NCCL_LIB", {"libnccl.so.2", "/usr/local/cuda/lib64/libnccl.so.2"}, "NCCL 2.18 or newer",
                        "use transport: mpi");
  NcclApi api{};
  library.find("ncclGetVersion", api.get_version);
  library.find("ncclGetUniqueId", api.get_unique_id);
  library.find("ncclCommInitRank", api.init_rank);
  library.find("ncclCommDestroy", api.destroy);
  library.find("ncclCommAbort", api.abort);
  library.find("ncclCommGetAsyncError", api.async_error);
  library.find("ncclGetErrorString", api.error_string);
  library.find("ncclGetLastError", api.last_error);
  library.find("ncclGroupStart", api.group_start);
  library.find("ncclGroupEnd", api.group_end);
  library.find("ncclSend", api.send);
  library.find("ncclRecv", api.receive);
  api.path = library.path();
  return api;
}

}  // namespace

const NcclApi& nccl_api() {
  static const NcclApi api = load();
  return api;
}

}  // namespace moekv::kernels
