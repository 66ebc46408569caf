// What `info_nce`'s module needs for each row before and after the passes over the similarities. A warp takes a row;
// sums over a row's d numbers are in f64, as on the CPU. Arrays are padded as in `tiles.cu`.
#ifdef __CUDACC__
#include "ptx.cuh"
#endif

constexpr unsigned FULL = ~0u;

__device__ __forceinline__ double sum_of_warp(double x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(FULL, x, lanes);
    return x;
}

// The sum over a block of up to 1024 threads, in thread 0.
__device__ __forceinline__ double sum_of_block(double x) {
    __shared__ double sums[32];
    x = sum_of_warp(x);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    double total = 0.0;
    if (threadIdx.x == 0)
        for (unsigned warp = 0; warp < blockDim.x / 32; warp++) total += sums[warp];
    return total;
}

// A number of the unit vector of x, or of 0: `norm` is null where x is to be taken as it is.
__device__ __forceinline__ float unit(const float *x, const double *norm) {
    if (norm == nullptr) return *x;
    return *norm == 0.0 ? 0.0f : static_cast<float>(*x * (1.0 / *norm));
}

__device__ __forceinline__ unsigned row_of_warp() { return (blockIdx.x * blockDim.x + threadIdx.x) / 32; }

// Unit vectors in bf16, in `parts` of `width`, and norms; z is [n, d]. The grid has a warp for each padded row.
extern "C" __global__ void normalize(const float *z, unsigned n, unsigned d, unsigned width, unsigned parts,
                                     uint16_t *rows, double *norms) {
    const unsigned row = row_of_warp(), lane = threadIdx.x % 32;
    z += size_t(row) * d;
    double squares = 0.0;
    if (row < n)
        for (unsigned c = lane; c < d; c += 32) squares += double(z[c]) * z[c];
    const double norm = sqrt(sum_of_warp(squares));
    rows += size_t(row) * parts * width;
    for (unsigned c = lane; c < width; c += 32) {
        const float v = row < n && c < d ? unit(z + c, &norm) : 0.0f;
        const uint32_t rounded = bf16x2(v, 0.0f);
        rows[c] = static_cast<uint16_t>(rounded);
        if (parts == 2) rows[width + c] = static_cast<uint16_t>(bf16x2(v - bf16_low(rounded), 0.0f));
    }
    if (lane == 0) norms[row] = norm;
}

// lse[i] = ln Σ exp over the slices' sums, times exp(maxima) or exp(bound), and exp(own[i]) where own is given. `maxima`
// are logarithms to the base 2, if not null.
extern "C" __global__ void lse_of_slices(const float *maxima, const float *sums, unsigned slices, unsigned padded,
                                         double bound, const float *own, float *lse) {
    const unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= padded) return;
    const double ln2 = 0.69314718055994530942;
    double top = maxima ? -INFINITY : bound, sum = 0.0;
    if (maxima)
        for (unsigned s = 0; s < slices; s++) top = fmax(top, maxima[size_t(s) * padded + row] * ln2);
    if (own) top = fmax(top, double(own[row]));
    for (unsigned s = 0; s < slices; s++) {
        const double part = sums[size_t(s) * padded + row];
        // Else nothing but columns that are left out, and a maximum of −∞.
        if (part != 0.0) sum += part * exp((maxima ? maxima[size_t(s) * padded + row] * ln2 : bound) - top);
    }
    if (own) sum += exp(own[row] - top);
    lse[row] = sum == 0.0 ? -INFINITY : static_cast<float>(top + log(sum));
}

// The factors of the softmax w exp(S − lse) as `gradient_tiles` takes them, with `lse2` if not null; and where `own` is
// given, `pulls[i]` = w (exp(own − lse) − 1), the weight of the positive's own row. w is weights[i], or `weight`.
extern "C" __global__ void softmax_factors(const float *lse, const float *weights, float weight, unsigned n,
                                           unsigned padded, double bound, const float *own, float *factors,
                                           float *lse2, float *pulls) {
    const unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= padded) return;
    const double w = row >= n ? 0.0 : weights ? weights[row] : weight;
    if (lse2) {
        factors[row] = static_cast<float>(w);
        // exp(S − ∞) is 0, whatever the lse of a row without weight.
        lse2[row] = w == 0.0 ? INFINITY : static_cast<float>(lse[row] * 1.4426950408889634074);
    } else {
        factors[row] = w == 0.0 ? 0.0f : static_cast<float>(w * exp(bound - lse[row]));
    }
    if (pulls) pulls[row] = w == 0.0 ? 0.0f : static_cast<float>(w * expm1(double(own[row]) - lse[row]));
}

// logits[i] = scale · shares[i] · (⟨v_i, u_k⟩ − itself · ⟨v_i, v_i⟩), with k = targets[i] or i, and shares of 1 if null.
extern "C" __global__ void own_logits(const float *z, const double *norms, unsigned n, unsigned d, const float *u,
                                      const double *u_norms, const uint32_t *targets, const float *shares,
                                      unsigned itself, double scale, float *logits) {
    const unsigned row = row_of_warp(), lane = threadIdx.x % 32;
    const size_t target = row < n ? (targets ? targets[row] : row) : 0;
    double dot = 0.0;
    if (row < n)
        for (unsigned c = lane; c < d; c += 32) {
            const double v = unit(z + size_t(row) * d + c, norms + row);
            const double other = unit(u + target * d + c, u_norms ? u_norms + target : nullptr);
            dot += v * (itself ? other - v : other);
        }
    dot = sum_of_warp(dot);
    if (lane == 0) logits[row] = row < n ? static_cast<float>(scale * (shares ? shares[row] : 1.0f) * dot) : 0.0f;
}

// The row `shift` rows on, of n in a ring; none for the padding.
extern "C" __global__ void shifted_rows(unsigned n, unsigned padded, unsigned shift, uint32_t *list) {
    const unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < padded) list[row] = row < n ? (row + shift) % n : ~0u;
}

// In place: from the tiles' cosines to logits.
extern "C" __global__ void scale_rows(float *x, unsigned padded, float scale) {
    const unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < padded) x[row] *= scale;
}

// sums[l] = Σ v_i over the rows i = list[offsets[l]] … list[offsets[l + 1] − 1]; a block for each l, and for each 32
// columns. Its warps take every eighth row and are added up in order.
extern "C" __global__ void label_sums(const float *z, const double *norms, unsigned d, const uint32_t *offsets,
                                      const uint32_t *list, float *sums) {
    __shared__ float parts[8][32];
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, c = blockIdx.y * 32 + lane;
    float sum = 0.0f;
    if (c < d)
        for (unsigned at = offsets[blockIdx.x] + warp; at < offsets[blockIdx.x + 1]; at += 8)
            sum += unit(z + size_t(list[at]) * d + c, norms + list[at]);
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && c < d) {
        float total = 0.0f;
        for (int w = 0; w < 8; w++) total += parts[w][lane];
        sums[size_t(blockIdx.x) * d + c] = total;
    }
}

// Σ_i w_i [(lse_i − own_i) + (other_lse_i − own_i)], the second term where other_lse is given. One block.
extern "C" __global__ void loss(const float *lse, const float *other_lse, const float *own, const float *weights,
                                float weight, unsigned n, float *out) {
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
        const double w = weights ? weights[i] : weight;
        if (w == 0.0) continue;
        double term = double(lse[i]) - own[i];
        if (other_lse) term += double(other_lse[i]) - own[i];
        sum += w * term;
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) *out = static_cast<float>(sum);
}

// out = grad Σ x_i. One block.
extern "C" __global__ void total(const double *x, unsigned n, const float *grad, float *out) {
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) *out = static_cast<float>(*grad * sum);
}

// dz_i = grad · scale · (dv_i − v_i ⟨v_i, dv_i⟩)/‖z_i‖, and along_i = ⟨v_i, dv_i⟩ where `along` is given. dv_i is the sum
// of the slices' sums, if not null, and of
//   (pulls[i] + other_pulls[k]) u_k, k = targets[i], or i if `targets` is null and `offsets` too;
//   pulls[k] u_k over k = list[offsets[i]] … list[offsets[i + 1] − 1], if `offsets` is given;
// where u_k is a row of u [·, d] over its norm.
extern "C" __global__ void finish(const float *z, const double *norms, unsigned n, unsigned d, unsigned width,
                                  const float *sums, unsigned slices, unsigned padded, const float *u,
                                  const double *u_norms, const uint32_t *targets, const float *pulls,
                                  const float *other_pulls, const uint32_t *offsets, const uint32_t *list,
                                  double scale, const float *grad, double *along, float *dz) {
    constexpr int MOST = 8; // numbers of a row that a lane has
    const unsigned row = row_of_warp(), lane = threadIdx.x % 32;
    if (row >= n) return; // the whole warp
    float dv[MOST];
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        const unsigned c = 32 * i + lane;
        dv[i] = 0.0f;
        if (sums && c < d)
            for (unsigned s = 0; s < slices; s++) dv[i] += sums[(size_t(s) * padded + row) * width + c];
    }
    auto add = [&](size_t k, float pull) {
#pragma unroll
        for (int i = 0; i < MOST; i++) {
            const unsigned c = 32 * i + lane;
            if (c < d) dv[i] += pull * unit(u + k * d + c, u_norms ? u_norms + k : nullptr);
        }
    };
    if (offsets) {
        for (unsigned at = offsets[row]; at < offsets[row + 1]; at++) add(list[at], pulls[list[at]]);
    } else {
        const unsigned k = targets ? targets[row] : row;
        add(k, pulls[row] + (other_pulls ? other_pulls[k] : 0.0f));
    }
    float v[MOST];
    double dot = 0.0;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        const unsigned c = 32 * i + lane;
        v[i] = c < d ? unit(z + size_t(row) * d + c, norms + row) : 0.0f;
        dot += double(v[i]) * dv[i];
    }
    dot = sum_of_warp(dot);
    if (along && lane == 0) along[row] = dot;
    const double norm = norms[row], factor = norm == 0.0 ? 0.0 : *grad * scale / norm;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        const unsigned c = 32 * i + lane;
        if (c < d) dz[size_t(row) * d + c] = norm == 0.0 ? 0.0f : static_cast<float>((dv[i] - v[i] * dot) * factor);
    }
}
