// Fused InfoNCE for Metal: the similarities S = a bᵀ tile by tile, never stored. Formulas and letters are those of
// the module `info_nce`; `launch.rs` says which kernels run for which form.
//
// No Apple GPU has run this file. The test `metal_shader` compiles it as C++ and runs every thread on the CPU.
//
// It needs 32 threads a simdgroup, simdgroup matrices (Apple7, the M1, and later) and compilation without fast
// mathematics: the sums carry what rounding drops, and NaN must reach the result. Numbers are f32, narrower ones are
// widened before; a GPU may take subnormal ones for 0. A threadgroup has 128 threads. No atomics: each result has one
// thread that adds its terms in the order of the columns.

#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

// A threadgroup's tile of S: 32 rows of a, 64 rows of b. Each of the four simdgroups has a 16 × 32 quarter of it
// in matrices of 8 × 8, and 8 whole rows where rows are worked on, 4 lanes a row.
constant constexpr uint ROWS = 32;
constant constexpr uint COLUMNS = 64;
constant constexpr uint SIMDGROUPS = 4;
constant constexpr uint THREADS = 128;
constant constexpr uint LANES = 32;
constant constexpr uint LANES_A_ROW = 4;
// From row to row of the tile: 4 more than its width, so that a simdgroup's 8 rows lie in different memory banks.
constant constexpr uint STRIDE = COLUMNS + 4;

// What a row is in the loss. It is an anchor if its weight is not 0; its positives are the other side's rows
// whose label is its target; `share` is 1/(number of positives).
struct Role {
    uint label;
    uint target;
    uint excluded; // the other side's row that it never meets
    float weight;  // w_i
    float share;
};

// n rows of a and m of b, d wide, which with zeros at the end is `depth`: a multiple of 32.
struct Sizes {
    uint n;
    uint m;
    uint d;
    uint depth;
};

// A sum is a pair: x, and in y what rounding dropped (Knuth's two-sum), so that a loss near 0 keeps its digits.
static float2 merge(float2 a, float2 b)
{
    const float sum = a.x + b.x;
    const float part = sum - a.x;
    const float dropped = (a.x - (sum - part)) + (b.x - part);
    return float2(sum, (a.y + b.y) + dropped);
}

// Over the four lanes that share a row; each of them gets the same.
static float2 row_sum(float2 a)
{
    a = merge(a, float2(simd_shuffle_xor(a.x, ushort(1)), simd_shuffle_xor(a.y, ushort(1))));
    return merge(a, float2(simd_shuffle_xor(a.x, ushort(2)), simd_shuffle_xor(a.y, ushort(2))));
}

static float row_max(float x)
{
    x = fmax(x, simd_shuffle_xor(x, ushort(1)));
    return fmax(x, simd_shuffle_xor(x, ushort(2)));
}

// exp(x) − 1 without cancellation near 0 (Kahan): the rounding of u = exp(x) divides out of (u − 1)/ln u.
static float exp_minus_one(float x)
{
    const float u = exp(x);
    if (u == 1.0f) {
        return x;
    }
    return u - 1.0f == -1.0f ? -1.0f : (u - 1.0f) * x / log(u);
}

// c ← c + x yᵀ or c + x y, over this simdgroup's quarter.
static void multiply(
    thread simdgroup_float8x8 (&c)[2][4],
    thread simdgroup_float8x8 (&x)[2],
    thread simdgroup_float8x8 (&y)[4])
{
    for (uint r = 0; r < 2; r++) {
        for (uint q = 0; q < 4; q++) {
            simdgroup_multiply_accumulate(c[r][q], x[r], y[q], c[r][q]);
        }
    }
}

static void clear(thread simdgroup_float8x8 (&c)[2][4])
{
    for (uint r = 0; r < 2; r++) {
        for (uint q = 0; q < 4; q++) {
            c[r][q] = make_filled_simdgroup_matrix<float, 8>(0.0f);
        }
    }
}

// The tile of S whose first rows a and b point to. A barrier must follow before other simdgroups' parts are read.
static void similarities(
    device const float* a,
    device const float* b,
    uint depth,
    threadgroup float* tile,
    uint simdgroup_index)
{
    const uint row = 16 * (simdgroup_index / 2);
    const uint column = 32 * (simdgroup_index % 2);
    simdgroup_float8x8 s[2][4];
    clear(s);
    for (uint c = 0; c < depth; c += 8) {
        simdgroup_float8x8 x[2];
        simdgroup_float8x8 y[4];
        for (uint r = 0; r < 2; r++) {
            simdgroup_load(x[r], a + ulong(row + 8 * r) * depth + c, depth);
        }
        for (uint q = 0; q < 4; q++) {
            simdgroup_load(y[q], b + ulong(column + 8 * q) * depth + c, depth, ulong2(0, 0), true);
        }
        multiply(s, x, y);
    }
    for (uint r = 0; r < 2; r++) {
        for (uint q = 0; q < 4; q++) {
            simdgroup_store(s[r][q], tile + (row + 8 * r) * STRIDE + column + 8 * q, STRIDE);
        }
    }
}

// Row i's softmax at row k of the other side: w_i (exp(S − lse_i) − [k is a positive] share_i), the derivative of
// its term of the loss by S(i, k).
static float derivative(
    device const Role* roles,
    device const float2* softmax,
    uint i,
    uint k,
    uint label,
    float s)
{
    const Role role = roles[i];
    if (role.weight == 0.0f || k == role.excluded) {
        return 0.0f;
    }
    const float x = (s - softmax[i].x) - softmax[i].y;
    if (label != role.target) {
        return role.weight * exp(x);
    }
    return role.weight * (role.share == 1.0f ? exp_minus_one(x) : exp(x) - role.share);
}

// v_i = x_i · √scale/‖x_i‖, and norms_i = (√scale · m/‖x_i‖, m), m = max |x_i|: no square over- or underflows.
// A row of zeros stays, with the first of the norms 0. Rows from n on and columns from d on are filled with zeros.
// One simdgroup a row.
kernel void normalize_rows(
    device const float* x [[buffer(0)]],
    device float* v [[buffer(1)]],
    device float2* norms [[buffer(2)]],
    constant float& scale [[buffer(3)]],
    constant Sizes& sizes [[buffer(4)]],
    uint group [[threadgroup_position_in_grid]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    const uint i = group * SIMDGROUPS + simdgroup_index;
    device float* to = v + ulong(i) * sizes.depth;
    if (i >= sizes.n) {
        for (uint c = lane; c < sizes.depth; c += LANES) {
            to[c] = 0.0f;
        }
        return;
    }
    device const float* from = x + ulong(i) * sizes.d;
    float largest = 0.0f;
    for (uint c = lane; c < sizes.d; c += LANES) {
        largest = fmax(largest, fabs(from[c]));
    }
    largest = simd_max(largest);
    // fmax passes over NaN, the sum does not.
    const float divisor = largest > 0.0f ? largest : 1.0f;
    float squares = 0.0f;
    for (uint c = lane; c < sizes.d; c += LANES) {
        const float y = from[c] / divisor;
        squares += y * y;
    }
    squares = simd_sum(squares);
    const float factor = squares == 0.0f ? 0.0f : sqrt(scale) / sqrt(squares);
    for (uint c = lane; c < sizes.depth; c += LANES) {
        to[c] = c < sizes.d ? from[c] / divisor * factor : 0.0f;
    }
    if (lane == 0) {
        norms[i] = float2(factor, divisor);
    }
}

// own_i = a_i·b_i. One simdgroup a row.
kernel void own_similarities(
    device const float* a [[buffer(0)]],
    device const float* b [[buffer(1)]],
    device float* own [[buffer(2)]],
    constant Sizes& sizes [[buffer(3)]],
    uint group [[threadgroup_position_in_grid]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    const uint i = group * SIMDGROUPS + simdgroup_index;
    if (i >= sizes.n) {
        return;
    }
    float sum = 0.0f;
    for (uint c = lane; c < sizes.depth; c += LANES) {
        sum += a[ulong(i) * sizes.depth + c] * b[ulong(i) * sizes.depth + c];
    }
    sum = simd_sum(sum);
    if (lane == 0) {
        own[i] = sum;
    }
}

// For each row of a: softmax_i = (max, ln Σ exp(S − max)), whose sum is lse_i, and terms_(first + i) =
// w_i [ lse_i − mean of S over the positives ]. If has_own is 1, own_i is one more logit, and the positive.
// A threadgroup has 32 rows.
kernel void log_sum_exp(
    device const float* a [[buffer(0)]],
    device const float* b [[buffer(1)]],
    device const Role* a_roles [[buffer(2)]],
    device const Role* b_roles [[buffer(3)]],
    device const float* own [[buffer(4)]],
    device float2* softmax [[buffer(5)]],
    device float* terms [[buffer(6)]],
    constant uint& has_own [[buffer(7)]],
    constant uint& first [[buffer(8)]],
    constant Sizes& sizes [[buffer(9)]],
    threadgroup float* tile [[threadgroup(0)]],
    uint group [[threadgroup_position_in_grid]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    const uint row = group * ROWS;
    const uint r = simdgroup_index * (LANES / LANES_A_ROW) + lane / LANES_A_ROW;
    const uint part = lane % LANES_A_ROW;
    const uint i = row + r;
    const bool inside = i < sizes.n;
    // A row that is not there takes the first one's role; nothing of it is written.
    const Role role = a_roles[inside ? i : 0];
    float highest = -INFINITY;
    float2 total = float2(0.0f, 0.0f);     // Σ exp(S − highest)
    float2 positives = float2(0.0f, 0.0f); // Σ S over them
    if (has_own == 1 && inside) {
        highest = own[i];
        total.x = 1.0f;
        positives.x = own[i];
    }
    for (uint column = 0; column < sizes.m; column += COLUMNS) {
        similarities(
            a + ulong(row) * sizes.depth,
            b + ulong(column) * sizes.depth,
            sizes.depth,
            tile,
            simdgroup_index);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float here = -INFINITY;
        for (uint q = part; q < COLUMNS; q += LANES_A_ROW) {
            const uint k = column + q;
            if (k < sizes.m && k != role.excluded) {
                here = fmax(here, tile[r * STRIDE + q]);
            }
        }
        const float before = highest;
        highest = fmax(before, row_max(here));
        // Without any number so far, the sum is 0, or NaN and stays so.
        const float shift = highest > -INFINITY ? highest : 0.0f;
        float2 sum = float2(0.0f, 0.0f);
        float2 found = float2(0.0f, 0.0f);
        for (uint q = part; q < COLUMNS; q += LANES_A_ROW) {
            const uint k = column + q;
            if (k < sizes.m && k != role.excluded) {
                const float s = tile[r * STRIDE + q];
                sum = merge(sum, float2(exp(s - shift), 0.0f));
                found = merge(found, float2(b_roles[k].label == role.target ? s : 0.0f, 0.0f));
            }
        }
        if (before > -INFINITY) {
            total *= exp(before - shift);
        }
        total = merge(total, row_sum(sum));
        positives = merge(positives, row_sum(found));
        // The next tile overwrites this one.
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (inside && part == 0) {
        const float log_sum = log(total.x) + total.y / total.x;
        const float mean = (positives.x + positives.y) * role.share;
        softmax[i] = float2(highest, log_sum);
        terms[first + i] = role.weight == 0.0f ? 0.0f : role.weight * ((highest - mean) + log_sum);
    }
}

// da_i = Σ_k W(i, k) b_k, where W(i, k) is the derivative by S(i, k) of row i's term of the loss and of row k's:
// the tile of S is worked out again. da is `depth` wide, and has rows to a multiple of 32. A threadgroup has 32
// rows; each simdgroup adds to the same part of da in every tile.
kernel void weighted_sums(
    device const float* a [[buffer(0)]],
    device const float* b [[buffer(1)]],
    device const Role* a_roles [[buffer(2)]],
    device const Role* b_roles [[buffer(3)]],
    device const float2* a_softmax [[buffer(4)]],
    device const float2* b_softmax [[buffer(5)]],
    device float* da [[buffer(6)]],
    constant Sizes& sizes [[buffer(7)]],
    threadgroup float* tile [[threadgroup(0)]],
    uint group [[threadgroup_position_in_grid]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    const uint row = group * ROWS;
    const uint r = simdgroup_index * (LANES / LANES_A_ROW) + lane / LANES_A_ROW;
    const uint part = lane % LANES_A_ROW;
    const uint i = row + r;
    for (uint column = 0; column < sizes.m; column += COLUMNS) {
        device const float* b_rows = b + ulong(column) * sizes.depth;
        similarities(a + ulong(row) * sizes.depth, b_rows, sizes.depth, tile, simdgroup_index);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint q = part; q < COLUMNS; q += LANES_A_ROW) {
            const uint k = column + q;
            float w = 0.0f;
            if (i < sizes.n && k < sizes.m) {
                const float s = tile[r * STRIDE + q];
                w = derivative(a_roles, a_softmax, i, k, b_roles[k].label, s)
                    + derivative(b_roles, b_softmax, k, i, a_roles[i].label, s);
            }
            tile[r * STRIDE + q] = w;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint quarter = 16 * (simdgroup_index / 2);
        for (uint c = 32 * (simdgroup_index % 2); c < sizes.depth; c += 64) {
            device float* out = da + ulong(row + quarter) * sizes.depth + c;
            simdgroup_float8x8 sums[2][4];
            clear(sums);
            if (column > 0) {
                for (uint x = 0; x < 2; x++) {
                    for (uint y = 0; y < 4; y++) {
                        simdgroup_load(sums[x][y], out + ulong(8 * x) * sizes.depth + 8 * y, sizes.depth);
                    }
                }
            }
            for (uint k = 0; k < COLUMNS; k += 8) {
                simdgroup_float8x8 w[2];
                simdgroup_float8x8 y[4];
                for (uint x = 0; x < 2; x++) {
                    simdgroup_load(w[x], tile + (quarter + 8 * x) * STRIDE + k, STRIDE);
                }
                for (uint q = 0; q < 4; q++) {
                    simdgroup_load(y[q], b_rows + ulong(k) * sizes.depth + c + 8 * q, sizes.depth);
                }
                multiply(sums, w, y);
            }
            for (uint x = 0; x < 2; x++) {
                for (uint y = 0; y < 4; y++) {
                    simdgroup_store(sums[x][y], out + ulong(8 * x) * sizes.depth + 8 * y, sizes.depth);
                }
            }
        }
        // The next tile overwrites this one, and reads da again.
        threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
    }
}

// The part of own_i: da_i ← da_i + W b_i and db_i = W a_i, where W = w_i (exp(own_i − lse_i) − 1). One simdgroup a
// row.
kernel void own_gradients(
    device const float* a [[buffer(0)]],
    device const float* b [[buffer(1)]],
    device const Role* a_roles [[buffer(2)]],
    device const float* own [[buffer(3)]],
    device const float2* softmax [[buffer(4)]],
    device float* da [[buffer(5)]],
    device float* db [[buffer(6)]],
    constant Sizes& sizes [[buffer(7)]],
    uint group [[threadgroup_position_in_grid]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    const uint i = group * SIMDGROUPS + simdgroup_index;
    if (i >= sizes.n) {
        return;
    }
    const float w = a_roles[i].weight * exp_minus_one((own[i] - softmax[i].x) - softmax[i].y);
    for (uint c = lane; c < sizes.depth; c += LANES) {
        const ulong at = ulong(i) * sizes.depth + c;
        da[at] += w * b[at];
        db[at] = w * a[at];
    }
}

// dx_i = grad · (dv_i − v_i⟨v_i, dv_i⟩/scale) · √scale/‖x_i‖, or 0 for a row of zeros, and along_i =
// grad · ⟨v_i, dv_i⟩/scale. One simdgroup a row.
kernel void project(
    device const float* v [[buffer(0)]],
    device const float* dv [[buffer(1)]],
    device const float2* norms [[buffer(2)]],
    device const float* grad [[buffer(3)]],
    device float* dx [[buffer(4)]],
    device float* along [[buffer(5)]],
    constant float& scale [[buffer(6)]],
    constant Sizes& sizes [[buffer(7)]],
    uint group [[threadgroup_position_in_grid]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    const uint i = group * SIMDGROUPS + simdgroup_index;
    if (i >= sizes.n) {
        return;
    }
    device const float* from = v + ulong(i) * sizes.depth;
    device const float* gradient = dv + ulong(i) * sizes.depth;
    float sum = 0.0f;
    for (uint c = lane; c < sizes.depth; c += LANES) {
        sum += from[c] * gradient[c];
    }
    const float component = simd_sum(sum) / scale;
    const float factor = norms[i].x * grad[0];
    for (uint c = lane; c < sizes.d; c += LANES) {
        const float tangent = gradient[c] - from[c] * component;
        dx[ulong(i) * sizes.d + c] = norms[i].x == 0.0f ? 0.0f : tangent * factor / norms[i].y;
    }
    if (lane == 0) {
        along[i] = component * grad[0];
    }
}

// out = Σ_i terms_i over n terms, by one threadgroup.
kernel void sum_terms(
    device const float* terms [[buffer(0)]],
    device float* out [[buffer(1)]],
    constant uint& n [[buffer(2)]],
    threadgroup float2* parts [[threadgroup(0)]],
    uint thread_index [[thread_index_in_threadgroup]])
{
    float2 total = float2(0.0f, 0.0f);
    for (uint i = thread_index; i < n; i += THREADS) {
        total = merge(total, float2(terms[i], 0.0f));
    }
    parts[thread_index] = total;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index == 0) {
        for (uint t = 1; t < THREADS; t++) {
            total = merge(total, parts[t]);
        }
        out[0] = total.x + total.y;
    }
}
