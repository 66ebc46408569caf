// The threads of one threadgroup as fibers of one CPU thread. A fiber runs until it waits for the other fibers of
// its threadgroup or of its simdgroup; then the first one that need not wait runs, in the order that was asked for:
// those at its beginning get as far ahead of the others as barriers let them.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <string>
#include <ucontext.h>
#include <utility>
#include <vector>

namespace fibers {
constexpr unsigned LANES = 32;
constexpr unsigned THREADS = 128;
constexpr std::size_t STACK = 64 * 1024;

// How many have come to a meeting, and how many meetings have been.
struct Meeting {
    unsigned arrived = 0;
    unsigned passed = 0;
};

struct Simdgroup {
    Meeting meeting;
    // What the lanes bring to a meeting; two, as a lane may be at the next one while others still read.
    alignas(16) unsigned char brought[2][LANES][16];
    std::size_t size = 0;
    // The pointers of the collective loads and stores, in the order of the calls.
    std::vector<const void*> pointers;
};

struct Fiber {
    ucontext_t context;
    std::vector<unsigned char> stack;
    const Meeting* awaited = nullptr;
    unsigned passed = 0; // as it stood when the wait began
    std::size_t calls = 0;
    bool done = false;
};

struct State {
    ucontext_t main;
    Fiber fibers[THREADS];
    Simdgroup simdgroups[THREADS / LANES];
    Meeting all;
    unsigned current = 0;
    std::function<void(unsigned)> body;
    std::string failure;
};

inline State& state()
{
    static thread_local State state;
    return state;
}

inline unsigned lane() { return state().current % LANES; }
inline Simdgroup& simdgroup() { return state().simdgroups[state().current / LANES]; }

inline void back_to_main()
{
    State& s = state();
    swapcontext(&s.fibers[s.current].context, &s.main);
}

inline void fail(const char* why)
{
    state().failure = why;
    back_to_main();
}

inline void meet(Meeting& meeting, unsigned count)
{
    if (++meeting.arrived == count) {
        meeting.arrived = 0;
        meeting.passed++;
        return;
    }
    Fiber& fiber = state().fibers[state().current];
    fiber.awaited = &meeting;
    fiber.passed = meeting.passed;
    back_to_main();
}

inline void barrier() { meet(state().all, THREADS); }

// Every lane brings a value; returns all of them, valid until the lane's next exchange.
template <typename T>
const T* exchange_in_place(T value)
{
    static_assert(sizeof(T) <= 16);
    Simdgroup& group = simdgroup();
    if (group.meeting.arrived > 0 && group.size != sizeof(T))
        fail("lanes of one simdgroup are in different collective functions");
    group.size = sizeof(T);
    auto& slots = group.brought[group.meeting.passed % 2];
    std::memcpy(slots[lane()], &value, sizeof(T));
    meet(group.meeting, LANES);
    static thread_local T all[THREADS][LANES];
    T* mine = all[state().current];
    for (unsigned i = 0; i < LANES; i++)
        std::memcpy(&mine[i], slots[i], sizeof(T));
    return mine;
}

template <typename T>
void exchange(T value, T (&all)[LANES])
{
    std::memcpy(all, exchange_in_place(value), sizeof(all));
}

// A collective load or store takes one address from all lanes.
inline void same_for_simdgroup(const void* pointer)
{
    auto& pointers = simdgroup().pointers;
    std::size_t& call = state().fibers[state().current].calls;
    if (call == pointers.size())
        pointers.push_back(pointer);
    else if (pointers[call] != pointer)
        fail("lanes of one simdgroup load from, or store to, different addresses");
    call++;
}

inline void start()
{
    State& s = state();
    s.body(s.current);
    s.fibers[s.current].done = true;
    back_to_main();
}

// Runs `body` for each thread of a threadgroup. Order 0 is ascending, 1 descending, any other shuffled by simdgroup
// and within each.
inline std::string run_threadgroup(unsigned order, std::function<void(unsigned)> body)
{
    State& s = state();
    s.body = std::move(body);
    s.all = {};
    s.failure.clear();
    for (Simdgroup& group : s.simdgroups) {
        group.meeting = {};
        group.pointers.clear();
    }
    unsigned turn[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        const unsigned shuffled = ((i / LANES * 3 + order) % 4) * LANES + (i * 11 + order) % LANES;
        turn[i] = order == 0 ? i : order == 1 ? THREADS - 1 - i : shuffled;
    }
    for (Fiber& fiber : s.fibers) {
        fiber.stack.resize(STACK);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &s.main;
        makecontext(&fiber.context, start, 0);
        fiber.awaited = nullptr;
        fiber.calls = 0;
        fiber.done = false;
    }
    for (unsigned left = THREADS; left > 0;) {
        bool moved = false;
        for (unsigned i : turn) {
            Fiber& fiber = s.fibers[i];
            if (fiber.done || (fiber.awaited && fiber.awaited->passed == fiber.passed))
                continue;
            fiber.awaited = nullptr;
            s.current = i;
            swapcontext(&s.main, &fiber.context);
            if (!s.failure.empty())
                return s.failure;
            moved = true;
            left -= fiber.done;
            break;
        }
        if (!moved)
            return "some threads wait at a barrier or a collective function that others never reach";
    }
    return {};
}
} // namespace fibers
