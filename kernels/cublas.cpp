// make_cublas and make_cuda_gemm: libcublas is found at run time, as it is ten times the size of everything else.
#include <cublas_v2.h>
#include <fmt/format.h>

#include <source_location>

#include "core/error.hpp"
#include "cuda_device.hpp"
#include "device_gemm.hpp"
#include "library.hpp"

namespace moekv {
namespace kernels {
namespace {

struct CublasApi {
  decltype(&cublasCreate_v2) create;
  decltype(&cublasDestroy_v2) destroy;
  decltype(&cublasSetStream_v2) set_stream;
  decltype(&cublasSgemm_v2) sgemm;
  decltype(&cublasGetStatusString) status_string;
};

CublasApi load() {
  const std::string name = fmt::format("libcublas.so.{}", CUDART_VERSION / 1000);
  const Library library("moekv score on backend 'cuda'", "cuBLAS", "MOEKV_CUBLAS_LIB", {name, "/usr/local/cuda/lib64/" + name},
                        fmt::format("cuBLAS of CUDA {}", CUDART_VERSION / 1000), "use backend host");
  CublasApi api{};
  library.find("cublasCreate_v2", api.create);
  library.find("cublasDestroy_v2", api.destroy);
  library.find("cublasSetStream_v2", api.set_stream);
  library.find("cublasSgemm_v2", api.sgemm);
  library.find("cublasGetStatusString", api.status_string);
  return api;
}

/// The library, opened once.
const CublasApi& cublas_api() {
  static const CublasApi api = load();
  return api;
}

void require(cublasStatus_t code, const std::source_location& where = std::source_location::current()) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  throw SystemError(fmt::format("cuBLAS: {} ({}:{} {})", cublas_api().status_string(code), where.file_name(), where.line(), where.function_name()));
}

class Cublas final : public Blas {
 public:
  explicit Cublas(cudaStream_t stream) : api_(cublas_api()) {
    require(api_.create(&handle_));
    require(api_.set_stream(handle_, stream));
  }
  ~Cublas() override { api_.destroy(handle_); }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  void multiply_transposed(std::uint32_t m, std::uint32_t n, std::uint32_t k, const float* a, const float* b, float* c) override {
    constexpr float one = 1.0F, zero = 0.0F;
    const int rows = static_cast<int>(m), columns = static_cast<int>(n), depth = static_cast<int>(k);
    require(api_.sgemm(handle_, CUBLAS_OP_T, CUBLAS_OP_N, rows, columns, depth, &one, a, depth, b, depth, &zero, c, rows));
  }

 private:
  const CublasApi& api_;
  cublasHandle_t handle_ = nullptr;
};

}  // namespace

std::unique_ptr<Blas> make_cublas(void* stream) { return std::make_unique<Cublas>(static_cast<cudaStream_t>(stream)); }

}  // namespace kernels

std::unique_ptr<Gemm> make_cuda_gemm() {
  using namespace kernels;
  auto device = std::make_unique<CudaDevice>(choose_device());
  auto blas = make_cublas(device->stream());
  return std::make_unique<DeviceGemm>(std::move(device), std::move(blas));
}

}  // namespace moekv
