// What sources of kernels are compiled with by g++, before and in place of CUDA's own.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include <cuda_runtime.h>
#include <cuda_fp16.h>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __CUDA_ARCH__ 900
#define __CUDACC_VER_MAJOR__ 13

struct Place {
  unsigned x, y, z;
};
extern Place stand_in_thread, stand_in_block, stand_in_block_size, stand_in_grid_size;
#define threadIdx stand_in_thread
#define blockIdx stand_in_block
#define blockDim stand_in_block_size
#define gridDim stand_in_grid_size

void stand_in_block_barrier();
void stand_in_warp_barrier();
#define __syncthreads stand_in_block_barrier
#define __syncwarp(...) stand_in_warp_barrier()

static char stand_in_lanes[1024][16];
template <class T>
T stand_in_from_lane(T value, unsigned from) {
  memcpy(stand_in_lanes[threadIdx.x], &value, sizeof value);
  stand_in_warp_barrier();
  T found;
  memcpy(&found, stand_in_lanes[from], sizeof found);
  stand_in_warp_barrier();
  return found;
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  return stand_in_from_lane(value, threadIdx.x ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned by, int = 32) {
  bool is_first = threadIdx.x % 32 < by;
  return stand_in_from_lane(value, is_first ? threadIdx.x : threadIdx.x - by);
}

#define __popc __builtin_popcount
#define __popcll __builtin_popcountll
template <class To, class From>
To stand_in_bits(From from) {
  static_assert(sizeof(To) == sizeof from);
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
inline int __float_as_int(float x) { return stand_in_bits<int>(x); }
inline float __int_as_float(int x) { return stand_in_bits<float>(x); }
inline long long __double_as_longlong(double x) { return stand_in_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return stand_in_bits<double>(x); }

// one fiber runs at a time
template <class T, class By>
T stand_in_atomic(T* place, By by) {
  T before = *place;
  *place = by(before);
  return before;
}
#define ATOMIC(name, expression)                                        \
  template <class T, class V>                                           \
  T name(T* place, V value) {                                           \
    return stand_in_atomic(place, [=](T x) -> T { return expression; }); \
  }
ATOMIC(atomicAdd, x + value)
ATOMIC(atomicSub, x - value)
ATOMIC(atomicMax, x < value ? value : x)
ATOMIC(atomicMin, value < x ? value : x)
ATOMIC(atomicExch, value)
ATOMIC(atomicAnd, x & value)
ATOMIC(atomicOr, x | value)
ATOMIC(atomicXor, x ^ value)
template <class T, class V, class W>
T atomicCAS(T* place, V if_it_is, W value) {
  return stand_in_atomic(place, [=](T x) -> T { return x == if_it_is ? value : x; });
}

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;
template <class A, class B>
using Numbers = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>;
template <class A, class B, class R = std::common_type_t<A, B>, class = Numbers<A, B>>
R max(A a, B b) {
  if constexpr (std::is_floating_point_v<R>) return std::fmax(R(a), R(b));
  return R(a) < R(b) ? R(b) : R(a);
}
template <class A, class B, class R = std::common_type_t<A, B>, class = Numbers<A, B>>
R min(A a, B b) {
  if constexpr (std::is_floating_point_v<R>) return std::fmin(R(a), R(b));
  return R(b) < R(a) ? R(b) : R(a);
}

// A launch: arguments are copied when it is asked for, the kernel is called when it runs.
template <class... A, size_t... I>
std::function<void()> stand_in_launch(void (*kernel)(A...), void** given,
                                      std::index_sequence<I...>) {
  using Kept = std::tuple<std::remove_cv_t<A>...>;
  auto kept = std::make_shared<Kept>(*static_cast<std::remove_cv_t<A>*>(given[I])...);
  return [=] { std::apply(kernel, *kept); };
}
template <class... A>
std::function<void()> stand_in_launch(void (*kernel)(A...), void** given) {
  return stand_in_launch(kernel, given, std::index_sequence_for<A...>());
}
