// Stands in for what needs CUDA in a build without it, so that asking for it says what to do.
#include "core/error.hpp"
#include "device/backend.hpp"
#include "device/gemm.hpp"
#include "device/profile.hpp"

namespace moekv {
namespace {

[[noreturn]] void refuse(const char* what, const char* instead) {
  throw DeviceMissing(std::string(what) + ": this build has no CUDA; configure with -DMOEKV_CUDA=ON where a CUDA toolkit is installed, or " +
                      instead);
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend() { refuse("backend 'cuda'", "use backend host or count"); }
std::unique_ptr<Gemm> make_cuda_gemm() { refuse("backend 'cuda'", "use backend host or count"); }

void push_range(const char* /*name*/) noexcept {}
void pop_range() noexcept {}
void start_capture() { refuse("--profile-steps", "leave the option out"); }
void stop_capture() {}

}  // namespace moekv
