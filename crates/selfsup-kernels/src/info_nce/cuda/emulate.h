// A block of threads on a CPU, for the tests: `ptx.cuh`'s functions and what CUDA C++ adds to C++.
//
// Each thread is a fibre that runs up to its next barrier or warp-wide instruction; there the 32 lanes' operands are
// gathered, the instruction is worked out as the PTX ISA describes it, and its results are scattered. Warps and blocks
// run in an order drawn from a seed. Copies to shared memory that are under way land when they are waited for,
// shared memory begins as NaN, a lane that is missing at a warp-wide instruction is an error, and so is a copy
// or a matrix row that is not aligned or outside of its memory.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// One block runs at a time, so that a block's memory may be the program's.
#define __shared__ static

struct uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};

namespace emulate {

struct Dim {
    unsigned x = 1, y = 1, z = 1;
};
struct Copy {
    void *to;
    const void *from;
};
enum class Wait { None, Warp, Block, Done };

struct Thread {
    ucontext_t context;
    jmp_buf point;
    bool entered;
    std::unique_ptr<unsigned char[]> stack;
    Dim index;
    Wait wait = Wait::None;
    int instruction = 0;
    void *operands = nullptr;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
};

enum Instruction { LDMATRIX, LDMATRIX_TRANS, MMA, SHUFFLE };
struct LdMatrix {
    uint32_t *r;
    const unsigned char *row;
};
struct Mma {
    float *d;
    const uint32_t *a;
    uint32_t b[2];
};
struct Shuffle {
    void *value;
    size_t size;
    unsigned lanes;
};

constexpr size_t STACK = 256 * 1024;

inline jmp_buf scheduler_point;
inline std::vector<Thread> threads;
inline Thread *running;
inline Dim block_index, block_size, grid_size;
inline std::vector<uint4> shared_memory;
inline size_t shared_size;
inline std::function<void()> body;
inline std::map<const unsigned char *, size_t> allocations;
// Matrix rows of one ldmatrix that are in the same banks.
inline unsigned long conflicts;
inline std::string fault;

inline void fail(const std::string &what) {
    if (fault.empty()) fault = what;
}

inline unsigned char *shared() { return reinterpret_cast<unsigned char *>(shared_memory.data()); }

inline bool in_shared(const void *pointer, size_t bytes) {
    const auto at = static_cast<const unsigned char *>(pointer);
    return at >= shared() && at + bytes <= shared() + shared_size;
}

inline bool in_allocation(const void *pointer, size_t bytes) {
    const auto at = static_cast<const unsigned char *>(pointer);
    auto next = allocations.upper_bound(at);
    if (next == allocations.begin()) return false;
    --next;
    return at + bytes <= next->first + next->second;
}

// A fibre is entered by setcontext, and left and taken up again by longjmp, which makes no system call.
inline void pause(Wait wait) {
    running->wait = wait;
    if (_setjmp(running->point) == 0) _longjmp(scheduler_point, 1);
}

inline void resume(Thread *t) {
    running = t;
    if (_setjmp(scheduler_point) != 0) return;
    if (t->entered) _longjmp(t->point, 1);
    t->entered = true;
    setcontext(&t->context);
}

inline void warp_wide(Instruction instruction, void *operands) {
    running->instruction = instruction;
    running->operands = operands;
    pause(Wait::Warp);
}

inline float from_bf16(uint32_t bits) {
    bits <<= 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type".
inline void mma(Thread *warp) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const Mma &m = *static_cast<Mma *>(warp[lane].operands);
        const int group = lane / 4, pair = lane % 4;
        for (int i = 0; i < 8; i++) {
            const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
            const int column = pair * 2 + i % 2 + (i >= 4 ? 8 : 0);
            a[row][column] = from_bf16(i % 2 ? m.a[i / 2] >> 16 : m.a[i / 2] & 0xffff);
        }
        for (int i = 0; i < 4; i++) {
            const int row = pair * 2 + i % 2 + (i >= 2 ? 8 : 0);
            b[row][group] = from_bf16(i % 2 ? m.b[i / 2] >> 16 : m.b[i / 2] & 0xffff);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        const Mma &m = *static_cast<Mma *>(warp[lane].operands);
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
            // Products of two bf16 are exact in f32.
            float sum = m.d[i];
            for (int k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            m.d[i] = sum;
        }
    }
}

// PTX ISA, "Warp-level matrix load instruction: ldmatrix".
inline void ldmatrix(Thread *warp, bool trans) {
    for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t rows[8][8];
        unsigned banks = 0;
        for (int row = 0; row < 8; row++) {
            const unsigned char *at = static_cast<LdMatrix *>(warp[8 * matrix + row].operands)->row;
            if (!in_shared(at, 16) || (at - shared()) % 16 != 0) return fail("a matrix row outside of shared memory");
            std::memcpy(rows[row], at, 16);
            const unsigned bank = 1u << ((at - shared()) / 16 % 8);
            conflicts += (banks & bank) != 0;
            banks |= bank;
        }
        for (int lane = 0; lane < 32; lane++) {
            const int i = lane / 4, j = lane % 4 * 2;
            const uint32_t low = trans ? rows[j][i] : rows[i][j], high = trans ? rows[j + 1][i] : rows[i][j + 1];
            static_cast<LdMatrix *>(warp[lane].operands)->r[matrix] = low | high << 16;
        }
    }
}

inline void shuffle(Thread *warp) {
    unsigned char values[32][16];
    for (int lane = 0; lane < 32; lane++) {
        const Shuffle &s = *static_cast<Shuffle *>(warp[lane].operands);
        std::memcpy(values[lane], s.value, s.size);
    }
    for (int lane = 0; lane < 32; lane++) {
        const Shuffle &s = *static_cast<Shuffle *>(warp[lane].operands);
        std::memcpy(s.value, values[lane ^ s.lanes], s.size);
    }
}

// Runs a warp up to the next barrier, or to its end.
inline void run_warp(Thread *warp) {
    while (fault.empty()) {
        for (Thread *t = warp; t < warp + 32; t++) {
            if (t->wait != Wait::None) continue;
            resume(t);
        }
        int waiting = 0;
        for (Thread *t = warp; t < warp + 32; t++) waiting += t->wait == Wait::Warp;
        if (waiting == 0) return;
        for (Thread *t = warp; t < warp + 32; t++) {
            if (t->wait != Wait::Warp || t->instruction != warp->instruction)
                return fail("a warp's lanes are not all at the same instruction");
        }
        switch (warp->instruction) {
        case LDMATRIX: ldmatrix(warp, false); break;
        case LDMATRIX_TRANS: ldmatrix(warp, true); break;
        case MMA: mma(warp); break;
        default: shuffle(warp);
        }
        for (Thread *t = warp; t < warp + 32; t++) t->wait = Wait::None;
    }
}

inline void enter() {
    body();
    running->wait = Wait::Done;
    _longjmp(scheduler_point, 1);
}

inline void run_block(std::mt19937 &order) {
    const unsigned count = block_size.x;
    if (threads.size() < count) threads.resize(count);
    for (unsigned i = 0; i < count; i++) {
        Thread &t = threads[i];
        if (!t.stack) t.stack.reset(new unsigned char[STACK]);
        t.wait = Wait::None;
        t.index.x = i;
        t.groups.clear();
        t.open.clear();
        getcontext(&t.context);
        t.context.uc_stack.ss_sp = t.stack.get();
        t.context.uc_stack.ss_size = STACK;
        t.context.uc_link = nullptr;
        t.entered = false;
        makecontext(&t.context, enter, 0);
    }
    if (shared_size > 0) std::memset(shared(), 0xff, shared_size);
    while (fault.empty()) {
        std::vector<unsigned> warps;
        for (unsigned w = 0; w < count / 32; w++) warps.push_back(w);
        std::shuffle(warps.begin(), warps.end(), order);
        for (unsigned w : warps) run_warp(&threads[32 * w]);
        unsigned done = 0;
        for (unsigned i = 0; i < count; i++) done += threads[i].wait == Wait::Done;
        if (done == count) return;
        if (done > 0) return fail("a barrier that a thread has passed by its end");
        for (unsigned i = 0; i < count; i++) threads[i].wait = Wait::None;
    }
}

// Runs all blocks; returns what went wrong, if anything did.
inline std::string launch(Dim grid, unsigned block, size_t shared_bytes, unsigned seed, std::function<void()> kernel) {
    fault.clear();
    grid_size = grid;
    block_size = Dim{block, 1, 1};
    body = std::move(kernel);
    shared_size = shared_bytes;
    shared_memory.assign((shared_bytes + 15) / 16 + 1, uint4{});
    std::mt19937 order(seed);
    std::vector<Dim> blocks;
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) blocks.push_back(Dim{x, y, 0});
    std::shuffle(blocks.begin(), blocks.end(), order);
    for (const Dim &at : blocks) {
        block_index = at;
        run_block(order);
        if (!fault.empty()) break;
    }
    return fault;
}

} // namespace emulate

#define threadIdx (emulate::running->index)
#define blockIdx emulate::block_index
#define blockDim emulate::block_size
#define gridDim emulate::grid_size
#define DYNAMIC_SHARED(name) unsigned char *const name = emulate::shared()

inline void __syncthreads() { emulate::pause(emulate::Wait::Block); }

template <class T> T __shfl_xor_sync(unsigned, T value, unsigned lanes) {
    emulate::Shuffle s{&value, sizeof(T), lanes};
    emulate::warp_wide(emulate::SHUFFLE, &s);
    return value;
}

inline void cp_async_16(void *shared, const void *global) {
    const bool aligned = reinterpret_cast<uintptr_t>(global) % 16 == 0 &&
                         (static_cast<unsigned char *>(shared) - emulate::shared()) % 16 == 0;
    if (!aligned) return emulate::fail("a copy that is not aligned to 16 bytes");
    if (!emulate::in_shared(shared, 16)) return emulate::fail("a copy to outside of shared memory");
    if (!emulate::in_allocation(global, 16)) return emulate::fail("a copy from outside of an allocation");
    emulate::running->open.push_back({shared, global});
}

inline void cp_async_commit() {
    emulate::running->groups.push_back(std::move(emulate::running->open));
    emulate::running->open.clear();
}

template <int N> void cp_async_wait() {
    auto &groups = emulate::running->groups;
    while (groups.size() > N) {
        for (const emulate::Copy &copy : groups.front()) std::memcpy(copy.to, copy.from, 16);
        groups.erase(groups.begin());
    }
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    emulate::LdMatrix operands{r, static_cast<const unsigned char *>(row)};
    emulate::warp_wide(emulate::LDMATRIX, &operands);
}

inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    emulate::LdMatrix operands{r, static_cast<const unsigned char *>(row)};
    emulate::warp_wide(emulate::LDMATRIX_TRANS, &operands);
}

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulate::Mma operands{d, a, {b0, b1}};
    emulate::warp_wide(emulate::MMA, &operands);
}

inline float __uint_as_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// To the nearest, halves to even; NaN to NaN.
inline uint32_t to_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline uint32_t bf16x2(float low, float high) { return to_bf16(low) | to_bf16(high) << 16; }
inline float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
inline float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
inline float exp2_approx(float x) { return std::exp2(x); }
