// Stands in for the transports from GPU to GPU in a build without CUDA, so that asking for one says what to do.
#include "comm/transport.hpp"
#include "core/error.hpp"

namespace moekv {
namespace {

[[noreturn]] void refuse(const char* name) {
  throw DeviceMissing(std::string("transport '") + name +
                      "': this build has no CUDA; configure with -DMOEKV_CUDA=ON where a CUDA toolkit is installed, or use transport: mpi");
}

}  // namespace

std::unique_ptr<Transport> make_nccl_transport(Transport& /*job*/, OwnBytes /*own*/) { refuse("nccl"); }
std::unique_ptr<Transport> make_ipc_transport(Transport& /*job*/) { refuse("ipc"); }

}  // namespace moekv
