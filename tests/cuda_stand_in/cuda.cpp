// CUDA's runtime and driver: streams are queues of work, the GPU's memory is the host's.
#include "queues.h"

#include <cuda.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <time.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

namespace {

// recursive, as what is put off may put off more
std::recursive_mutex everything;
#define ALONE std::lock_guard<std::recursive_mutex> alone(everything)

long setting(const char* name, long otherwise) {
  const char* given = getenv(name);
  return given ? atol(given) : otherwise;
}

struct Stream {
  std::deque<std::function<void()>> queue;
  unsigned flags = 0;
};
struct Event {
  Stream* stream = nullptr;
  long recorded = 0, done = 0;
  double milliseconds = 0;
  unsigned flags = 0;
};
Stream default_stream;
std::vector<Stream*> streams;  // in the order in which they were made
thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;
long waits_for_all = 0;

const std::string order = [] {
  const char* given = getenv("CUDA_STAND_IN_ORDER");
  return std::string(given ? given : "late");
}();
std::mt19937 chance(setting("CUDA_STAND_IN_SEED", 1));

const size_t memory_of_each = setting("CUDA_STAND_IN_MEMORY", 8L << 30);
std::map<int, size_t> taken;
struct Block {
  size_t size;
  int device;
};
std::map<char*, Block> on_device, pinned;

cudaError_t failed(cudaError_t error) { return last_error = error; }

Stream* stream_of(void* handle) {
  // 1 and 2 are names of the default stream
  return reinterpret_cast<size_t>(handle) <= 2 ? &default_stream : static_cast<Stream*>(handle);
}

bool do_next(Stream* stream) {
  if (stream->queue.empty()) return false;
  auto work = std::move(stream->queue.front());
  stream->queue.pop_front();
  work();
  return true;
}

void finish(Stream* stream) {
  while (do_next(stream)) {
  }
}

void finish_all() {
  finish(&default_stream);
  for (auto* stream : streams) finish(stream);
}

void do_some() {
  std::vector<Stream*> all = streams;
  all.push_back(&default_stream);
  for (int left = chance() % 3; left > 0; --left) do_next(all[chance() % all.size()]);
}

void reach(Event* event, long count, Stream* by) {
  while (event->done < count)
    if (!do_next(by)) give_up("an event that will never come is waited for");
}

bool within(const std::map<char*, Block>& blocks, const void* address, size_t size = 1) {
  auto after = blocks.upper_bound((char*)address);
  if (after == blocks.begin()) return false;
  --after;
  return (char*)address + size <= after->first + after->second.size;
}

void check_copy(const void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  bool is_from = within(on_device, from), is_to = within(on_device, to);
  if ((kind == cudaMemcpyHostToDevice && (is_from || !is_to)) ||
      (kind == cudaMemcpyDeviceToHost && (!is_from || is_to)) ||
      (kind == cudaMemcpyDeviceToDevice && !(is_from && is_to)))
    give_up("a copy of %zu bytes in another direction than %d, which was said", size, kind);
  if ((is_from && !within(on_device, from, size)) || (is_to && !within(on_device, to, size)))
    give_up("a copy of %zu bytes goes beyond a GPU's memory", size);
}

char* poisoned(size_t size) {
  char* memory = static_cast<char*>(aligned_alloc(4096, (size / 4096 + 1) * 4096));
  memset(memory, 0xFF, size);
  return memory;
}

}  // namespace

void give_up(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "CUDA stand-in: ");
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  abort();
}

void enqueue(void* handle, std::function<void()> work) {
  ALONE;
  Stream* stream = stream_of(handle);
  // other streams that are not told otherwise wait for this one
  if (stream == &default_stream) ++waits_for_all;
  if (order == "random") do_some();
  stream->queue.push_back(std::move(work));
  if (order == "eager") finish(stream);
}

extern "C" {

long stand_in_waits_for_all() { return waits_for_all; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    default: return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t) { return "said by the stand-in"; }
cudaError_t cudaGetLastError() {
  auto error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = setting("CUDA_STAND_IN_DEVICES", 1);
  return *count ? cudaSuccess : failed(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* device) { return *device = current_device, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  if (device >= setting("CUDA_STAND_IN_DEVICES", 1)) return failed(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  ALONE;
  ++waits_for_all;
  finish_all();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    default: *value = 0;
  }
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int) {
  memset(found, 0, sizeof *found);
  strcpy(found->name, "no GPU");
  found->major = 9;
  found->multiProcessorCount = 132;
  found->totalGlobalMem = memory_of_each;
  found->warpSize = 32;
  found->maxThreadsPerBlock = 1024;
  found->sharedMemPerBlock = 49152;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  snprintf(text, size, "0000:0%d:00.0", device);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** place, size_t size) {
  ALONE;
  if (taken[current_device] + size > memory_of_each) return failed(cudaErrorMemoryAllocation);
  char* memory = poisoned(size);
  on_device[memory] = {size, current_device};
  taken[current_device] += size;
  *place = memory;
  return cudaSuccess;
}
cudaError_t cudaFree(void* place) {
  ALONE;
  if (!place) return cudaSuccess;
  finish_all();
  auto block = on_device.find(static_cast<char*>(place));
  if (block == on_device.end()) give_up("%p is freed and no block", place);
  taken[block->second.device] -= block->second.size;
  free(block->first);
  on_device.erase(block);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* left, size_t* total) {
  ALONE;
  *total = memory_of_each;
  *left = memory_of_each - taken[current_device];
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** place, size_t size, unsigned) {
  ALONE;
  char* memory = poisoned(size);
  pinned[memory] = {size, 0};
  *place = memory;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* place) {
  ALONE;
  finish_all();
  pinned.erase(static_cast<char*>(place));
  free(place);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* address) {
  ALONE;
  memset(found, 0, sizeof *found);
  found->type = within(on_device, address) ? cudaMemoryTypeDevice
                : within(pinned, address)  ? cudaMemoryTypeHost
                                           : cudaMemoryTypeUnregistered;
  found->devicePointer = const_cast<void*>(address);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  ALONE;
  if (!size) return cudaSuccess;
  check_copy(to, from, size, kind);
  bool is_from = within(on_device, from), is_to = within(on_device, to);
  // what is not pinned is copied away before the call returns
  if (is_to && !is_from && !within(pinned, from)) {
    auto staged = std::make_shared<std::vector<char>>((char*)from, (char*)from + size);
    enqueue(stream, [=] { memcpy(to, staged->data(), size); });
    return cudaSuccess;
  }
  enqueue(stream, [=] { memcpy(to, from, size); });
  // and there when it returns
  if (is_from && !is_to && !within(pinned, to)) finish(stream_of(stream));
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  ALONE;
  check_copy(to, from, size, kind);
  ++waits_for_all;
  finish(&default_stream);
  memcpy(to, from, size);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* place, int value, size_t size, cudaStream_t stream) {
  ALONE;
  if (size && !within(on_device, place)) give_up("%p is set and is no memory of a GPU", place);
  enqueue(stream, [=] { memset(place, value, size); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* made, unsigned flags) {
  ALONE;
  auto* stream = new Stream;
  stream->flags = flags;
  streams.push_back(stream);
  *made = reinterpret_cast<cudaStream_t>(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* made, unsigned flags, int) {
  return cudaStreamCreateWithFlags(made, flags);
}
cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
  *flags = stream_of(stream)->flags;
  return cudaSuccess;
}
cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  return *priority = 0, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  ALONE;
  finish(stream_of(stream));
  // not deleted: events may name it
  streams.erase(std::remove(streams.begin(), streams.end(), stream_of(stream)), streams.end());
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ALONE;
  finish(stream_of(stream));
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* made, unsigned flags) {
  auto* event = new Event;
  event->flags = flags;
  *made = reinterpret_cast<cudaEvent_t>(event);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* made) { return cudaEventCreateWithFlags(made, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  ALONE;
  auto* event = reinterpret_cast<Event*>(handle);
  event->stream = stream_of(stream);
  long count = ++event->recorded;
  enqueue(stream, [=] {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->milliseconds = now.tv_sec * 1e3 + now.tv_nsec / 1e6;
    event->done = count;
  });
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned) {
  ALONE;
  auto* event = reinterpret_cast<Event*>(handle);
  auto* by = event->stream;
  long count = event->recorded;
  if (count) enqueue(stream, [=] { reach(event, count, by); });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  ALONE;
  auto* event = reinterpret_cast<Event*>(handle);
  if (event->recorded) reach(event, event->recorded, event->stream);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t handle) {
  ALONE;
  auto* event = reinterpret_cast<Event*>(handle);
  return event->done < event->recorded ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t first, cudaEvent_t second) {
  ALONE;
  auto *a = reinterpret_cast<Event*>(first), *b = reinterpret_cast<Event*>(second);
  if ((a->flags | b->flags) & cudaEventDisableTiming) return failed(cudaErrorInvalidResourceHandle);
  *milliseconds = b->milliseconds - a->milliseconds;
  return cudaSuccess;
}

// the driver

CUresult cuGetErrorName(CUresult, const char** name) {
  return *name = "CUDA_ERROR_UNKNOWN", CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult, const char** text) {
  return *text = "said by the stand-in", CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* found) {
  return *found = reinterpret_cast<CUcontext>(1), CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* device) { return *device = current_device, CUDA_SUCCESS; }

// A module is the path of what g++ made; compiler.cpp says so.
CUresult cuModuleLoadData(CUmodule* module, const void* path) {
  void* loaded = dlopen(static_cast<const char*>(path), RTLD_NOW | RTLD_LOCAL);
  if (!loaded) give_up("%s", dlerror());
  *module = static_cast<CUmodule>(loaded);
  return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  void* found = dlsym(module, (std::string("stand_in_launch_") + name).c_str());
  *function = static_cast<CUfunction>(found);
  return found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute, CUfunction) {
  return *value = 1024, CUDA_SUCCESS;
}

}  // extern "C"

// Threads of a block are fibers. Those that run, do so until they wait for their warp or their
// block; then those that wait for warps go on, and where none does, those that wait for blocks.

struct Place {
  unsigned x, y, z;
};
Place stand_in_thread, stand_in_block, stand_in_block_size, stand_in_grid_size;

extern "C" void stand_in_switch(void** from, void* to);
asm(R"(
.globl stand_in_switch
stand_in_switch:
 pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
 movq %rsp, (%rdi)
 movq %rsi, %rsp
 popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
 ret
)");

namespace {

constexpr size_t stack_bytes = 1 << 15;
enum class State { runs, waits_for_warp, waits_for_block, has_ended };
struct Fiber {
  char* stack;
  void* at;
  State state;
};
std::vector<Fiber> fibers;
void* scheduler;
unsigned own;
const std::function<void()>* kernel;

void leave(State state) {
  fibers[own].state = state;
  stand_in_switch(&fibers[own].at, scheduler);
}

extern "C" void stand_in_fiber() {
  (*kernel)();
  leave(State::has_ended);
}

void begin(Fiber& fiber) {
  if (!fiber.stack) fiber.stack = static_cast<char*>(aligned_alloc(64, stack_bytes));
  auto** top = reinterpret_cast<void**>(fiber.stack + stack_bytes - 64);
  *--top = nullptr;  // where it would return to
  *--top = reinterpret_cast<void*>(&stand_in_fiber);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.at = top;
  fiber.state = State::runs;
}

bool release(unsigned threads, State waiting) {
  bool any = false;
  for (unsigned t = 0; t < threads; ++t)
    if (fibers[t].state == waiting) {
      fibers[t].state = State::runs;
      any = true;
    }
  return any;
}

void run_block(const std::function<void()>& work, unsigned threads) {
  if (fibers.size() < threads) fibers.resize(threads);
  kernel = &work;
  for (unsigned t = 0; t < threads; ++t) begin(fibers[t]);
  do {
    for (unsigned t = 0; t < threads; ++t)
      if (fibers[t].state == State::runs) {
        own = t;
        stand_in_thread = {t, 0, 0};
        stand_in_switch(&scheduler, fibers[t].at);
      }
  } while (release(threads, State::waits_for_warp) || release(threads, State::waits_for_block));
}

}  // namespace

void stand_in_block_barrier() { leave(State::waits_for_block); }
void stand_in_warp_barrier() { leave(State::waits_for_warp); }

extern "C" CUresult cuLaunchKernel(CUfunction function, unsigned blocks, unsigned y, unsigned z,
                                   unsigned threads, unsigned v, unsigned w, unsigned,
                                   CUstream stream, void** arguments, void** extra) {
  if (extra || y * z * v * w != 1) give_up("a launch of another kind than CuPy's own");
  using Launch = std::function<void()> (*)(void**, bool*);
  bool has_barriers;
  auto work = reinterpret_cast<Launch>(function)(arguments, &has_barriers);
  enqueue(stream, [=] {
    // without barriers any number of threads does the same, as kernels go round in strides
    unsigned some = has_barriers ? blocks : 1, each = has_barriers ? threads : 1;
    stand_in_grid_size = {some, 1, 1};
    stand_in_block_size = {each, 1, 1};
    for (unsigned b = 0; b < some; ++b) {
      stand_in_block = {b, 0, 0};
      run_block(work, each);
    }
  });
  return CUDA_SUCCESS;
}
