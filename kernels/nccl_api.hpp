// NcclApi: the functions of libnccl that moekv calls, found at run time, so that a program starts without the library.
#pragma once

#include <nccl.h>

#include <string>

namespace moekv::kernels {

struct NcclApi {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRank) init_rank;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetLastError) last_error;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) receive;
  std::string path;  // of the library
};

/// The library, opened once: $MOEKV_NCCL_LIB, what the loader finds, the CUDA toolkit's folder. Throws DeviceMissing with where it was looked for.
[[nodiscard]] const NcclApi& nccl_api();

}  // namespace moekv::kernels
