// cuBLAS, cuSOLVER and cuRAND, as far as they are used: BLAS and LAPACK on the queue of a stream.
#include "queues.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

// of an OpenBLAS whose names begin so
extern "C" {
#define NAMES size_t = 1, size_t = 1, size_t = 1, size_t = 1
void scipy_dgemm_(const char*, const char*, const int*, const int*, const int*, const double*,
                  const double*, const int*, const double*, const int*, const double*, double*,
                  const int*, NAMES);
void scipy_sgemm_(const char*, const char*, const int*, const int*, const int*, const float*,
                  const float*, const int*, const float*, const int*, const float*, float*,
                  const int*, NAMES);
void scipy_dsyrk_(const char*, const char*, const int*, const int*, const double*, const double*,
                  const int*, const double*, double*, const int*, NAMES);
void scipy_ssyrk_(const char*, const char*, const int*, const int*, const float*, const float*,
                  const int*, const float*, float*, const int*, NAMES);
void scipy_dtrsm_(const char*, const char*, const char*, const char*, const int*, const int*,
                  const double*, const double*, const int*, double*, const int*, NAMES);
void scipy_dpotrf_(const char*, const int*, double*, const int*, int*, NAMES);
void scipy_dsyevd_(const char*, const char*, const int*, double*, const int*, double*, double*,
                   const int*, int*, const int*, int*, NAMES);
void scipy_dgesvd_(const char*, const char*, const int*, const int*, double*, const int*, double*,
                   double*, const int*, double*, const int*, double*, const int*, int*, NAMES);
void scipy_dgeqrf_(const int*, const int*, double*, const int*, double*, double*, const int*,
                   int*);
void scipy_dorgqr_(const int*, const int*, const int*, double*, const int*, const double*, double*,
                   const int*, int*);
void scipy_dgetrf_(const int*, const int*, double*, const int*, int*, int*);
void scipy_dgetrs_(const char*, const int*, const int*, const double*, const int*, const int*,
                   double*, const int*, int*, NAMES);
}

namespace {

struct Handle {
  void* stream = nullptr;
  int pointer_mode = 0, math_mode = 0;
};

// by the numbers that CUDA gives them
constexpr char transposed[] = "NTC", half[] = "LU", side[] = "LR", diagonal[] = "NU", job[] = "NV";
enum Type { float32 = 0, float64 = 1, int8 = 3, int32 = 10 };
enum { not_supported = 15, compute_32i = 72 };

// the host's are read when the call is made, the GPU's when it runs
template <class T>
std::function<T()> scalar(const Handle* handle, const void* given) {
  auto* place = static_cast<const T*>(given);
  if (handle->pointer_mode) return [=] { return *place; };
  return [value = *place] { return value; };
}

int gemm_of_int8(Handle* handle, int a_is, int b_is, int m, int n, int k, const void* alpha,
                 const int8_t* a, int lda, const int8_t* b, int ldb, const void* beta, int32_t* c,
                 int ldc) {
  const char* has_it = getenv("CUDA_STAND_IN_INT8");
  if ((has_it && !strcmp(has_it, "0")) || lda % 4 || ldb % 4 || m % 4 || k % 4)
    return not_supported;
  auto one = scalar<int32_t>(handle, alpha), other = scalar<int32_t>(handle, beta);
  enqueue(handle->stream, [=] {
    // exact in float64
    std::vector<double> wide_a(a, a + size_t(lda) * (a_is ? m : k));
    std::vector<double> wide_b(b, b + size_t(ldb) * (b_is ? k : n));
    std::vector<double> product(size_t(m) * n);
    double unit = 1, nothing = 0;
    scipy_dgemm_(&transposed[a_is], &transposed[b_is], &m, &n, &k, &unit, wide_a.data(), &lda,
                 wide_b.data(), &ldb, &nothing, product.data(), &m);
    for (int j = 0; j < n; ++j)
      for (int i = 0; i < m; ++i) {
        int32_t& place = c[size_t(j) * ldc + i];
        int32_t before = other() ? other() * place : 0;
        place = one() * int32_t(product[size_t(j) * m + i]) + before;
      }
  });
  return 0;
}

void eigen(int vectors, int uplo, int n, double* a, int lda, double* values, int* info) {
  int size = 1 + 6 * n + 2 * n * n, integers = 3 + 5 * n;
  std::vector<double> work(size);
  std::vector<int> more(integers);
  scipy_dsyevd_(&job[vectors], &half[uplo], &n, a, &lda, values, work.data(), &size, more.data(),
                &integers, info);
}

struct Random {
  std::mt19937_64 engine;
  void* stream = nullptr;
};

template <class T>
int normal(Random* from, T* place, size_t count, T mean, T deviation) {
  if (count % 2) return 105;  // a length that is not even
  auto drawn = std::make_shared<std::vector<T>>(count);
  std::normal_distribution<T> numbers(mean, deviation);
  for (auto& each : *drawn) each = numbers(from->engine);
  enqueue(from->stream, [=] { std::copy(drawn->begin(), drawn->end(), place); });
  return 0;
}

}  // namespace

extern "C" {

int cublasCreate_v2(Handle** made) { return *made = new Handle, 0; }
int cublasDestroy_v2(Handle* handle) { return delete handle, 0; }
int cublasSetStream_v2(Handle* handle, void* stream) { return handle->stream = stream, 0; }
int cublasGetStream_v2(Handle* handle, void** stream) { return *stream = handle->stream, 0; }
int cublasSetPointerMode_v2(Handle* handle, int mode) { return handle->pointer_mode = mode, 0; }
int cublasGetPointerMode_v2(Handle* handle, int* mode) { return *mode = handle->pointer_mode, 0; }
int cublasSetMathMode(Handle* handle, int mode) { return handle->math_mode = mode, 0; }
int cublasGetMathMode(Handle* handle, int* mode) { return *mode = handle->math_mode, 0; }
int cublasGetVersion_v2(Handle*, int* version) { return *version = 130000, 0; }

#define GEMM(name, T, gemm)                                                                     \
  int name(Handle* handle, int a_is, int b_is, int m, int n, int k, const T* alpha, const T* a, \
           int lda, const T* b, int ldb, const T* beta, T* c, int ldc) {                        \
    auto one = scalar<T>(handle, alpha), other = scalar<T>(handle, beta);                       \
    enqueue(handle->stream, [=] {                                                               \
      T x = one(), y = other();                                                                 \
      gemm(&transposed[a_is], &transposed[b_is], &m, &n, &k, &x, a, &lda, b, &ldb, &y, c, &ldc); \
    });                                                                                         \
    return 0;                                                                                   \
  }
GEMM(cublasDgemm_v2, double, scipy_dgemm_)
GEMM(cublasSgemm_v2, float, scipy_sgemm_)

#define SYRK(name, T, syrk)                                                                   \
  int name(Handle* handle, int uplo, int a_is, int n, int k, const T* alpha, const T* a,      \
           int lda, const T* beta, T* c, int ldc) {                                           \
    auto one = scalar<T>(handle, alpha), other = scalar<T>(handle, beta);                     \
    enqueue(handle->stream, [=] {                                                             \
      T x = one(), y = other();                                                               \
      syrk(&half[uplo], &transposed[a_is], &n, &k, &x, a, &lda, &y, c, &ldc);                 \
    });                                                                                       \
    return 0;                                                                                 \
  }
SYRK(cublasDsyrk_v2, double, scipy_dsyrk_)
SYRK(cublasSsyrk_v2, float, scipy_ssyrk_)

int cublasDtrsm_v2(Handle* handle, int where, int uplo, int a_is, int unit, int m, int n,
                   const double* alpha, const double* a, int lda, double* b, int ldb) {
  auto one = scalar<double>(handle, alpha);
  enqueue(handle->stream, [=] {
    double x = one();
    scipy_dtrsm_(&side[where], &half[uplo], &transposed[a_is], &diagonal[unit], &m, &n, &x, a,
                 &lda, b, &ldb);
  });
  return 0;
}

int cublasGemmEx(Handle* handle, int a_is, int b_is, int m, int n, int k, const void* alpha,
                 const void* a, int a_type, int lda, const void* b, int b_type, int ldb,
                 const void* beta, void* c, int c_type, int ldc, int compute, int) {
  if (a_type == float64 && b_type == float64 && c_type == float64)
    return cublasDgemm_v2(handle, a_is, b_is, m, n, k, (double*)alpha, (double*)a, lda, (double*)b,
                          ldb, (double*)beta, (double*)c, ldc);
  if (a_type == float32 && b_type == float32 && c_type == float32)
    return cublasSgemm_v2(handle, a_is, b_is, m, n, k, (float*)alpha, (float*)a, lda, (float*)b,
                          ldb, (float*)beta, (float*)c, ldc);
  if (a_type == int8 && b_type == int8 && c_type == int32 && compute == compute_32i)
    return gemm_of_int8(handle, a_is, b_is, m, n, k, alpha, (int8_t*)a, lda, (int8_t*)b, ldb, beta,
                        (int32_t*)c, ldc);
  give_up("cublasGemmEx of types %d and %d to %d", a_type, b_type, c_type);
}

int cusolverDnCreate(Handle** made) { return *made = new Handle, 0; }
int cusolverDnDestroy(Handle* handle) { return delete handle, 0; }
int cusolverDnSetStream(Handle* handle, void* stream) { return handle->stream = stream, 0; }
int cusolverGetProperty(int which, int* value) { return *value = which ? 0 : 12, 0; }

int cusolverDnDpotrf_bufferSize(Handle*, int, int, double*, int, int* size) {
  return *size = 1, 0;
}
int cusolverDnDpotrf(Handle* handle, int uplo, int n, double* a, int lda, double*, int,
                     int* info) {
  enqueue(handle->stream, [=] { scipy_dpotrf_(&half[uplo], &n, a, &lda, info); });
  return 0;
}
int cusolverDnDsyevd_bufferSize(Handle*, int, int, int, const double*, int, const double*,
                                int* size) {
  return *size = 1, 0;
}
int cusolverDnDsyevd(Handle* handle, int vectors, int uplo, int n, double* a, int lda,
                     double* values, double*, int, int* info) {
  enqueue(handle->stream, [=] { eigen(vectors, uplo, n, a, lda, values, info); });
  return 0;
}
int cusolverDnCreateParams(void** made) { return *made = malloc(1), 0; }
int cusolverDnDestroyParams(void* made) { return free(made), 0; }
int cusolverDnXsyevd_bufferSize(Handle*, void*, int, int, int64_t, int, const void*, int64_t, int,
                                const void*, int, size_t* there, size_t* here) {
  return *there = *here = 8, 0;
}
int cusolverDnXsyevd(Handle* handle, void*, int vectors, int uplo, int64_t n, int type, void* a,
                     int64_t lda, int, void* values, int, void*, size_t, void*, size_t,
                     int* info) {
  if (type != float64) give_up("cusolverDnXsyevd of type %d", type);
  enqueue(handle->stream, [=] { eigen(vectors, uplo, n, (double*)a, lda, (double*)values, info); });
  return 0;
}
int cusolverDnDgeqrf_bufferSize(Handle*, int, int, double*, int, int* size) {
  return *size = 1, 0;
}
int cusolverDnDgeqrf(Handle* handle, int m, int n, double* a, int lda, double* tau, double*, int,
                     int* info) {
  enqueue(handle->stream, [=] {
    int size = 64 * std::max(m, n);
    std::vector<double> work(size);
    scipy_dgeqrf_(&m, &n, a, &lda, tau, work.data(), &size, info);
  });
  return 0;
}
int cusolverDnDorgqr_bufferSize(Handle*, int, int, int, const double*, int, const double*,
                                int* size) {
  return *size = 1, 0;
}
int cusolverDnDorgqr(Handle* handle, int m, int n, int k, double* a, int lda, const double* tau,
                     double*, int, int* info) {
  enqueue(handle->stream, [=] {
    int size = 64 * std::max(m, n);
    std::vector<double> work(size);
    scipy_dorgqr_(&m, &n, &k, a, &lda, tau, work.data(), &size, info);
  });
  return 0;
}
int cusolverDnDgesvd_bufferSize(Handle*, int, int, int* size) { return *size = 1, 0; }
int cusolverDnDgesvd(Handle* handle, signed char left, signed char right, int m, int n, double* a,
                     int lda, double* values, double* u, int ldu, double* v, int ldv, double*, int,
                     double*, int* info) {
  if (m < n) return 7;  // as cuSOLVER does
  enqueue(handle->stream, [=] {
    int size = 64 * (m + n);
    std::vector<double> work(size);
    char jobs[] = {char(left), char(right)};
    scipy_dgesvd_(&jobs[0], &jobs[1], &m, &n, a, &lda, values, u, &ldu, v, &ldv, work.data(),
                  &size, info);
  });
  return 0;
}
int cusolverDnDgetrf_bufferSize(Handle*, int, int, double*, int, int* size) {
  return *size = 1, 0;
}
int cusolverDnDgetrf(Handle* handle, int m, int n, double* a, int lda, double*, int* pivots,
                     int* info) {
  enqueue(handle->stream, [=] { scipy_dgetrf_(&m, &n, a, &lda, pivots, info); });
  return 0;
}
int cusolverDnDgetrs(Handle* handle, int a_is, int n, int columns, const double* a, int lda,
                     const int* pivots, double* b, int ldb, int* info) {
  enqueue(handle->stream, [=] {
    scipy_dgetrs_(&transposed[a_is], &n, &columns, a, &lda, pivots, b, &ldb, info);
  });
  return 0;
}

int curandCreateGenerator(Random** made, int) { return *made = new Random, 0; }
int curandDestroyGenerator(Random* made) { return delete made, 0; }
int curandSetStream(Random* own, void* stream) { return own->stream = stream, 0; }
int curandSetPseudoRandomGeneratorSeed(Random* own, unsigned long long seed) {
  return own->engine.seed(seed), 0;
}
int curandSetGeneratorOffset(Random*, unsigned long long) { return 0; }
int curandGetVersion(int* version) { return *version = 10400, 0; }
int curandGenerateNormalDouble(Random* own, double* place, size_t count, double mean,
                               double deviation) {
  return normal(own, place, count, mean, deviation);
}
int curandGenerateNormal(Random* own, float* place, size_t count, float mean, float deviation) {
  return normal(own, place, count, mean, deviation);
}

}  // extern "C"
