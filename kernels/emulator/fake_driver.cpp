// A CUDA driver and an NVRTC without a GPU, to test what the host does: memory of the "device" is memory of this process, and kernels run in the
// emulator. One library stands for both. Compiled with -DEMULATOR='"path of emulator.h"'.
//
// It is stricter than a driver: calls without a current context fail; work on a stream is done when somebody waits for it, and not before; what
// is still there when the context is released ends the program. `TESSERAL_FAKE` makes something fail:
//
//   no_device, old_driver (11.8), old_gpu (compute capability 7.5), no_pool (no allocation on streams), launch (kernels fail),
//   image (code does not load), memory=BYTES (of the device)
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

enum {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

typedef unsigned long long Address;
typedef std::vector<std::function<void()>> Work;
typedef const char *(*Entry)(const unsigned *, const unsigned *, unsigned, unsigned, void **);

struct Module {
    void *library;
};
struct Kernel {
    std::string name;
    Entry entry;
    size_t parameters;
    unsigned dynamic_shared = 48 * 1024; // that it may have
};
struct Stream {
    Work work;
};
struct Graph {
    Work work;
};

// Owned by the library; the order is that of construction and so never a problem.
static std::recursive_mutex mutex;
static bool initialized, capturing, invalidated;
static int retained, lost; // the error that every call returns after a kernel failed
static Graph captured;
static std::map<Address, size_t> allocations;
static size_t allocated;
static int modules, streams, graphs, executables;
static std::map<Kernel *, Module *> kernels;
static thread_local void *current;

#define GUARD std::lock_guard<std::recursive_mutex> guard(mutex)
#define CONTEXT                                                                                                                            \
    GUARD;                                                                                                                                 \
    if (!initialized)                                                                                                                      \
        return NOT_INITIALIZED;                                                                                                            \
    if (!current || !retained)                                                                                                             \
        return INVALID_CONTEXT;                                                                                                            \
    if (lost)                                                                                                                              \
        return lost

static const char *fake() {
    const char *what = getenv("TESSERAL_FAKE");
    return what ? what : "";
}
static bool is(const char *what) { return strcmp(fake(), what) == 0; }
static size_t total() { return strncmp(fake(), "memory=", 7) ? size_t(4) << 30 : strtoull(fake() + 7, nullptr, 10); }

// Context ------------------------------------------------------------------------------------------------------------------------------

API cuInit(unsigned) {
    if (is("no_device"))
        return NO_DEVICE;
    initialized = true;
    return OK;
}
API cuDriverGetVersion(int *version) {
    *version = is("old_driver") ? 11080 : 13000;
    return OK;
}
API cuDeviceGetCount(int *count) {
    *count = 1;
    return initialized ? OK : NOT_INITIALIZED;
}
API cuDeviceGet(int *device, int ordinal) {
    *device = 7;
    return ordinal == 0 ? OK : INVALID_DEVICE;
}
API cuDeviceGetName(char *name, int length, int) {
    snprintf(name, size_t(length), "Fake GPU");
    return OK;
}
API cuDeviceTotalMem_v2(size_t *bytes, int) {
    *bytes = total();
    return OK;
}
API cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (device != 7)
        return INVALID_DEVICE;
    switch (attribute) {
    case 16: *value = 4; return OK;                        // multiprocessors
    case 75: *value = is("old_gpu") ? 7 : 8; return OK;    // compute capability
    case 76: *value = is("old_gpu") ? 5 : 0; return OK;
    case 97: *value = 163 * 1024; return OK;               // shared memory that a block may ask for
    case 115: *value = !is("no_pool"); return OK;          // memory pools
    default: return INVALID_VALUE;
    }
}
API cuDevicePrimaryCtxRetain(void **context, int) {
    GUARD;
    retained++;
    *context = &retained;
    return OK;
}
API cuDevicePrimaryCtxRelease_v2(int) {
    GUARD;
    if (--retained == 0 && !lost && (!allocations.empty() || modules || streams || graphs || executables)) {
        fprintf(stderr, "fake driver: left behind: %zu allocations, %d modules, %d streams, %d graphs, %d executable graphs\n",
                allocations.size(), modules, streams, graphs, executables);
        abort();
    }
    return OK;
}
API cuCtxSetCurrent(void *context) {
    current = context;
    return OK;
}
API cuGetErrorName(int, const char **name) {
    *name = "CUDA_ERROR_OF_THE_FAKE_DRIVER";
    return OK;
}
API cuGetErrorString(int error, const char **text) {
    static thread_local char buffer[64];
    snprintf(buffer, sizeof buffer, "error %d of the fake driver", error);
    *text = buffer;
    return OK;
}

// Streams ------------------------------------------------------------------------------------------------------------------------------

static int queue(Stream *stream, std::function<void()> work) {
    if (!stream)
        return INVALID_VALUE;
    (capturing ? captured.work : stream->work).push_back(std::move(work));
    return OK;
}
static int refuse() {
    invalidated = true;
    return CAPTURE_UNSUPPORTED;
}

API cuStreamCreate(Stream **stream, unsigned) {
    CONTEXT;
    streams++;
    *stream = new Stream;
    return OK;
}
API cuStreamSynchronize(Stream *stream) {
    CONTEXT;
    if (capturing)
        return refuse();
    Work work;
    work.swap(stream->work);
    for (auto &step : work)
        if (!lost)
            step();
    return lost;
}
API cuStreamDestroy_v2(Stream *stream) {
    GUARD;
    streams--;
    delete stream;
    return OK;
}
API cuStreamBeginCapture_v2(Stream *, int) {
    CONTEXT;
    if (capturing)
        return refuse();
    capturing = true;
    invalidated = false;
    captured.work.clear();
    return OK;
}
API cuStreamEndCapture(Stream *, Graph **graph) {
    CONTEXT;
    capturing = false;
    *graph = nullptr;
    if (invalidated)
        return CAPTURE_INVALIDATED;
    graphs++;
    *graph = new Graph(captured);
    captured.work.clear();
    return OK;
}
API cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long) {
    CONTEXT;
    executables++;
    *executable = new Graph(*graph);
    return OK;
}
API cuGraphDestroy(Graph *graph) {
    GUARD;
    graphs--;
    delete graph;
    return OK;
}
API cuGraphExecDestroy(Graph *graph) {
    GUARD;
    executables--;
    delete graph;
    return OK;
}
API cuGraphLaunch(Graph *graph, Stream *stream) {
    CONTEXT;
    for (auto &step : graph->work)
        if (int error = queue(stream, step))
            return error;
    return OK;
}

// Memory -------------------------------------------------------------------------------------------------------------------------------

static bool within(Address address, size_t length) {
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin())
        return false;
    --next;
    return address + length <= next->first + next->second;
}

API cuMemAlloc_v2(Address *address, size_t length) {
    CONTEXT;
    if (capturing)
        return refuse();
    if (length == 0)
        return INVALID_VALUE;
    if (length > total() - allocated)
        return OUT_OF_MEMORY;
    void *memory = malloc(length);
    memset(memory, 0xa5, length);
    *address = reinterpret_cast<Address>(memory);
    allocations[*address] = length;
    allocated += length;
    return OK;
}
API cuMemFree_v2(Address address) {
    CONTEXT;
    if (capturing)
        return refuse();
    auto found = allocations.find(address);
    if (found == allocations.end())
        return INVALID_VALUE;
    allocated -= found->second;
    allocations.erase(found);
    free(reinterpret_cast<void *>(address));
    return OK;
}
API cuMemAllocAsync(Address *address, size_t length, Stream *) { return is("no_pool") ? int(INVALID_VALUE) : cuMemAlloc_v2(address, length); }
API cuMemFreeAsync(Address address, Stream *stream) {
    CONTEXT;
    if (capturing || !allocations.count(address))
        return refuse();
    return queue(stream, [address] { cuMemFree_v2(address); });
}
API cuMemGetInfo_v2(size_t *free, size_t *all) {
    CONTEXT;
    *free = total() - allocated;
    *all = total();
    return OK;
}
API cuDeviceGetDefaultMemPool(void **pool, int) {
    *pool = &allocations;
    return OK;
}
API cuMemPoolSetAttribute(void *pool, int attribute, void *) { return pool == &allocations && attribute == 4 ? OK : INVALID_VALUE; }
API cuMemPoolGetAttribute(void *pool, int attribute, void *value) {
    unsigned long long bytes = 0;
    memcpy(value, &bytes, sizeof bytes);
    return pool == &allocations && (attribute == 5 || attribute == 7) ? OK : INVALID_VALUE;
}
API cuMemPoolTrimTo(void *pool, size_t) { return pool == &allocations ? OK : INVALID_VALUE; }
API cuMemsetD8Async(Address address, unsigned char value, size_t length, Stream *stream) {
    CONTEXT;
    if (!within(address, length))
        return INVALID_VALUE;
    return queue(stream, [=] { memset(reinterpret_cast<void *>(address), value, length); });
}
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t length, Stream *stream) {
    CONTEXT;
    if (!within(to, length) || !within(from, length))
        return INVALID_VALUE;
    return queue(stream, [=] { memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), length); });
}
API cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t length, Stream *stream) {
    CONTEXT;
    if (capturing)
        return refuse();
    if (!within(to, length))
        return INVALID_VALUE;
    return queue(stream, [=] { memcpy(reinterpret_cast<void *>(to), from, length); });
}
API cuMemcpyDtoHAsync_v2(void *to, Address from, size_t length, Stream *stream) {
    CONTEXT;
    if (capturing)
        return refuse();
    if (!within(from, length))
        return INVALID_VALUE;
    return queue(stream, [=] { memcpy(to, reinterpret_cast<void *>(from), length); });
}

// Kernels ------------------------------------------------------------------------------------------------------------------------------

// What the fake NVRTC makes: a mark, a length, and a library.
static const char MARK[] = "FAKE CUBIN";

API cuModuleLoadData(Module **module, const void *image) {
    CONTEXT;
    const char *bytes = static_cast<const char *>(image);
    if (is("image") || memcmp(bytes, MARK, sizeof MARK))
        return INVALID_IMAGE;
    unsigned long long length;
    memcpy(&length, bytes + sizeof MARK, sizeof length);
    char path[] = "/tmp/tesseral-fake-XXXXXX";
    int file = mkstemp(path);
    bool written = file >= 0 && write(file, bytes + sizeof MARK + sizeof length, length) == static_cast<ssize_t>(length);
    close(file);
    void *library = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
    unlink(path);
    if (!library)
        return INVALID_IMAGE;
    modules++;
    *module = new Module{library};
    return OK;
}
API cuModuleUnload(Module *module) {
    GUARD;
    for (auto i = kernels.begin(); i != kernels.end();)
        if (i->second == module) {
            delete i->first;
            i = kernels.erase(i);
        } else {
            ++i;
        }
    dlclose(module->library);
    modules--;
    delete module;
    return OK;
}
API cuModuleGetFunction(Kernel **kernel, Module *module, const char *name) {
    CONTEXT;
    void *entry = dlsym(module->library, (std::string("tesseral_emulated_") + name).c_str());
    void *signature = dlsym(module->library, (std::string("tesseral_signature_") + name).c_str());
    if (!entry || !signature)
        return NOT_FOUND;
    size_t length = strlen(reinterpret_cast<const char *(*)()>(signature)());
    *kernel = new Kernel{name, reinterpret_cast<Entry>(entry), (length - 2) / 2};
    kernels[*kernel] = module;
    return OK;
}
API cuFuncGetAttribute(int *value, int attribute, Kernel *) {
    *value = attribute == 0 ? 1024 : 0;
    return attribute == 0 || attribute == 1 ? OK : INVALID_VALUE;
}
API cuFuncSetAttribute(Kernel *kernel, int attribute, int value) {
    kernel->dynamic_shared = unsigned(value);
    return attribute == 8 && value <= 163 * 1024 ? OK : INVALID_VALUE;
}
API cuLaunchKernel(Kernel *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Stream *stream,
                   void **args, void **) {
    CONTEXT;
    if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024 || shared > kernel->dynamic_shared)
        return INVALID_VALUE;
    std::vector<unsigned long long> words(kernel->parameters); // the host passes whole words
    for (size_t i = 0; i < words.size(); i++)
        memcpy(&words[i], args[i], sizeof words[i]);
    Entry entry = kernel->entry;
    return queue(stream, [=]() mutable {
        const unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
        std::vector<void *> pointers;
        for (auto &word : words)
            pointers.push_back(&word);
        const char *error = is("launch") ? "asked to fail" : entry(grid, block, shared, 0, pointers.data());
        if (error) {
            fprintf(stderr, "fake driver: %s\n", error);
            lost = LAUNCH_FAILED;
        }
    });
}

// NVRTC --------------------------------------------------------------------------------------------------------------------------------

struct Translation {
    std::string unit, name, log, output;
};

API nvrtcVersion(int *major, int *minor) {
    *major = 13;
    *minor = 255; // of no other NVRTC: cached code of the one is never that of the other
    return 0;
}
extern "C" __attribute__((visibility("default"))) const char *nvrtcGetErrorString(int) { return "error of the fake NVRTC"; }
API nvrtcGetNumSupportedArchs(int *count) {
    *count = 2;
    return 0;
}
API nvrtcGetSupportedArchs(int *known) {
    known[0] = 80;
    known[1] = 90;
    return 0;
}
API nvrtcCreateProgram(Translation **program, const char *unit, const char *name, int, const char *const *, const char *const *) {
    *program = new Translation{unit, name, "", ""};
    return 0;
}
API nvrtcDestroyProgram(Translation **program) {
    delete *program;
    return 0;
}

static std::string contents(const std::string &path) {
    std::string text;
    if (FILE *file = fopen(path.c_str(), "rb")) {
        char part[4096];
        while (size_t length = fread(part, 1, sizeof part, file))
            text.append(part, length);
        fclose(file);
    }
    return text;
}

// Names of the kernels of a preprocessed unit, which leaves out those that its constants do: what stands, at the start of a line, after `extern "C" __global__ void __launch_bounds__(…)`.
static std::vector<std::string> names_of(const std::string &unit) {
    std::vector<std::string> names;
    const std::string start = "\nextern \"C\" __global__ void";
    for (size_t at = unit.find(start); at != std::string::npos; at = unit.find(start, at)) {
        at += start.size();
        auto skip = [&] { at = unit.find_first_not_of(" \n", at); };
        skip();
        if (unit.compare(at, 17, "__launch_bounds__") == 0) {
            int depth = 0;
            for (at += 17; depth += (unit[at] == '(') - (unit[at] == ')'), depth; at++)
                ;
            at++;
            skip();
        }
        names.push_back(unit.substr(at, unit.find('(', at) - at));
    }
    return names;
}

API nvrtcCompileProgram(Translation *program, int count, const char *const *options) {
    bool architecture = false;
    for (int i = 0; i < count; i++)
        architecture = architecture || strcmp(options[i], "--gpu-architecture=sm_80") == 0;
    if (!architecture)
        return 5;
    char folder[] = "/tmp/tesseral-fake-XXXXXX";
    if (!mkdtemp(folder))
        return 1;
    const std::string base = folder, input = base + "/unit.cpp", output = base + "/unit.so", log = base + "/log", plain = base + "/plain";
    const char *given = getenv("CXX");
    const std::string cxx = given && *given ? given : "c++";
    if (FILE *file = fopen(input.c_str(), "wb")) {
        fwrite(program->unit.data(), 1, program->unit.size(), file);
        fputc('\n', file);
        fclose(file);
    }
    if (system((cxx + " -std=c++17 -E -P " + input + " -o " + plain + " >" + log + " 2>&1").c_str()) == 0) {
        if (FILE *file = fopen(input.c_str(), "ab")) {
            for (auto &name : names_of("\n" + contents(plain)))
                fprintf(file, "TESSERAL_EMULATED(%s)\n", name.c_str());
            fclose(file);
        }
    }
    std::string command = cxx + " -std=c++17 -O2 -ffp-contract=off -shared -fPIC -fvisibility=hidden -include " EMULATOR " " +
                          input + " -o " + output + " >" + log + " 2>&1";
    int code = system(command.c_str());
    program->log = contents(log);
    std::string library = contents(output);
    for (auto &path : {input, output, log, plain})
        unlink(path.c_str());
    rmdir(folder);
    if (code != 0 || library.empty())
        return 6;
    unsigned long long length = library.size();
    program->output.assign(MARK, sizeof MARK);
    program->output.append(reinterpret_cast<char *>(&length), sizeof length);
    program->output += library;
    return 0;
}
API nvrtcGetProgramLogSize(Translation *program, size_t *size) {
    *size = program->log.size() + 1;
    return 0;
}
API nvrtcGetProgramLog(Translation *program, char *log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return 0;
}
API nvrtcGetCUBINSize(Translation *program, size_t *size) {
    *size = program->output.size();
    return 0;
}
API nvrtcGetCUBIN(Translation *program, char *output) {
    memcpy(output, program->output.data(), program->output.size());
    return 0;
}
API nvrtcGetPTXSize(Translation *, size_t *size) {
    *size = 0;
    return 7;
}
API nvrtcGetPTX(Translation *, char *) { return 7; }
