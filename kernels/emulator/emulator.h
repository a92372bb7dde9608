// Runs CUDA kernels on a CPU: every thread of a block is a fiber, and blocks run one after another.
//
// It stands in front of an unchanged kernel that is compiled as C++17. Barriers, shuffles and ballots switch fibers; those that cannot be
// passed (threads wait at different places, or for a lane that waits elsewhere) are errors of the launch. It shows what a kernel computes,
// not how fast, and no races but those that another order of threads brings to light (`reverse`).
//
// No header of the standard C++ library is included, because those take longer to compile than a kernel does.
#pragma once
#define __TESSERAL_EMULATED__ 1

#if defined(__APPLE__)
#define _XOPEN_SOURCE 700
#define _DARWIN_C_SOURCE
#endif
#include <sys/mman.h>
#if !defined(__ELF__) || (!defined(__x86_64__) && !defined(__aarch64__))
#define TESSERAL_UCONTEXT
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_unpoison_memory_region(void const volatile *, decltype(sizeof(0)));
#endif

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)
#define TESSERAL_SHARED(type, name) type *name = reinterpret_cast<type *>(tesseral_emulator::dynamic_shared)

typedef decltype(sizeof(0)) size_t;

struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Switches -----------------------------------------------------------------------------------------------------------------------------

namespace tesseral_emulator {

#if defined(TESSERAL_UCONTEXT)
typedef ucontext_t Context;
inline void switch_to(Context &from, Context &to) { swapcontext(&from, &to); }
inline void prepare(Context &context, char *stack, size_t size, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
#elif defined(__x86_64__)
// Keeps the registers that belong to the caller (System V) on its stack, the stack pointer in *from, and goes on where `to` was left.
extern "C" __attribute__((visibility("hidden"))) void tesseral_emulator_switch(void **from, void *to);
asm(".text\n"
    ".type tesseral_emulator_switch, @function\n"
    "tesseral_emulator_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    popq %rcx\n    jmp *%rcx\n" // not `ret`, which processors predict from calls
    ".size tesseral_emulator_switch, .-tesseral_emulator_switch\n");
typedef void *Context;
inline void switch_to(Context &from, Context &to) { tesseral_emulator_switch(&from, to); }
inline void prepare(Context &context, char *stack, size_t size, void (*entry)()) {
    void **top = reinterpret_cast<void **>(stack + size);
    *--top = nullptr; // where `entry` would return to; it never does. A call leaves the stack like this: 8 below a multiple of 16
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    context = top;
}
#else // aarch64
extern "C" __attribute__((visibility("hidden"))) void tesseral_emulator_switch(void **from, void *to);
asm(".text\n"
    ".type tesseral_emulator_switch, %function\n"
    "tesseral_emulator_switch:\n"
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp, #0]\n    stp x21, x22, [sp, #16]\n    stp x23, x24, [sp, #32]\n    stp x25, x26, [sp, #48]\n"
    "    stp x27, x28, [sp, #64]\n    stp x29, x30, [sp, #80]\n    stp d8, d9, [sp, #96]\n    stp d10, d11, [sp, #112]\n"
    "    stp d12, d13, [sp, #128]\n    stp d14, d15, [sp, #144]\n"
    "    mov x9, sp\n    str x9, [x0]\n    mov sp, x1\n"
    "    ldp x19, x20, [sp, #0]\n    ldp x21, x22, [sp, #16]\n    ldp x23, x24, [sp, #32]\n    ldp x25, x26, [sp, #48]\n"
    "    ldp x27, x28, [sp, #64]\n    ldp x29, x30, [sp, #80]\n    ldp d8, d9, [sp, #96]\n    ldp d10, d11, [sp, #112]\n"
    "    ldp d12, d13, [sp, #128]\n    ldp d14, d15, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    br x30\n"
    ".size tesseral_emulator_switch, .-tesseral_emulator_switch\n");
typedef void *Context;
inline void switch_to(Context &from, Context &to) { tesseral_emulator_switch(&from, to); }
inline void prepare(Context &context, char *stack, size_t size, void (*entry)()) {
    void **frame = reinterpret_cast<void **>(stack + size - 160);
    for (int i = 0; i < 20; i++)
        frame[i] = nullptr;
    frame[11] = reinterpret_cast<void *>(entry); // x30
    context = frame;
}
#endif

// Blocks -------------------------------------------------------------------------------------------------------------------------------

enum State : unsigned char { READY, AT_WARP, AT_BLOCK, RETURNED };

struct Fiber {
    Context context;
    State state;
    unsigned mask;  // of the warp operation it waits for
    unsigned place; // the line of the operation it waits at
    unsigned long long value; // what it offers to its warp
};

const unsigned LANES = 32, MOST_THREADS = 1024;
// No power of two, or the ends of all stacks would compete for the same lines of the cache.
#if defined(__SANITIZE_ADDRESS__)
const size_t STACK = 512 * 1024 + 5 * 64;
#else
const size_t STACK = 128 * 1024 + 5 * 64;
#endif
const unsigned long long CANARY = 0x7465737365726131ull;

// One launch at a time uses them: the caller holds a lock for each library.
static Fiber fibers[MOST_THREADS];
static unsigned long long offered[MOST_THREADS]; // values of the last operation of a warp
static unsigned taking_part[MOST_THREADS];       // its lanes that had not returned
static char *stacks;
static unsigned stack_count, current, threads;
static Context scheduler;
static void (*call)(const void *, void **);
static const void *function;
static void **arguments;
static const char *fault; // of the running thread
static char message[256];

static unsigned char *dynamic_shared;
static uint3 thread_index, block_index, block_size, grid_size;
static uint3 index_of[MOST_THREADS];

static void enter() {
    call(function, arguments);
    fibers[current].state = RETURNED;
    switch_to(fibers[current].context, scheduler);
    __builtin_trap();
}

// Not inlined, so that nothing is kept in a register which another thread changes.
__attribute__((noinline)) static void wait(State state, unsigned mask, unsigned place) {
    Fiber &fiber = fibers[current];
    fiber.state = state;
    fiber.mask = mask;
    fiber.place = place;
    switch_to(fiber.context, scheduler);
}

// Ends the launch with an error; the thread is not continued.
__attribute__((noinline)) static void fail(const char *what, unsigned place) {
    fault = what;
    fibers[current].place = place;
    switch_to(fibers[current].context, scheduler);
    __builtin_trap();
}

__attribute__((noinline)) static const char *report(const char *what, unsigned thread, unsigned place) {
    uint3 t = index_of[thread];
    __builtin_snprintf(message, sizeof message, "line %u: %s (thread %u,%u,%u of block %u,%u,%u)", place, what, t.x, t.y, t.z,
                       block_index.x, block_index.y, block_index.z);
    return message;
}

// Lets the lanes of a group go on, which all wait for the same operation.
static inline void let_go(unsigned first, unsigned group) {
    for (unsigned rest = group; rest; rest &= rest - 1) {
        const unsigned i = first + static_cast<unsigned>(__builtin_ctz(rest));
        offered[i] = fibers[i].value;
        taking_part[i] = group;
        fibers[i].state = READY;
    }
}

// Lets the lanes of the warp that starts at thread `first` go on whose operation is complete; false if there are none.
static bool release(unsigned first, unsigned lanes) {
    unsigned waiting = 0, living = 0;
    for (unsigned i = 0; i < lanes; i++) {
        waiting |= static_cast<unsigned>(fibers[first + i].state == AT_WARP) << i;
        living |= static_cast<unsigned>(fibers[first + i].state != RETURNED) << i;
    }
    bool any = false;
    while (waiting) {
        const Fiber &leader = fibers[first + static_cast<unsigned>(__builtin_ctz(waiting))];
        unsigned alike = 0; // lanes that wait for what the first of them waits for
        for (unsigned rest = waiting; rest; rest &= rest - 1) {
            const unsigned i = static_cast<unsigned>(__builtin_ctz(rest));
            const bool same = fibers[first + i].mask == leader.mask && fibers[first + i].place == leader.place;
            alike |= static_cast<unsigned>(same) << i;
        }
        if (alike == (leader.mask & living)) {
            let_go(first, alike);
            any = true;
        }
        waiting &= ~alike;
    }
    return any;
}

static const char *run_block(bool reverse) {
    for (unsigned i = 0; i < threads; i++) {
        prepare(fibers[i].context, stacks + i * STACK, STACK, enter);
        fibers[i].state = READY;
    }
    const unsigned warps = (threads + LANES - 1) / LANES;
    for (;;) {
        for (unsigned w = 0; w < warps; w++) {
            const unsigned first = (reverse ? warps - 1 - w : w) * LANES;
            const unsigned lanes = threads - first < LANES ? threads - first : LANES;
            do {
                for (unsigned i = 0; i < lanes; i++) {
                    current = first + (reverse ? lanes - 1 - i : i);
                    if (fibers[current].state != READY)
                        continue;
                    thread_index = index_of[current];
                    switch_to(scheduler, fibers[current].context);
                    if (fault)
                        return report(fault, current, fibers[current].place);
                }
            } while (release(first, lanes));
        }
        unsigned living = 0, at_block = 0, one = 0;
        for (unsigned i = 0; i < threads; i++) {
            living += fibers[i].state != RETURNED;
            if (fibers[i].state == AT_BLOCK) {
                at_block++;
                one = i;
            }
        }
        if (living == 0)
            break;
        for (unsigned i = 0; i < threads; i++) {
            if (fibers[i].state == AT_WARP)
                return report("lanes of a warp never meet here, at an operation of the warp", i, fibers[i].place);
            if (fibers[i].state == AT_BLOCK && fibers[i].place != fibers[one].place)
                return report("threads wait at different barriers of the block", i, fibers[i].place);
        }
        for (unsigned i = 0; i < threads; i++)
            if (fibers[i].state == AT_BLOCK)
                fibers[i].state = READY;
    }
    return nullptr;
}

static const char *run(void (*how)(const void *, void **), const void *what, const unsigned *grid, const unsigned *block, unsigned shared,
                       bool reverse, void **args) {
    block_size = {block[0], block[1], block[2]};
    grid_size = {grid[0], grid[1], grid[2]};
    threads = block[0] * block[1] * block[2];
    if (threads == 0 || threads > MOST_THREADS)
        return "a block has 1 to 1024 threads";
    if (threads > stack_count) {
        if (stacks)
            munmap(stacks, stack_count * STACK);
        stack_count = 0;
        void *memory = mmap(nullptr, threads * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        stacks = memory == MAP_FAILED ? nullptr : static_cast<char *>(memory);
        if (!stacks)
            return "no memory for the stacks of emulated threads";
        stack_count = threads;
    }
    for (unsigned i = 0; i < threads; i++)
        index_of[i] = {i % block[0], i / block[0] % block[1], i / (block[0] * block[1])};
    for (unsigned i = 0; i < threads; i++)
        *reinterpret_cast<unsigned long long *>(stacks + i * STACK) = CANARY;
    call = how;
    function = what;
    arguments = args;
    fault = nullptr;
    // Of its exact size, so that the sanitizer sees what lies beyond.
    dynamic_shared = shared ? static_cast<unsigned char *>(__builtin_malloc(shared)) : nullptr;
    const char *error = shared && !dynamic_shared ? "no memory for shared memory" : nullptr;
    const size_t blocks = static_cast<size_t>(grid[0]) * grid[1] * grid[2];
    for (size_t b = 0; b < blocks && !error; b++) {
        const size_t i = reverse ? blocks - 1 - b : b;
        block_index = {static_cast<unsigned>(i % grid[0]), static_cast<unsigned>(i / grid[0] % grid[1]),
                       static_cast<unsigned>(i / grid[0] / grid[1])};
        // Not-a-numbers: whoever reads what no thread has written will notice.
        if (shared)
            __builtin_memset(dynamic_shared, 0xff, shared);
        error = run_block(reverse);
    }
    for (unsigned i = 0; i < threads && !error; i++)
        if (*reinterpret_cast<unsigned long long *>(stacks + i * STACK) != CANARY)
            error = report("the stack of an emulated thread is too small for its local arrays", i, 0);
    __builtin_free(dynamic_shared);
    dynamic_shared = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    if (error)
        __asan_unpoison_memory_region(stacks, stack_count * STACK);
#endif
    return error;
}

// Calls --------------------------------------------------------------------------------------------------------------------------------

template <unsigned... I> struct Indices {};
template <unsigned N, unsigned... I> struct Count : Count<N - 1, N - 1, I...> {};
template <unsigned... I> struct Count<0, I...> {
    typedef Indices<I...> All;
};

template <class T> struct Code {
    static const char value = '?';
};
template <> struct Code<float> {
    static const char value = 'f';
};
template <> struct Code<double> {
    static const char value = 'd';
};
template <> struct Code<unsigned> {
    static const char value = 'u';
};
template <> struct Code<int> {
    static const char value = 'i';
};
template <> struct Code<short> {
    static const char value = 's';
};
template <> struct Code<unsigned char> {
    static const char value = 'b';
};
template <class T> struct Parameter {
    static const char kind = 'v', code = Code<T>::value;
};
template <class T> struct Parameter<T *> {
    static const char kind = 'm', code = Code<T>::value;
};
template <class T> struct Parameter<const T *> {
    static const char kind = 'c', code = Code<T>::value;
};

template <class... P, unsigned... I> inline void apply(void (*kernel)(P...), void **args, Indices<I...>) {
    kernel(*static_cast<P *>(args[I])...);
}
template <class... P> void invoke(const void *kernel, void **args) {
    apply(*static_cast<void (*const *)(P...)>(kernel), args, typename Count<sizeof...(P)>::All());
}
template <class... P>
const char *launch(void (*kernel)(P...), const unsigned *grid, const unsigned *block, unsigned shared, bool reverse, void **args) {
    return run(invoke<P...>, &kernel, grid, block, shared, reverse, args);
}
// Two characters for each parameter: v(alue), c(onst pointer) or m(utable pointer), and the type.
template <class... P> const char *signature(void (*)(P...)) {
    static const char text[] = {'(', Parameter<P>::kind..., ')', Parameter<P>::code..., '\0'};
    return text;
}

// Operations of a warp -----------------------------------------------------------------------------------------------------------------

inline unsigned lane() { return current % LANES; }

inline void meet(unsigned place, unsigned mask) {
    if (!(mask >> lane() & 1))
        fail("a lane is not in the mask of the operation it takes part in", place);
    wait(AT_WARP, mask, place);
}

template <class T> T exchange(unsigned place, unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= sizeof(unsigned long long), "shuffles move up to 8 bytes");
    __builtin_memcpy(&fibers[current].value, &value, sizeof value);
    meet(place, mask);
    if (!(taking_part[current] >> source & 1))
        fail("a shuffle reads from a lane that takes no part", place);
    T result;
    __builtin_memcpy(&result, &offered[current / LANES * LANES + source], sizeof result);
    return result;
}
template <class T> T shuffle(unsigned place, unsigned mask, T value, int source, int width = 32) {
    unsigned w = static_cast<unsigned>(width);
    return exchange(place, mask, value, lane() / w * w + static_cast<unsigned>(source) % w);
}
template <class T> T shuffle_xor(unsigned place, unsigned mask, T value, int bits, int width = 32) {
    unsigned w = static_cast<unsigned>(width), source = lane() ^ static_cast<unsigned>(bits);
    return exchange(place, mask, value, source < (lane() / w + 1) * w ? source : lane());
}
template <class T> T shuffle_down(unsigned place, unsigned mask, T value, unsigned distance, int width = 32) {
    unsigned w = static_cast<unsigned>(width);
    return exchange(place, mask, value, lane() % w + distance < w ? lane() + distance : lane());
}
template <class T> T shuffle_up(unsigned place, unsigned mask, T value, unsigned distance, int width = 32) {
    unsigned w = static_cast<unsigned>(width);
    return exchange(place, mask, value, lane() % w >= distance ? lane() - distance : lane());
}
inline unsigned ballot(unsigned place, unsigned mask, int predicate) {
    fibers[current].value = predicate != 0;
    meet(place, mask);
    unsigned result = 0;
    for (unsigned i = 0; i < LANES; i++)
        if (taking_part[current] >> i & 1)
            result |= static_cast<unsigned>(offered[current / LANES * LANES + i]) << i;
    return result;
}
struct SyncWarp {
    unsigned place;
    void operator()(unsigned mask = 0xffffffffu) const { meet(place, mask); }
};

} // namespace tesseral_emulator

#define threadIdx tesseral_emulator::thread_index
#define blockIdx tesseral_emulator::block_index
#define blockDim tesseral_emulator::block_size
#define gridDim tesseral_emulator::grid_size
#define warpSize 32

#define __syncthreads() tesseral_emulator::wait(tesseral_emulator::AT_BLOCK, 0, __LINE__)
#define __syncwarp(...) tesseral_emulator::SyncWarp{__LINE__}(__VA_ARGS__)
#define __shfl_sync(...) tesseral_emulator::shuffle(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) tesseral_emulator::shuffle_xor(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) tesseral_emulator::shuffle_down(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) tesseral_emulator::shuffle_up(__LINE__, __VA_ARGS__)
#define __ballot_sync(...) tesseral_emulator::ballot(__LINE__, __VA_ARGS__)
#define __any_sync(mask, predicate) (tesseral_emulator::ballot(__LINE__, mask, predicate) != 0)

template <class T> inline T __ldg(const T *pointer) { return *pointer; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }

// Whole numbers only: sums of floating-point numbers would depend on the order of threads.
#define TESSERAL_ATOMIC(type)                                                                                                              \
    inline type atomicAdd(type *p, type v) {                                                                                               \
        type old = *p;                                                                                                                     \
        *p = old + v;                                                                                                                      \
        return old;                                                                                                                        \
    }                                                                                                                                      \
    inline type atomicMax(type *p, type v) {                                                                                               \
        type old = *p;                                                                                                                     \
        *p = old > v ? old : v;                                                                                                            \
        return old;                                                                                                                        \
    }                                                                                                                                      \
    inline type atomicMin(type *p, type v) {                                                                                               \
        type old = *p;                                                                                                                     \
        *p = old < v ? old : v;                                                                                                            \
        return old;                                                                                                                        \
    }                                                                                                                                      \
    inline type atomicOr(type *p, type v) {                                                                                                \
        type old = *p;                                                                                                                     \
        *p = old | v;                                                                                                                      \
        return old;                                                                                                                        \
    }                                                                                                                                      \
    inline type atomicExch(type *p, type v) {                                                                                              \
        type old = *p;                                                                                                                     \
        *p = v;                                                                                                                            \
        return old;                                                                                                                        \
    }
TESSERAL_ATOMIC(int)
TESSERAL_ATOMIC(unsigned)
TESSERAL_ATOMIC(unsigned long long)

// Mathematics: the overloads that CUDA has --------------------------------------------------------------------------------------------

#define TESSERAL_UNARY(name)                                                                                                               \
    extern "C" double name(double) noexcept;                                                                                               \
    extern "C" float name##f(float) noexcept;                                                                                              \
    inline float name(float x) { return name##f(x); }
#define TESSERAL_BINARY(name)                                                                                                              \
    extern "C" double name(double, double) noexcept;                                                                                       \
    extern "C" float name##f(float, float) noexcept;                                                                                       \
    inline float name(float x, float y) { return name##f(x, y); }
TESSERAL_UNARY(sqrt)
TESSERAL_UNARY(cbrt)
TESSERAL_UNARY(exp)
TESSERAL_UNARY(exp2)
TESSERAL_UNARY(expm1)
TESSERAL_UNARY(log)
TESSERAL_UNARY(log2)
TESSERAL_UNARY(log10)
TESSERAL_UNARY(log1p)
TESSERAL_UNARY(sin)
TESSERAL_UNARY(cos)
TESSERAL_UNARY(tan)
TESSERAL_UNARY(acos)
TESSERAL_UNARY(asin)
TESSERAL_UNARY(atan)
TESSERAL_UNARY(sinh)
TESSERAL_UNARY(cosh)
TESSERAL_UNARY(tanh)
TESSERAL_UNARY(erf)
TESSERAL_UNARY(erfc)
TESSERAL_UNARY(floor)
TESSERAL_UNARY(ceil)
TESSERAL_UNARY(trunc)
TESSERAL_UNARY(round)
TESSERAL_UNARY(rint)
TESSERAL_UNARY(fabs)
TESSERAL_BINARY(pow)
TESSERAL_BINARY(fmod)
TESSERAL_BINARY(fmin)
TESSERAL_BINARY(fmax)
TESSERAL_BINARY(atan2)
TESSERAL_BINARY(hypot)
TESSERAL_BINARY(copysign)
extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline void sincos(double x, double *s, double *c) {
    *s = sin(x);
    *c = cos(x);
}
inline void sincosf(float x, float *s, float *c) {
    *s = sinf(x);
    *c = cosf(x);
}
inline void sincos(float x, float *s, float *c) { sincosf(x, s, c); }
#define isfinite(x) __builtin_isfinite(x)
#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf(x)

#define TESSERAL_ORDERED(type)                                                                                                             \
    inline type min(type a, type b) { return a < b ? a : b; }                                                                              \
    inline type max(type a, type b) { return a > b ? a : b; }
TESSERAL_ORDERED(int)
TESSERAL_ORDERED(unsigned)
TESSERAL_ORDERED(long long)
TESSERAL_ORDERED(unsigned long)
TESSERAL_ORDERED(unsigned long long)
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline int abs(int x) { return x < 0 ? -x : x; }
inline float abs(float x) { return fabsf(x); }
inline double abs(double x) { return fabs(x); }

// How the host finds a kernel.
#define TESSERAL_EMULATED(name)                                                                                                            \
    extern "C" __attribute__((visibility("default"))) const char *tesseral_emulated_##name(                                                \
        const unsigned *grid, const unsigned *block, unsigned shared, unsigned reverse, void **args) {                                     \
        return tesseral_emulator::launch(name, grid, block, shared, reverse != 0, args);                                                   \
    }                                                                                                                                      \
    extern "C" __attribute__((visibility("default"))) const char *tesseral_signature_##name() { return tesseral_emulator::signature(name); }
