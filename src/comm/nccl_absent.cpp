// Stands in for the NCCL transport in a build without CUDA, so that asking for it says what to do.
#include "comm/transport.hpp"
#include "core/error.hpp"

namespace moekv {

std::unique_ptr<Transport> make_nccl_transport(Transport& /*job*/) {
  throw DeviceMissing("transport 'nccl': this build has no CUDA; configure with -DMOEKV_CUDA=ON where a CUDA toolkit is installed, or use transport: mpi");
}

}  // namespace moekv
