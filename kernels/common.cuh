// What every kernel is written in: a subset that is CUDA C++ without any header for the device, and C for the host,
// where the same source is tested. Owns types, half precision, 16-byte vectors and the phases of a block; no kernel.
//
// A kernel is `KERNEL(name, (threads), parameters) { EACH_BLOCK { phases } }`, a phase is `EACH_THREAD(t) { ... }`, and
// `BARRIER;` stands between phases. On the device a phase runs once, with t = threadIdx.x; on the host it loops over
// the threads of a block and the kernel loops over the blocks of the grid. So nothing that a thread has in variables
// outlives its phase (shared memory does), every phase is reached by every thread, and `continue` ends a thread's phase.
//
// Where the lanes of a warp multiply matrices together, a phase is `EACH_WARP(w) { ... }` and what its lanes do apart
// stands in `EACH_LANE(l) { ... }`. Types ending in `_lanes` are a register of every lane, which lives as long as the
// phase: `LANE(name, l)`. `OTHER_LANE(name, l)` is any lane's, as an earlier EACH_LANE left it.
//
// On the host, `name_host` takes the kernel's parameters, after convoy_host_launch has set the grid.

#ifndef CONVOY_COMMON
#define CONVOY_COMMON

typedef unsigned char u8;
typedef unsigned short f16; // The bits of an IEEE binary16.
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef __CUDACC__

#define KERNEL(name, bounds, ...) extern "C" __global__ void __launch_bounds__ bounds name(__VA_ARGS__)
#define DEVICE static __device__ __forceinline__
#define RESTRICT __restrict__
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define EACH_BLOCK
#define EACH_THREAD(t) for (u32 t = threadIdx.x, t##_once = 1; t##_once; t##_once = 0)
#define EACH_WARP(w) for (u32 w = threadIdx.x / 32, w##_once = 1; w##_once; w##_once = 0)
#define EACH_LANE(l) for (u32 l = threadIdx.x % 32, l##_once = l < 32; l##_once; l##_once = 0)
#define LANE(name, l) (name)
#define OTHER_LANE(name, l) __shfl_sync(0xffffffff, name, (int)(l))
// The compiler leaves loads that stand before it there, instead of moving them behind a multiplication that waits for
// others; but not those of RESTRICT constants.
#define LANES_MEET __syncwarp()
#define BARRIER __syncthreads()
#define THREADS blockDim.x
#define BLOCK_X blockIdx.x
#define BLOCK_Y blockIdx.y
#define GRID_X gridDim.x

typedef u32 word_lanes;
typedef float float_lanes;

extern __shared__ uint4 convoy_shared[];

#define DIVIDE(a, b) __fdiv_rn(a, b)
#define SUBTRACT(a, b) __fsub_rn(a, b)
#define EXPONENTIAL(x) expf(x)
#define INFINITE __int_as_float(0x7f800000)
#define ADD_ATOMICALLY(at, value) atomicAdd(at, value)
// Before an atomic operation and after it: whoever sees it sees what the block wrote before the barrier that led here.
// __threadfence() also puts the fences in one order, which takes longer and nobody needs.
#define FENCE asm volatile("fence.acq_rel.gpu;" ::: "memory")
#define FUNNEL(low, high, shift) __funnelshift_r(low, high, shift)
#define PREFETCH(at) asm volatile("prefetch.global.L2 [%0];" ::"l"(at))
#define BYTE(word, index) ((int)__byte_perm(word, 0, 0x4440 | (index)))

DEVICE float from_f16(f16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Round to nearest, ties to even; beyond 65504 infinity; any NaN is 0x7fff.
DEVICE f16 to_f16(float value) {
    f16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// What other blocks wrote: past the cache of this multiprocessor, which may be stale.
DEVICE float4 load_fresh(const float4 *at) {
    float4 value;
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
                 : "l"(at)
                 : "memory");
    return value;
}

// sums += a * b in fragments of mma.m16n8k16 with halves in and floats out: sums[4], a[4], b[2].
DEVICE void mma(float *sums, const u32 *a, const u32 *b) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    for (u32 k = 0; k < 2; ++k)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                     : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[k]));
#endif
}

#else

typedef struct { u32 x, y, z, w; } __attribute__((aligned(16))) uint4;
typedef struct { int x, y, z, w; } __attribute__((aligned(16))) int4;
typedef struct { float x, y, z, w; } __attribute__((aligned(16))) float4;
typedef struct { float x, y; } __attribute__((aligned(8))) float2;
typedef struct { int x, y; } __attribute__((aligned(8))) int2;
typedef struct { u32 x, y; } __attribute__((aligned(8))) uint2;

// One a thread of the test, so that tests run side by side.
static _Thread_local struct {
    u32 grid_x, grid_y, block_x, block_y, threads, stride, block_stride, shared_bytes;
    u64 block_turn;
    u8 *shared;
} convoy_host;

// The grid and the block of the kernels that this thread calls next. `shared` is 16-byte aligned. `stride` is odd where
// `threads` is a power of two: threads take their turns 0, stride, 2 stride, ... modulo `threads`, so a phase that
// reads what the same phase writes shows. Blocks do so by `block_stride`, which has no factor in common with their
// number.
void convoy_host_launch(u32 grid_x, u32 grid_y, u32 threads, u32 stride, u32 block_stride, u8 *shared,
                        u32 shared_bytes) {
    convoy_host.grid_x = grid_x;
    convoy_host.grid_y = grid_y;
    convoy_host.threads = threads;
    convoy_host.stride = stride;
    convoy_host.block_stride = block_stride;
    convoy_host.shared = shared;
    convoy_host.shared_bytes = shared_bytes;
}

static inline u64 convoy_host_blocks(void) { return (u64)convoy_host.grid_x * convoy_host.grid_y; }

// A block finds rubbish in shared memory.
static inline void convoy_host_enter(u64 turn) {
    u64 blocks = convoy_host_blocks(), block = blocks ? turn * convoy_host.block_stride % blocks : 0;
    convoy_host.block_turn = turn;
    convoy_host.block_x = (u32)(block % convoy_host.grid_x);
    convoy_host.block_y = (u32)(block / convoy_host.grid_x);
    __builtin_memset(convoy_host.shared, 0xA5, convoy_host.shared_bytes);
}

static inline u32 convoy_host_turn(u32 turn) { return (u32)((u64)turn * convoy_host.stride % convoy_host.threads); }

#define KERNEL(name, bounds, ...) void name##_host(__VA_ARGS__)
#define DEVICE static inline
#define RESTRICT restrict
#define UNROLL
#define ROLLED
#define EACH_BLOCK \
    for (convoy_host_enter(0); convoy_host.block_turn < convoy_host_blocks(); convoy_host_enter(convoy_host.block_turn + 1))
#define EACH_THREAD(t) \
    for (u32 t##_turn = 0, t = 0; t##_turn < convoy_host.threads; t = convoy_host_turn(++t##_turn))
// Lanes have their turns within their warp's.
#define EACH_WARP(w) \
    for (u32 w##_turn = 0, w = 0; w##_turn < convoy_host.threads / 32; \
         ++w##_turn, w = w##_turn * convoy_host.stride % (convoy_host.threads / 32))
#define EACH_LANE(l) for (u32 l##_turn = 0, l = 0; l##_turn < 32; ++l##_turn, l = l##_turn * convoy_host.stride % 32)
#define LANE(name, l) ((name)[l])
#define OTHER_LANE(name, l) ((name)[l])
#define LANES_MEET ((void)0)
#define BARRIER ((void)0)
#define THREADS convoy_host.threads
#define BLOCK_X convoy_host.block_x
#define BLOCK_Y convoy_host.block_y
#define GRID_X convoy_host.grid_x

typedef u32 word_lanes[32];
typedef float float_lanes[32];

#define convoy_shared convoy_host.shared

#define DIVIDE(a, b) ((a) / (b))
#define SUBTRACT(a, b) ((a) - (b))
#define EXPONENTIAL(x) __builtin_expf(x)
#define INFINITE __builtin_inff()
#define PREFETCH(at) ((void)*(volatile const u8 *)(at))
#define ADD_ATOMICALLY(at, value) \
    ({ \
        __typeof__(*(at)) before = *(at); \
        *(at) += (value); \
        before; \
    })
#define FENCE ((void)0)
#define FUNNEL(low, high, shift) ((u32)((((u64)(high) << 32) | (low)) >> (shift)))
#define BYTE(word, index) ((int)(((word) >> (8 * (index))) & 255))

static inline float convoy_float(u32 bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

static inline u32 convoy_bits(float value) {
    u32 bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

DEVICE float from_f16(f16 half) {
    u32 sign = (u32)(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 1023;
    if (exponent == 31) return convoy_float(sign | 0x7f800000 | (fraction << 13));
    if (exponent == 0) return convoy_float(sign | convoy_bits((float)fraction * 0x1p-24f));
    return convoy_float(sign | ((exponent + 112) << 23) | (fraction << 13));
}

DEVICE f16 to_f16(float value) {
    u32 bits = convoy_bits(value), sign = (bits >> 16) & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return 0x7fff;
    if (bits >= 0x477ff000) return (f16)(sign | 0x7c00);
    // Below the smallest normal half, the last place of 0.5 is that of a half: the addition rounds.
    if (bits < 0x38800000) return (f16)(sign | (convoy_bits(convoy_float(bits) + 0.5f) - 0x3f000000));
    return (f16)(sign | ((bits + 0xfff + ((bits >> 13) & 1) - 0x38000000) >> 13));
}

DEVICE float4 load_fresh(const float4 *at) { return *at; }

// Where the ISA's manual ("Matrix Fragments for mma.m16n8k16") puts the elements of a, b and the sums: a lane's group is
// lane / 4, its place in it lane % 4. The order of a sum is the device's secret. Unchecked, it takes a third of the time.
__attribute__((no_sanitize_undefined)) DEVICE void mma(float_lanes *sums, word_lanes *a, word_lanes *b) {
    float rows[16][16], factors[16][8], tile[16][8] = {{0.0f}};
    for (u32 lane = 0; lane < 32; ++lane) {
        u32 group = lane / 4, place = lane % 4;
        for (u32 i = 0; i < 8; ++i) {
            u32 row = i < 2 || (i >= 4 && i < 6) ? group : group + 8, k = place * 2 + (i & 1) + (i < 4 ? 0 : 8);
            rows[row][k] = from_f16((f16)(a[i / 2][lane] >> (16 * (i & 1))));
        }
        for (u32 i = 0; i < 4; ++i) {
            u32 k = place * 2 + (i & 1) + (i < 2 ? 0 : 8);
            factors[k][group] = from_f16((f16)(b[i / 2][lane] >> (16 * (i & 1))));
        }
    }
    for (u32 k = 0; k < 16; ++k)
        for (u32 row = 0; row < 16; ++row)
            for (u32 column = 0; column < 8; ++column) tile[row][column] += rows[row][k] * factors[k][column];
    for (u32 lane = 0; lane < 32; ++lane)
        for (u32 i = 0; i < 4; ++i) sums[i][lane] += tile[lane / 4 + i / 2 * 8][lane % 4 * 2 + (i & 1)];
}

#endif

#define SHARED(type, offset) ((type *)((u8 *)convoy_shared + (offset)))

// Two halves in a word, the first in the low bits.
DEVICE u32 pair_of(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return to_f16(low) | ((u32)to_f16(high) << 16);
#endif
}

// Eight halves, as they lie in memory, to floats.
DEVICE void spread(uint4 packed, float *lanes) {
    lanes[0] = from_f16((f16)packed.x);
    lanes[1] = from_f16((f16)(packed.x >> 16));
    lanes[2] = from_f16((f16)packed.y);
    lanes[3] = from_f16((f16)(packed.y >> 16));
    lanes[4] = from_f16((f16)packed.z);
    lanes[5] = from_f16((f16)(packed.z >> 16));
    lanes[6] = from_f16((f16)packed.w);
    lanes[7] = from_f16((f16)(packed.w >> 16));
}

DEVICE uint4 gather(const float *lanes) {
    uint4 packed;
    packed.x = pair_of(lanes[0], lanes[1]);
    packed.y = pair_of(lanes[2], lanes[3]);
    packed.z = pair_of(lanes[4], lanes[5]);
    packed.w = pair_of(lanes[6], lanes[7]);
    return packed;
}

DEVICE uint4 words(u32 x, u32 y, u32 z, u32 w) {
    uint4 packed;
    packed.x = x;
    packed.y = y;
    packed.z = z;
    packed.w = w;
    return packed;
}

DEVICE uint2 two_words(u32 x, u32 y) {
    uint2 packed;
    packed.x = x;
    packed.y = y;
    return packed;
}

// A NaN stays one.
DEVICE float clamp(float value, float low, float high) { return value < low ? low : value > high ? high : value; }

#endif
