// The similarities' passes of `info_nce`'s module on tensor cores; `tiles.rs` launches them.
//
// Rows are unit vectors in bf16, `PARTS` of them one behind the other: with one part v is rounded to 8 bits; with two,
// v ≈ high + low to 16 bits, and a product is high·high + high·low + low·high, summed in f32. A row's width D is d
// padded with zeros. A block of four warps keeps its rows of a, and walks over tiles of TILE rows of b, of which
// the next is on its way into shared memory while one is worked on (the order of FlashAttention: Dao 2023,
// arXiv:2307.08691). blockIdx.y is a slice of b's tiles; slices are added up in order by the kernels that follow, no
// sum depends on the order in which blocks run.
//
// Arrays with a number for each row have as many as the padded rows; a list's number for "none" is 2³² − 1.
//
// Without nvcc the file is C++ over `emulate.h`: the tests run it.
#ifdef __CUDACC__
#include "ptx.cuh"
#endif

constexpr int WARPS = 4;
constexpr int TILE = 64;
// Numbers for each row of b that a stage brings along: factor, lse, and two lists.
constexpr int LISTS = 4;

// Sizes of a pass whose warps each take 16·ROW_TILES rows of a.
template <int D, int PARTS, int ROW_TILES> struct Sizes {
    static constexpr int STEPS = D / 16;
    static constexpr int CHUNKS = PARTS * D / 8; // of 16 bytes, in a row
    static constexpr int WARP_ROWS = 16 * ROW_TILES;
    static constexpr int ROWS = WARPS * WARP_ROWS;
    static constexpr int ROW_BYTES = 16 * CHUNKS;
    static constexpr int TILE_BYTES = TILE * ROW_BYTES;
    static constexpr int STAGE_BYTES = TILE_BYTES + LISTS * TILE * 4;
};

// Of each pass: tiles of 16 rows of a for a warp, and blocks of a multiprocessor that the registers are cut for.
template <int D, int PARTS> struct LseSizes {
    static constexpr int ROW_TILES = D * PARTS <= 256 ? 2 : 1, BLOCKS = D * PARTS <= 128 ? 3 : 1;
};
template <int D, int PARTS> struct GradientSizes {
    static constexpr int ROW_TILES = D <= 128 ? 2 : 1, BLOCKS = D * PARTS <= 128 ? 2 : 1;
};

// Where a chunk of a row is. Of eight rows, the same chunk is in eight different groups of four banks.
template <class S> __device__ __forceinline__ unsigned char *chunk_at(unsigned char *tile, int row, int chunk) {
    return tile + row * S::ROW_BYTES + ((chunk ^ (row & 7)) << 4);
}

// Starts the copy of `rows` rows.
template <class S> __device__ __forceinline__ void copy_rows(unsigned char *tile, const uint4 *from, int rows) {
    for (int i = threadIdx.x; i < rows * S::CHUNKS; i += 32 * WARPS) {
        cp_async_16(chunk_at<S>(tile, i / S::CHUNKS, i % S::CHUNKS), from + i);
    }
}

// What a lane needs to know of its place: `group` = lane/4 is its row and `pair` = lane mod 4 its pair of columns in an
// 8×8 part of an accumulator.
struct Lane {
    int warp, index, group, pair;
    __device__ __forceinline__ Lane()
        : warp(threadIdx.x / 32), index(threadIdx.x % 32), group(index / 4), pair(index % 4) {}
};

// The fragment of rows `row` … `row` + 15 and of chunks `chunk`, `chunk` + 1 as mma's a.
template <class S>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], unsigned char *tile, const Lane &lane, int row, int chunk) {
    ldmatrix_x4(a, chunk_at<S>(tile, row + lane.index % 16, chunk + lane.index / 16));
}

// s = a bᵀ of the warp's rows and a tile: s[i][j] holds rows 16i … of the warp's and columns 8j … of the tile. The
// fragments of a come from registers if IN_REGISTERS.
template <class S, int D, int PARTS, int ROW_TILES, bool IN_REGISTERS, int KEPT>
__device__ __forceinline__ void similarities(float (&s)[ROW_TILES][TILE / 8][4], unsigned char *rows,
                                             const uint32_t (&kept)[KEPT][ROW_TILES][4], unsigned char *tile,
                                             const Lane &lane) {
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[i][j][e] = 0.0f;
    const int first = lane.warp * S::WARP_ROWS;
    const int b_row = (lane.index & 7) + ((lane.index >> 4) << 3), b_chunk = (lane.index >> 3) & 1;
#pragma unroll
    for (int step = 0; step < S::STEPS; step++) {
        uint32_t a[PARTS][ROW_TILES][4];
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
            if constexpr (IN_REGISTERS) {
#pragma unroll
                for (int e = 0; e < 4; e++) a[0][i][e] = kept[step][i][e];
            } else {
#pragma unroll
                for (int part = 0; part < PARTS; part++)
                    load_a<S>(a[part][i], rows, lane, first + 16 * i, 2 * step + part * (D / 8));
            }
        }
#pragma unroll
        for (int j = 0; j < TILE / 16; j++) {
            uint32_t b[PARTS][4];
#pragma unroll
            for (int part = 0; part < PARTS; part++)
                ldmatrix_x4(b[part], chunk_at<S>(tile, 16 * j + b_row, 2 * step + part * (D / 8) + b_chunk));
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    mma_m16n8k16(s[i][2 * j + half], a[0][i], b[0][2 * half], b[0][2 * half + 1]);
                    if constexpr (PARTS == 2) {
                        mma_m16n8k16(s[i][2 * j + half], a[0][i], b[1][2 * half], b[1][2 * half + 1]);
                        mma_m16n8k16(s[i][2 * j + half], a[1][i], b[0][2 * half], b[0][2 * half + 1]);
                    }
                }
            }
        }
    }
}

// −∞ where the columns are none of b's `m` rows.
template <int ROW_TILES>
__device__ __forceinline__ void mask_end(float (&s)[ROW_TILES][TILE / 8][4], const Lane &lane, unsigned first,
                                         unsigned m) {
    if (first + TILE <= m) return;
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (first + 8 * j + 2 * lane.pair + (e & 1) >= m)
#pragma unroll
                for (int i = 0; i < ROW_TILES; i++) s[i][j][e] = -INFINITY;
}

// −∞ in the column `at` of the tile, of the rows `half` of s_i.
__device__ __forceinline__ void mask_column(float (&s)[TILE / 8][4], const Lane &lane, int half, unsigned at) {
    if (at >= TILE) return;
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            if (8u * j + 2 * lane.pair + e == at) s[j][2 * half + e] = -INFINITY;
}

// Per row of a: Σ_k exp2(x_ik − bound) over the slice's tiles, with x = s · scale, in `sums`; if ONLINE with the largest
// x of the slice instead of the bound, which goes to `maxima`. `sums` and `maxima` are [slices, padded rows].
// Row i leaves out column excluded[i]; the product with column positives[i] goes to cosines[i].
template <int D, int PARTS, bool ONLINE>
__device__ __forceinline__ void lse_tiles(const uint4 *a, const uint4 *b, unsigned m, unsigned slice_tiles, float scale,
                                          float bound, const uint32_t *excluded, const uint32_t *positives,
                                          float *maxima, float *sums, float *cosines) {
    constexpr int ROW_TILES = LseSizes<D, PARTS>::ROW_TILES;
    // The fragments of the rows of a stay in registers where these suffice.
    constexpr bool IN_REGISTERS = PARTS == 1 && D <= 128;
    using S = Sizes<D, PARTS, ROW_TILES>;
    DYNAMIC_SHARED(shared);
    unsigned char *rows = shared;
    unsigned char *stages = shared + S::ROWS * S::ROW_BYTES;
    const Lane lane;
    const unsigned tiles = (m + TILE - 1) / TILE;
    const unsigned begin = blockIdx.y * slice_tiles, end = begin + slice_tiles < tiles ? begin + slice_tiles : tiles;

    copy_rows<S>(rows, a + size_t(blockIdx.x) * S::ROWS * S::CHUNKS, S::ROWS);
    copy_rows<S>(stages, b + size_t(begin) * TILE * S::CHUNKS, TILE);
    cp_async_commit();

    const unsigned first_row = blockIdx.x * S::ROWS + lane.warp * S::WARP_ROWS + lane.group;
    unsigned left_out[ROW_TILES][2], positive[ROW_TILES][2];
    float max[ROW_TILES][2], sum[ROW_TILES][2], rest[ROW_TILES][2];
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const unsigned row = first_row + 16 * i + 8 * half;
            left_out[i][half] = excluded ? excluded[row] : ~0u;
            positive[i][half] = positives ? positives[row] : ~0u;
            max[i][half] = -INFINITY;
            sum[i][half] = rest[i][half] = 0.0f;
        }

    constexpr int KEPT = IN_REGISTERS ? S::STEPS : 1;
    uint32_t kept[KEPT][ROW_TILES][4];
    for (unsigned tile = begin; tile < end; tile++) {
        cp_async_wait<0>();
        // This tile is there for all warps, and all are done with the one before, whose place the next one takes.
        __syncthreads();
        if (tile + 1 < end) {
            copy_rows<S>(stages + (tile + 1 - begin) % 2 * S::STAGE_BYTES, b + size_t(tile + 1) * TILE * S::CHUNKS, TILE);
        }
        cp_async_commit();
        if (IN_REGISTERS && tile == begin) {
#pragma unroll
            for (int step = 0; step < KEPT; step++)
#pragma unroll
                for (int i = 0; i < ROW_TILES; i++)
                    load_a<S>(kept[step][i], rows, lane, lane.warp * S::WARP_ROWS + 16 * i, 2 * step);
        }
        float s[ROW_TILES][TILE / 8][4];
        similarities<S, D, PARTS, ROW_TILES, IN_REGISTERS, KEPT>(
            s, rows, kept, stages + (tile - begin) % 2 * S::STAGE_BYTES, lane);

        mask_end<ROW_TILES>(s, lane, tile * TILE, m);
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const unsigned at = positive[i][half] - tile * TILE;
                if (at < TILE) {
#pragma unroll
                    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                        for (int e = 0; e < 2; e++)
                            if (8u * j + 2 * lane.pair + e == at)
                                cosines[first_row + 16 * i + 8 * half] = s[i][j][2 * half + e];
                }
                mask_column(s[i], lane, half, left_out[i][half] - tile * TILE);

                float shift = bound;
                if (ONLINE) {
                    float top = max[i][half];
#pragma unroll
                    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                        for (int e = 0; e < 2; e++) top = fmaxf(top, s[i][j][2 * half + e] * scale);
                    // −∞ − −∞ is no number.
                    shift = top == -INFINITY ? 0.0f : top;
                    const float shrink = exp2_approx(max[i][half] - shift);
                    sum[i][half] *= shrink;
                    rest[i][half] *= shrink;
                    max[i][half] = top;
                }
                float part = 0.0f;
#pragma unroll
                for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++) part += exp2_approx(fmaf(s[i][j][2 * half + e], scale, -shift));
                // Thousands of tiles are summed (Kahan).
                const float term = part - rest[i][half], total = sum[i][half] + term;
                rest[i][half] = (total - sum[i][half]) - term;
                sum[i][half] = total;
            }
    }

    // The four lanes of a row have a quarter of its columns each.
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = max[i][half], total = sum[i][half];
            if (ONLINE) {
                top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
                top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
                total *= exp2_approx(max[i][half] - (top == -INFINITY ? 0.0f : top));
            }
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            if (lane.pair == 0) {
                const size_t at =
                    size_t(blockIdx.y) * gridDim.x * S::ROWS + first_row + 16 * i + 8 * half;
                sums[at] = total;
                if (ONLINE) maxima[at] = top;
            }
        }
}

// Per row i of a: Σ_k W(i, k) b_k over the slice's tiles, in `sums` [slices, padded rows, D]. With x = s · scale,
// W(i, k) = (row_factors[i] + column_factors[k]) exp2(x − bound), or if ONLINE
// W(i, k) = row_factors[i] exp2(x − row_lse[i]) + column_factors[k] exp2(x − column_lse[k]).
// A side without factors has none. W is 0 in the columns row_lists[i] of row i, and in the rows column_lists[k] of
// column k.
struct Side {
    const float *factors, *lse;
    const uint32_t *lists[2];
};

template <int D, int PARTS, bool ONLINE>
__device__ __forceinline__ void gradient_tiles(const uint4 *a, const uint4 *b, unsigned m, unsigned slice_tiles,
                                               float scale, float bound, const Side &row_side, const Side &column_side,
                                               float *sums) {
    constexpr int ROW_TILES = GradientSizes<D, PARTS>::ROW_TILES;
    using S = Sizes<D, PARTS, ROW_TILES>;
    DYNAMIC_SHARED(shared);
    unsigned char *rows = shared;
    unsigned char *stages = shared + S::ROWS * S::ROW_BYTES;
    const Lane lane;
    const unsigned tiles = (m + TILE - 1) / TILE;
    const unsigned begin = blockIdx.y * slice_tiles, end = begin + slice_tiles < tiles ? begin + slice_tiles : tiles;

    // A tile, and the numbers that belong to its rows: sixteen threads copy 64 of these.
    auto copy_stage = [&](unsigned tile) {
        unsigned char *stage = stages + (tile - begin) % 2 * S::STAGE_BYTES;
        copy_rows<S>(stage, b + size_t(tile) * TILE * S::CHUNKS, TILE);
        if (threadIdx.x < LISTS * TILE / 4) {
            const int list = threadIdx.x / (TILE / 4), at = threadIdx.x % (TILE / 4) * 4;
            const void *from = list == 0   ? static_cast<const void *>(column_side.factors)
                               : list == 1 ? static_cast<const void *>(column_side.lse)
                               : list == 2 ? static_cast<const void *>(column_side.lists[0])
                                           : static_cast<const void *>(column_side.lists[1]);
            if (from) {
                cp_async_16(stage + S::TILE_BYTES + (list * TILE + at) * 4,
                            static_cast<const uint32_t *>(from) + size_t(tile) * TILE + at);
            }
        }
    };
    copy_rows<S>(rows, a + size_t(blockIdx.x) * S::ROWS * S::CHUNKS, S::ROWS);
    copy_stage(begin);
    cp_async_commit();

    const unsigned warp_row = blockIdx.x * S::ROWS + lane.warp * S::WARP_ROWS;
    float factor[ROW_TILES][2], lse[ROW_TILES][2];
    unsigned left_out[ROW_TILES][2][2];
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const unsigned row = warp_row + lane.group + 16 * i + 8 * half;
            factor[i][half] = row_side.factors ? row_side.factors[row] : 0.0f;
            lse[i][half] = ONLINE && row_side.factors ? row_side.lse[row] : INFINITY;
#pragma unroll
            for (int list = 0; list < 2; list++)
                left_out[i][half][list] = row_side.lists[list] ? row_side.lists[list][row] : ~0u;
        }

    float out[ROW_TILES][D / 8][4];
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int j = 0; j < D / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) out[i][j][e] = 0.0f;

    const uint32_t none[1][ROW_TILES][4] = {};
    for (unsigned tile = begin; tile < end; tile++) {
        cp_async_wait<0>();
        // As in lse_tiles.
        __syncthreads();
        if (tile + 1 < end) copy_stage(tile + 1);
        cp_async_commit();
        unsigned char *stage = stages + (tile - begin) % 2 * S::STAGE_BYTES;
        const float *column_factors = reinterpret_cast<const float *>(stage + S::TILE_BYTES);
        const float *column_lse = column_factors + TILE;
        const uint32_t *column_lists = reinterpret_cast<const uint32_t *>(column_lse + TILE);

        float s[ROW_TILES][TILE / 8][4];
        similarities<S, D, PARTS, ROW_TILES, false, 1>(s, rows, none, stage, lane);

        mask_end<ROW_TILES>(s, lane, tile * TILE, m);
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int list = 0; list < 2; list++)
                    mask_column(s[i], lane, half, left_out[i][half][list] - tile * TILE);
#pragma unroll
        for (int list = 0; list < 2; list++) {
            if (column_side.lists[list] == nullptr) continue;
#pragma unroll
            for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const unsigned at = column_lists[list * TILE + 8 * j + 2 * lane.pair + e] - warp_row;
                    if (at >= S::WARP_ROWS || at % 8 != unsigned(lane.group)) continue;
#pragma unroll
                    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
                        for (int half = 0; half < 2; half++)
                            if (at / 8 == 2u * i + half) s[i][j][2 * half + e] = -INFINITY;
                }
        }

#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int column = 8 * j + 2 * lane.pair + e;
                const float other = column_side.factors ? column_factors[column] : 0.0f;
                const float other_lse = ONLINE && column_side.factors ? column_lse[column] : INFINITY;
#pragma unroll
                for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        float &w = s[i][j][2 * half + e];
                        if (ONLINE) {
                            w = factor[i][half] * exp2_approx(fmaf(w, scale, -lse[i][half])) +
                                other * exp2_approx(fmaf(w, scale, -other_lse));
                        } else {
                            w = (factor[i][half] + other) * exp2_approx(fmaf(w, scale, -bound));
                        }
                    }
            }

        // Two neighbouring 16×8 parts of the accumulator are a 16×16 fragment of mma's a.
        const int b_row = lane.index % 16, b_chunk = lane.index / 16;
#pragma unroll
        for (int step = 0; step < TILE / 16; step++) {
            uint32_t w[PARTS][ROW_TILES][4];
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float low = s[i][2 * step + e / 2][e % 2 * 2], high = s[i][2 * step + e / 2][e % 2 * 2 + 1];
                    const uint32_t rounded = bf16x2(low, high);
                    w[0][i][e] = rounded;
                    if constexpr (PARTS == 2)
                        w[1][i][e] = bf16x2(low - bf16_low(rounded), high - bf16_high(rounded));
                }
#pragma unroll
            for (int j = 0; j < D / 16; j++) {
                uint32_t v[PARTS][4];
#pragma unroll
                for (int part = 0; part < PARTS; part++)
                    ldmatrix_x4_trans(v[part],
                                      chunk_at<S>(stage, 16 * step + b_row, 2 * j + part * (D / 8) + b_chunk));
#pragma unroll
                for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        float(&o)[4] = out[i][2 * j + half];
                        mma_m16n8k16(o, w[0][i], v[0][2 * half], v[0][2 * half + 1]);
                        if constexpr (PARTS == 2) {
                            mma_m16n8k16(o, w[0][i], v[1][2 * half], v[1][2 * half + 1]);
                            mma_m16n8k16(o, w[1][i], v[0][2 * half], v[0][2 * half + 1]);
                        }
                    }
            }
        }
    }

#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const size_t row =
                size_t(blockIdx.y) * gridDim.x * S::ROWS + warp_row + lane.group + 16 * i + 8 * half;
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                float2 two;
                two.x = out[i][j][2 * half];
                two.y = out[i][j][2 * half + 1];
                *reinterpret_cast<float2 *>(sums + row * D + 8 * j + 2 * lane.pair) = two;
            }
        }
}

#define TILE_KERNELS(D, PARTS, NAME, ONLINE)                                                                           \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, LseSizes<D, PARTS>::BLOCKS)                              \
        lse_##D##_##PARTS##_##NAME(const uint4 *a, const uint4 *b, unsigned m, unsigned slice_tiles, float scale,      \
                                   float bound, const uint32_t *excluded, const uint32_t *positives, float *maxima,    \
                                   float *sums, float *cosines) {                                                      \
        lse_tiles<D, PARTS, ONLINE>(a, b, m, slice_tiles, scale, bound, excluded, positives, maxima, sums, cosines);   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, GradientSizes<D, PARTS>::BLOCKS) gradient_##D##_##PARTS##_##NAME( \
        const uint4 *a, const uint4 *b, unsigned m, unsigned slice_tiles, float scale, float bound,                    \
        const float *row_factors, const float *row_lse, const uint32_t *row_list_0, const uint32_t *row_list_1,        \
        const float *column_factors, const float *column_lse, const uint32_t *column_list_0,                           \
        const uint32_t *column_list_1, float *sums) {                                                                  \
        const Side row_side{row_factors, row_lse, {row_list_0, row_list_1}};                                           \
        const Side column_side{column_factors, column_lse, {column_list_0, column_list_1}};                            \
        gradient_tiles<D, PARTS, ONLINE>(a, b, m, slice_tiles, scale, bound, row_side, column_side, sums);             \
    }

#define FOR_EACH_TILE_KERNEL(X)                                                                                        \
    X(64, 1, bound, false) X(64, 1, online, true) X(64, 2, bound, false) X(64, 2, online, true)                        \
    X(128, 1, bound, false) X(128, 1, online, true) X(128, 2, bound, false) X(128, 2, online, true)                    \
    X(256, 1, bound, false) X(256, 1, online, true) X(256, 2, bound, false) X(256, 2, online, true)

FOR_EACH_TILE_KERNEL(TILE_KERNELS)
