// Runs the kernels of a shader on the CPU. The test writes `kernels.inc`: it includes the shader, and for each kernel
// has a function that takes buffers and a thread's numbers for the parameters, by the attributes in the source.

#include "fibers.hpp"
#include <limits>

struct Ids {
    unsigned threadgroup_position_in_grid;
    unsigned thread_index_in_threadgroup;
    unsigned simdgroup_index_in_threadgroup;
    unsigned thread_index_in_simdgroup;
};

struct Kernel {
    const char* name;
    void (*call)(void* const* buffers, void* shared, const Ids& ids);
};

#include "kernels.inc"

// The most that a threadgroup has on every Apple GPU.
constexpr std::size_t MOST_SHARED = 32 * 1024;
constexpr std::size_t GUARD = 1024; // numbers after the threadgroup's memory that nobody may touch
constexpr float UNTOUCHED = -7.25e30f;

// Returns null, or what went wrong.
extern "C" const char* run(
    const char* name,
    void* const* buffers,
    std::size_t shared,
    unsigned groups,
    unsigned threads,
    unsigned order)
{
    static thread_local std::string failure;
    failure = "there is no such kernel";
    if (shared > MOST_SHARED || threads != fibers::THREADS)
        return "too much threadgroup memory, or another number of threads";
    for (const Kernel& kernel : KERNELS) {
        if (std::strcmp(kernel.name, name) != 0)
            continue;
        failure.clear();
        for (unsigned i = 0; i < groups && failure.empty(); i++) {
            const unsigned group = order == 0 ? i : groups - 1 - i;
            // Nothing is known of a threadgroup's memory before it is written.
            std::vector<float> memory(shared / 4, std::numeric_limits<float>::quiet_NaN());
            memory.resize(shared / 4 + GUARD, UNTOUCHED);
            failure = fibers::run_threadgroup(order, [&](unsigned thread) {
                const Ids ids{group, thread, thread / fibers::LANES, thread % fibers::LANES};
                kernel.call(buffers, memory.data(), ids);
            });
            for (std::size_t place = shared / 4; place < memory.size(); place++)
                if (memory[place] != UNTOUCHED)
                    failure = "a write after the end of the threadgroup's memory";
        }
        break;
    }
    return failure.empty() ? nullptr : failure.c_str();
}
