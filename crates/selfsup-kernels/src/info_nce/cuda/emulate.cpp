// The kernels as a library with a C interface, which the tests load.
#include <algorithm>

#include "emulate.h"

#include "tiles.cu"
#include "rows.cu"

namespace {

using Call = std::function<void()>;

// As the driver's launch: each argument is where its value lies.
template <class... P, size_t... I>
Call call(void (*kernel)(P...), void **arguments, std::index_sequence<I...>) {
    return [=] { kernel(*static_cast<std::decay_t<P> *>(arguments[I])...); };
}

struct Kernel {
    std::function<Call(void **)> bind;
    unsigned parameters;
};

template <class... P> Kernel kernel(void (*f)(P...)) {
    return {[f](void **arguments) { return call(f, arguments, std::index_sequence_for<P...>{}); }, sizeof...(P)};
}

#define TILE_ENTRIES(D, PARTS, NAME, ONLINE)                                                                           \
    {"lse_" #D "_" #PARTS "_" #NAME, kernel(lse_##D##_##PARTS##_##NAME)},                                              \
        {"gradient_" #D "_" #PARTS "_" #NAME, kernel(gradient_##D##_##PARTS##_##NAME)},

const std::map<std::string, Kernel> KERNELS = {
    FOR_EACH_TILE_KERNEL(TILE_ENTRIES)
    {"normalize", kernel(normalize)},
    {"lse_of_slices", kernel(lse_of_slices)},
    {"softmax_factors", kernel(softmax_factors)},
    {"own_logits", kernel(own_logits)},
    {"shifted_rows", kernel(shifted_rows)},
    {"scale_rows", kernel(scale_rows)},
    {"label_sums", kernel(label_sums)},
    {"loss", kernel(loss)},
    {"total", kernel(total)},
    {"finish", kernel(finish)},
};

std::string message;

} // namespace

extern "C" {

// Memory between margins of NaN.
constexpr size_t MARGIN = 4096;

void *emulate_allocate(size_t bytes) {
    auto *all = static_cast<unsigned char *>(std::aligned_alloc(256, (bytes + 2 * MARGIN + 255) / 256 * 256));
    std::memset(all, 0xff, bytes + 2 * MARGIN);
    emulate::allocations[all + MARGIN] = bytes;
    return all + MARGIN;
}

// Returns whether the margins are untouched.
bool emulate_free(void *pointer) {
    auto *at = static_cast<unsigned char *>(pointer);
    const size_t bytes = emulate::allocations.at(at);
    const auto whole = [](const unsigned char *from) {
        return std::all_of(from, from + MARGIN, [](unsigned char byte) { return byte == 0xff; });
    };
    const bool untouched = whole(at - MARGIN) && whole(at + bytes);
    emulate::allocations.erase(at);
    std::free(at - MARGIN);
    return untouched;
}

// Null, or what went wrong.
const char *emulate_launch(const char *name, const unsigned *grid, unsigned block, size_t shared, void **arguments,
                           unsigned count, unsigned seed) {
    const auto found = KERNELS.find(name);
    if (found == KERNELS.end()) {
        message = std::string("no kernel ") + name;
        return message.c_str();
    }
    if (found->second.parameters != count) {
        message = std::string(name) + " takes " + std::to_string(found->second.parameters) + " arguments";
        return message.c_str();
    }
    message = emulate::launch({grid[0], grid[1], 1}, block, shared, seed, found->second.bind(arguments));
    if (message.empty()) return nullptr;
    message = std::string(name) + ": " + message;
    return message.c_str();
}

unsigned long emulate_bank_conflicts() { return emulate::conflicts; }
}
