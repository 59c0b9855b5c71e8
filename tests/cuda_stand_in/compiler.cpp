// NVRTC: CUDA's own says whether a source can be compiled, g++ makes of it what is run.
#include "queues.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Program {
  std::string source, path, log;
};

std::string folder() {
  const char* given = getenv("CUDA_STAND_IN");
  if (!given) give_up("CUDA_STAND_IN is not set to the folder where it was built");
  return given;
}

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

template <class F>
F real(const char* name) {
  static void* nvrtc = [] {
    void* loaded = dlopen((folder() + "/nvrtc/nvidia/cu13/lib/libnvrtc.so.13").c_str(), RTLD_NOW);
    if (!loaded) give_up("%s", dlerror());
    return loaded;
  }();
  return reinterpret_cast<F>(dlsym(nvrtc, name));
}

int compile_for(const char* gpu, const Program& program, const std::vector<std::string>& options,
                std::string& log) {
  void* made = nullptr;
  using Create = int (*)(void**, const char*, const char*, int, const char**, const char**);
  real<Create>("nvrtcCreateProgram")(&made, program.source.c_str(), "kernel.cu", 0, nullptr,
                                     nullptr);
  std::string architecture = std::string("--gpu-architecture=") + gpu;
  std::vector<const char*> given{architecture.c_str()};
  for (auto& option : options)
    if (option.find("-arch") == std::string::npos) given.push_back(option.c_str());
  int status = real<int (*)(void*, int, const char* const*)>("nvrtcCompileProgram")(
      made, given.size(), given.data());
  size_t size = 0;
  real<int (*)(void*, size_t*)>("nvrtcGetProgramLogSize")(made, &size);
  log.resize(size);
  real<int (*)(void*, char*)>("nvrtcGetProgramLog")(made, log.data());
  real<int (*)(void**)>("nvrtcDestroyProgram")(&made);
  return status;
}

std::string host_source(const std::string& source) {
  std::regex kernel(R"(__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\()");
  std::set<std::string> names;
  for (std::sregex_iterator next(source.begin(), source.end(), kernel), end; next != end; ++next)
    names.insert((*next)[1]);
  bool has_barriers = std::regex_search(source, std::regex("__syncthreads|__syncwarp|__shfl"));
  std::string text = "#include <device_side.h>\n" + source + "\n";
  for (auto& name : names)
    text += "extern \"C\" std::function<void()> stand_in_launch_" + name +
            "(void** given, bool* has_barriers) { *has_barriers = " +
            (has_barriers ? "true" : "false") + "; return stand_in_launch(&" + name +
            ", given); }\n";
  return text;
}

int compile_here(Program& program, const std::vector<std::string>& options) {
  std::string flags;
  for (auto& option : options)
    if (option.rfind("-I", 0) == 0 || option.rfind("-D", 0) == 0) flags += " '" + option + "'";
  std::string text = host_source(program.source);
  std::string stem =
      folder() + "/cache/" + std::to_string(std::hash<std::string>()(text + flags));
  program.path = stem + ".so";
  if (access(program.path.c_str(), F_OK) == 0) return 0;
  std::string own = stem + "." + std::to_string(getpid());
  std::ofstream(own + ".cpp") << text;
  std::string command = "g++ -std=c++17 -O1 -w -fPIC -shared -ffp-contract=off -I" + folder() +
                        "/toolkit/include" + flags + " " + own + ".cpp -o " + own + ".so 2> " + own +
                        ".log && mv " + own + ".so " + program.path;
  int status = system(command.c_str());
  program.log = text_of(own + ".log");
  return status ? 6 : 0;
}

}  // namespace

extern "C" {

const char* nvrtcGetErrorString(int) { return "NVRTC_ERROR_COMPILATION"; }
int nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0; }
int nvrtcGetNumSupportedArchs(int* count) { return *count = 1, 0; }
int nvrtcGetSupportedArchs(int* found) { return *found = 90, 0; }
int nvrtcCreateProgram(Program** made, const char* source, const char*, int headers, const char**,
                       const char**) {
  if (headers) give_up("headers that are given as texts");
  *made = new Program{source, "", ""};
  return 0;
}
int nvrtcDestroyProgram(Program** program) {
  delete *program;
  return 0;
}
int nvrtcCompileProgram(Program* program, int count, const char* const* given) {
  static std::mutex one;
  std::lock_guard<std::mutex> alone(one);
  std::vector<std::string> options(given, given + count);
  for (const char* gpu : {"compute_75", "compute_100"})
    if (int status = compile_for(gpu, *program, options, program->log)) return status;
  return compile_here(*program, options);
}
static int put(const std::string& text, char* place) { return strcpy(place, text.c_str()), 0; }
int nvrtcGetPTXSize(Program* program, size_t* size) { return *size = program->path.size() + 1, 0; }
int nvrtcGetPTX(Program* program, char* place) { return put(program->path, place); }
int nvrtcGetCUBINSize(Program* program, size_t* size) { return nvrtcGetPTXSize(program, size); }
int nvrtcGetCUBIN(Program* program, char* place) { return put(program->path, place); }
int nvrtcGetProgramLogSize(Program* program, size_t* size) {
  return *size = program->log.size() + 1, 0;
}
int nvrtcGetProgramLog(Program* program, char* place) { return put(program->log, place); }

}  // extern "C"
