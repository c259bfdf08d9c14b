// A convolution on the tensor cores for outputs so few that the device would idle: a block takes few of them and, where
// that is not enough, a part of their sums. The parts meet in memory, and whoever comes last adds them, so no block waits.
//
// A step is 32 channels of one tap. Steps are counted taps first, then channels: the pixels that a block's taps share stay in
// its multiprocessor's cache. Operands go from memory straight to the registers that the tensor cores read. The order
// of channels within a step is free as long as pixels and filters agree, so a lane has eight neighbouring ones by one load.

#ifndef CONVOY_COMMON
#include "common.cuh"
#endif

// Pixels and filters of a block. Its warps are two along the pixels, each with 32, and four along the steps.
#define SMALL_PIXELS 64
#define SMALL_FILTERS 32
#define SMALL_PARTS 4

// Floats from a pixel's sums to the next one's in shared memory: quads of lanes that write together hit different banks.
#define SMALL_PITCH 40

// Offsets count 16-byte words and may wrap below zero on their way. `tap` is where the step is within a window, `factor`
// where the lane's weights of it are in the first of its filters.
typedef struct {
    u32 tap;
    int y, x;
    word_lanes factor;
} SmallStep;

typedef struct {
    int height, width, kernel;
    u32 words; // Of a pixel.
} SmallShape;

// The lane's rows of the warp's tile: pixels group + 8 i and filters group + 8 j. Byte i of `inside_y` and of `inside_x` has
// the rows and columns of the window that are within the picture.
typedef struct {
    word_lanes window[4], inside_y, inside_x;
} SmallRows;

// In the order of the fragments: a[tile][half of the step][register], b[tile][half of the step][register].
typedef struct {
    word_lanes a[2 * 2 * 4], b[4 * 2 * 2];
} SmallOperands;

// Bit k of eight: whether start + k is in 0 .. end.
DEVICE u32 small_inside(int start, int end) {
    int from = start < 0 ? -start : 0, to = end - start;
    from = from < 8 ? from : 8;
    to = to < 8 ? to : 8;
    return to > from ? (1u << to) - (1u << from) : 0;
}

DEVICE void small_advance(SmallStep *step, SmallShape shape) {
    u32 kernel = (u32)shape.kernel, factor = shape.words;
    step->tap += shape.words;
    if (++step->x == shape.kernel) {
        step->x = 0;
        step->tap += ((u32)shape.width - kernel) * shape.words;
        if (++step->y == shape.kernel) {
            step->y = 0;
            step->tap += 4 - kernel * (u32)shape.width * shape.words;
            factor += 4 - kernel * kernel * shape.words;
        }
    }
    EACH_LANE(l) LANE(step->factor, l) += factor;
}

// Zeros for what is outside the picture, for filters beyond `filters`, and for all if not `wanted`.
DEVICE void small_fetch(SmallOperands *to, const uint4 *in, const uint4 *weight, SmallRows *rows,
                        SmallShape shape, SmallStep *step, int filters, int wanted) {
    EACH_LANE(l) {
        u32 pitch = 8 * (u32)(shape.kernel * shape.kernel) * shape.words;
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            uint4 seen = words(0, 0, 0, 0);
            if (wanted && (int)(8 * j) < filters) seen = weight[LANE(step->factor, l) + j * pitch];
            LANE(to->b[j * 4], l) = seen.x;
            LANE(to->b[j * 4 + 1], l) = seen.y;
            LANE(to->b[j * 4 + 2], l) = seen.z;
            LANE(to->b[j * 4 + 3], l) = seen.w;
        }
        u32 inside = wanted ? LANE(rows->inside_y, l) >> step->y & LANE(rows->inside_x, l) >> step->x : 0;
        UNROLL
        for (u32 i = 0; i < 4; ++i) {
            uint4 seen = words(0, 0, 0, 0);
            if (inside >> (8 * i) & 1) seen = in[LANE(rows->window[i], l) + step->tap];
            u32 at = i / 2 * 8 + i % 2;
            LANE(to->a[at], l) = seen.x;
            LANE(to->a[at + 2], l) = seen.y;
            LANE(to->a[at + 4], l) = seen.z;
            LANE(to->a[at + 6], l) = seen.w;
        }
    }
}

DEVICE void small_multiply(float_lanes *sums, SmallOperands *by) {
    UNROLL
    for (u32 half = 0; half < 2; ++half) {
        UNROLL
        for (u32 i = 0; i < 2; ++i) {
            UNROLL
            for (u32 j = 0; j < 4; ++j) mma(sums + (i * 4 + j) * 4, by->a + (i * 2 + half) * 4, by->b + (j * 2 + half) * 2);
        }
    }
}

// in [batch, height, width, channels], weight [filters, kernel, kernel, channels], bias [filters], addend null or like out,
// which it may be, out [batch, out_height, out_width, filters]; `channels` is a multiple of 32, `filters` of eight,
// `kernel` at most eight.
// grid.x is tiles of 64 pixels by 32 filters, the latter faster, grid.y is `splits` of the sums. With more than one,
// partials [tiles, splits, 64 * 32] is the kernel's, and counters [tiles] is zero before and after. A result depends on
// the shapes and `splits`, on no order.
KERNEL(convoy_small_convolution, (256, 2), const f16 *in, const f16 *weight, const float *RESTRICT bias,
       const f16 *addend, f16 *out, float *partials, u32 *counters, int batch, int height, int width, int channels,
       int filters, int out_height, int out_width, int kernel, int stride, int pad_top, int pad_left, int splits, float low,
       float high) {
    EACH_BLOCK {
        float *shared = SHARED(float, 0);
        u32 *last = SHARED(u32, SMALL_PARTS * SMALL_PIXELS * SMALL_PITCH * 4);
        u32 across = (u32)(filters + SMALL_FILTERS - 1) / SMALL_FILTERS, taps = (u32)(kernel * kernel);
        u32 first_pixel = BLOCK_X / across * SMALL_PIXELS, first_filter = BLOCK_X % across * SMALL_FILTERS;
        u32 pixels = (u32)(batch * out_height * out_width);

        EACH_WARP(w) {
            u32 part = w / 2, steps = taps * (u32)channels / 32, each = steps / (u32)splits, more = steps % (u32)splits;
            u32 from = each * BLOCK_Y + (BLOCK_Y < more ? BLOCK_Y : more), count = each + (BLOCK_Y < more ? 1 : 0);
            u32 begin = from + count * part / SMALL_PARTS;
            int left = (int)(from + count * (part + 1) / SMALL_PARTS - begin);
            SmallShape shape = {height, width, kernel, (u32)channels / 8};
            SmallStep step;
            u32 chunk = begin / taps, tap = begin % taps;
            step.y = (int)(tap / (u32)kernel);
            step.x = (int)(tap % (u32)kernel);
            step.tap = (u32)(step.y * width + step.x) * shape.words + chunk * 4;

            SmallRows rows;
            SmallOperands even, odd;
            float_lanes sums[2 * 4 * 4];
            // First a pixel a lane, as there are 32.
            word_lanes window, inside;
            EACH_LANE(l) {
                u32 pixel = first_pixel + w % 2 * 32 + l;
                u32 row = pixel / (u32)out_width, picture = row / (u32)out_height;
                int top = (int)(row - picture * (u32)out_height) * stride - pad_top;
                int edge = (int)(pixel - row * (u32)out_width) * stride - pad_left;
                u32 y = pixel < pixels ? small_inside(top, height) : 0;
                LANE(window, l) = ((picture * (u32)height + (u32)top) * (u32)width + (u32)edge) * shape.words;
                LANE(inside, l) = y << 8 | small_inside(edge, width);
            }
            EACH_LANE(l) {
                LANE(step.factor, l) = ((first_filter + l / 4) * taps + tap) * shape.words + chunk * 4 + l % 4;
                LANE(rows.inside_y, l) = LANE(rows.inside_x, l) = 0;
                UNROLL
                for (u32 i = 0; i < 4; ++i) {
                    u32 both = OTHER_LANE(inside, l / 4 + i * 8);
                    LANE(rows.inside_y, l) |= (both >> 8) << (8 * i);
                    LANE(rows.inside_x, l) |= (both & 255) << (8 * i);
                    LANE(rows.window[i], l) = OTHER_LANE(window, l / 4 + i * 8) + l % 4;
                }
                UNROLL
                for (u32 i = 0; i < 32; ++i) LANE(sums[i], l) = 0.0f;
            }
            const uint4 *seen = (const uint4 *)in, *factors = (const uint4 *)weight;
            int columns = filters - (int)first_filter;
            small_fetch(&even, seen, factors, &rows, shape, &step, columns, left > 0);
            ROLLED
            for (; left > 0; left -= 2) {
                small_advance(&step, shape);
                small_fetch(&odd, seen, factors, &rows, shape, &step, columns, left > 1);
                LANES_MEET;
                small_multiply(sums, &even);
                small_advance(&step, shape);
                small_fetch(&even, seen, factors, &rows, shape, &step, columns, left > 2);
                LANES_MEET;
                small_multiply(sums, &odd);
            }
            EACH_LANE(l) {
                float *tile = shared + (part * SMALL_PIXELS + w % 2 * 32 + l / 4) * SMALL_PITCH + l % 4 * 2;
                UNROLL
                for (u32 i = 0; i < 16; ++i) {
                    float2 *to = (float2 *)(tile + (i / 8 * 16 + i % 2 * 8) * SMALL_PITCH + i / 2 % 4 * 8);
                    to->x = LANE(sums[2 * i], l);
                    to->y = LANE(sums[2 * i + 1], l);
                }
            }
        }
        BARRIER;
        // From here a thread has eight neighbouring filters of a pixel.
        EACH_THREAD(t) {
            float4 *sums = (float4 *)(shared + t / 4 * SMALL_PITCH + t % 4 * 8);
            float4 *partial = (float4 *)partials + ((u64)BLOCK_X * (u32)splits + BLOCK_Y) * 512 + t;
            UNROLL
            for (u32 half = 0; half < 2; ++half) {
                float4 sum = sums[half];
                UNROLL
                for (u32 part = 1; part < SMALL_PARTS; ++part) {
                    float4 more = sums[part * SMALL_PIXELS * SMALL_PITCH / 4 + half];
                    sum.x += more.x;
                    sum.y += more.y;
                    sum.z += more.z;
                    sum.w += more.w;
                }
                if (splits > 1)
                    partial[half * 256] = sum;
                else
                    sums[half] = sum;
            }
        }
        if (splits > 1) {
            BARRIER;
            EACH_THREAD(t) {
                if (t > 0) continue;
                FENCE;
                *last = ADD_ATOMICALLY(counters + BLOCK_X, 1u) == (u32)splits - 1;
                FENCE;
                if (*last) counters[BLOCK_X] = 0;
            }
            BARRIER;
        }
        EACH_THREAD(t) {
            if (splits > 1 && !*last) continue;
            u32 pixel = first_pixel + t / 4, filter = first_filter + t % 4 * 8;
            if (pixel >= pixels || filter >= (u32)filters) continue;
            u64 at = ((u64)pixel * (u32)filters + filter) / 8;
            float sums[8], more[8];
            spread(words(0, 0, 0, 0), more);
            if (addend) spread(((const uint4 *)addend)[at], more);
            UNROLL
            for (u32 i = 0; i < 8; ++i) sums[i] = bias[filter + i];
            if (splits > 1) {
                const float4 *partial = (const float4 *)partials + (u64)BLOCK_X * (u32)splits * 512 + t;
                ROLLED
                for (int split = 0; split < splits; split += 4) {
                    float4 seen[4][2];
                    UNROLL
                    for (int i = 0; i < 4; ++i) {
                        // Parts beyond the last are it once more, and not added.
                        const float4 *one = partial + (u32)(split + i < splits ? split + i : splits - 1) * 512;
                        seen[i][0] = load_fresh(one);
                        seen[i][1] = load_fresh(one + 256);
                    }
                    UNROLL
                    for (int i = 0; i < 4; ++i) {
                        if (split + i >= splits) continue;
                        UNROLL
                        for (u32 half = 0; half < 2; ++half) {
                            sums[half * 4] += seen[i][half].x;
                            sums[half * 4 + 1] += seen[i][half].y;
                            sums[half * 4 + 2] += seen[i][half].z;
                            sums[half * 4 + 3] += seen[i][half].w;
                        }
                    }
                }
            } else {
                const float *own = shared + t / 4 * SMALL_PITCH + t % 4 * 8;
                UNROLL
                for (u32 i = 0; i < 8; ++i) sums[i] += own[i];
            }
            UNROLL
            for (u32 i = 0; i < 8; ++i) sums[i] = clamp(sums[i] + more[i], low, high);
            ((uint4 *)out)[at] = gather(sums);
        }
    }
}
