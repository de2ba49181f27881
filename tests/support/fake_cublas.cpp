// A stand-in for libcublas on host memory: the functions that the program looks for, with the signatures of its header and the rules of BLAS.
#include <cublas_v2.h>

namespace {

float at(cublasOperation_t op, const float* matrix, int leading, int row, int column) {
  return op == CUBLAS_OP_N ? matrix[row + column * leading] : matrix[column + row * leading];
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  static int context = 0;
  *handle = reinterpret_cast<cublasHandle_t>(&context);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) { return handle != nullptr ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED; }
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t /*stream*/) { return cublasDestroy_v2(handle); }
const char* cublasGetStatusString(cublasStatus_t /*status*/) { return "stand-in"; }

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k, const float* alpha,
                              const float* A, int lda, const float* B, int ldb, const float* beta, float* C, int ldc) {
  const int rows_a = transa == CUBLAS_OP_N ? m : k, rows_b = transb == CUBLAS_OP_N ? k : n;
  if (handle == nullptr || lda < rows_a || ldb < rows_b || ldc < m) return CUBLAS_STATUS_INVALID_VALUE;
  for (int j = 0; j < n; ++j) {
    for (int i = 0; i < m; ++i) {
      float sum = 0;
      for (int l = 0; l < k; ++l) sum += at(transa, A, lda, i, l) * at(transb, B, ldb, l, j);
      C[i + j * ldc] = *alpha * sum + (*beta == 0.0F ? 0.0F : *beta * C[i + j * ldc]);
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
