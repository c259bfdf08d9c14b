// Convolutions over halves in NHWC with f32 sums: the depthwise ones, which are memory's to bound, and a plain direct one
// of any shape, which the library's fast kernels are checked with and which stands in where none of them runs.
//
// Output (y, x) reads rows from y * stride - pad_top and columns from x * stride - pad_left; outside the picture there
// are zeros. Results are clamped to low .. high, which may be infinite; a NaN stays one.

#ifndef CONVOY_COMMON
#include "common.cuh"
#endif

typedef struct {
    int height, width, channels, out_height, out_width, pad_top, pad_left;
    float low, high;
} Depthwise;

// A thread makes `along` neighbouring outputs of a row. `along`, at most 4, `kernel`, at most 5, and `stride`, at most 2, are
// constants where it is inlined: a pixel is read once for all the outputs of a thread.
DEVICE void depthwise(const f16 *in, const f16 *weight, const float *bias, f16 *out, Depthwise shape, int along, int kernel,
                      int stride, u32 picture, u32 index) {
    u32 groups = (u32)shape.channels / 8, runs = (u32)(shape.out_width + along - 1) / (u32)along;
    u32 group = index % groups, run = index / groups % runs, row = index / groups / runs;
    if (row >= (u32)shape.out_height) return;
    int top = (int)row * stride - shape.pad_top, left = (int)run * along * stride - shape.pad_left;
    const uint4 *from = (const uint4 *)in + (u64)picture * (u32)(shape.height * shape.width) * groups + group;
    const uint4 *weights = (const uint4 *)weight + group;
    float sums[4][8];
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        float start = bias[group * 8 + i];
        UNROLL
        for (int o = 0; o < along; ++o) sums[o][i] = start;
    }
    ROLLED
    for (int ky = 0; ky < kernel; ++ky) {
        int y = top + ky;
        if (y < 0 || y >= shape.height) continue;
        const uint4 *line = from + (u64)(u32)(y * shape.width) * groups;
        uint4 factors[5], pixels[3 * 2 + 5];
        UNROLL
        for (int kx = 0; kx < kernel; ++kx) factors[kx] = weights[(u32)(ky * kernel + kx) * groups];
        UNROLL
        for (int at = 0; at < (along - 1) * stride + kernel; ++at) {
            int x = left + at;
            pixels[at] = words(0, 0, 0, 0);
            if (x >= 0 && x < shape.width) pixels[at] = line[(u32)x * groups];
        }
        UNROLL
        for (int kx = 0; kx < kernel; ++kx) {
            float factor[8];
            spread(factors[kx], factor);
            UNROLL
            for (int o = 0; o < along; ++o) {
                float seen[8];
                spread(pixels[o * stride + kx], seen);
                UNROLL
                for (u32 i = 0; i < 8; ++i) sums[o][i] += seen[i] * factor[i];
            }
        }
    }
    uint4 *to = (uint4 *)out + ((u64)picture * (u32)shape.out_height + row) * (u32)shape.out_width * groups + group;
    UNROLL
    for (int o = 0; o < along; ++o) {
        u32 x = run * (u32)along + (u32)o;
        if (x >= (u32)shape.out_width) continue;
        UNROLL
        for (u32 i = 0; i < 8; ++i) sums[o][i] = clamp(sums[o][i], shape.low, shape.high);
        to[(u64)x * groups] = gather(sums[o]);
    }
}

// in [batch, height, width, channels], weight [kernel * kernel, channels], bias [channels], out [batch, out_height,
// out_width, channels]; `channels` is a multiple of eight, `kernel` is 3 or 5, `stride` 1 or 2.
KERNEL(convoy_depthwise, (256, 2), const f16 *RESTRICT in, const f16 *RESTRICT weight, const float *RESTRICT bias,
       f16 *RESTRICT out, int height, int width, int channels, int out_height, int out_width, int kernel, int stride,
       int pad_top, int pad_left, float low, float high) {
    EACH_BLOCK {
        EACH_THREAD(t) {
            Depthwise shape = {height, width, channels, out_height, out_width, pad_top, pad_left, low, high};
            u32 index = BLOCK_X * THREADS + t;
            if (kernel == 3 && stride == 1)
                depthwise(in, weight, bias, out, shape, 4, 3, 1, BLOCK_Y, index);
            else if (kernel == 3 && stride == 2)
                depthwise(in, weight, bias, out, shape, 4, 3, 2, BLOCK_Y, index);
            else if (kernel == 5 && stride == 1)
                depthwise(in, weight, bias, out, shape, 4, 5, 1, BLOCK_Y, index);
            else
                depthwise(in, weight, bias, out, shape, 2, 5, 2, BLOCK_Y, index);
        }
    }
}

// in [batch, height, width, channels], weight [filters, kernel_height, kernel_width, channels], bias [filters], addend
// null or like out, out [batch, out_height, out_width, filters], floats if out_is_f32, else halves. The addend comes
// before the clamp. An output is one thread's sum in the order of the weights.
KERNEL(convoy_convolution, (256), const f16 *RESTRICT in, const f16 *RESTRICT weight, const float *RESTRICT bias,
       const f16 *addend, void *out, int out_is_f32, int height, int width, int channels, int filters, int out_height,
       int out_width, int kernel_height, int kernel_width, int stride, int pad_top, int pad_left, float low, float high) {
    EACH_BLOCK {
        EACH_THREAD(t) {
            u64 outputs = (u64)(u32)(out_height * out_width) * (u32)filters, index = (u64)BLOCK_X * THREADS + t;
            if (index >= outputs) continue;
            u32 filter = (u32)(index % (u32)filters), pixel = (u32)(index / (u32)filters);
            int top = (int)(pixel / (u32)out_width) * stride - pad_top, left = (int)(pixel % (u32)out_width) * stride - pad_left;
            const f16 *picture = in + (u64)BLOCK_Y * (u32)(height * width) * (u32)channels;
            const f16 *window = weight + (u64)filter * (u32)(kernel_height * kernel_width) * (u32)channels;
            float sum = 0.0f;
            for (int ky = 0; ky < kernel_height; ++ky) {
                for (int kx = 0; kx < kernel_width; ++kx) {
                    int y = top + ky, x = left + kx;
                    if (y < 0 || y >= height || x < 0 || x >= width) continue;
                    const f16 *a = picture + (u64)(u32)(y * width + x) * (u32)channels;
                    const f16 *b = window + (u64)(u32)(ky * kernel_width + kx) * (u32)channels;
                    if (channels % 8 == 0) {
                        for (int c = 0; c < channels; c += 8) {
                            float seen[8], factor[8];
                            spread(*(const uint4 *)(a + c), seen);
                            spread(*(const uint4 *)(b + c), factor);
                            UNROLL
                            for (u32 i = 0; i < 8; ++i) sum += seen[i] * factor[i];
                        }
                    } else {
                        for (int c = 0; c < channels; ++c) sum += from_f16(a[c]) * from_f16(b[c]);
                    }
                }
            }
            u64 at = (u64)BLOCK_Y * outputs + index;
            sum += bias[filter];
            if (addend) sum += from_f16(addend[at]);
            sum = clamp(sum, low, high);
            if (out_is_f32)
                ((float *)out)[at] = sum;
            else
                ((f16 *)out)[at] = to_f16(sum);
        }
    }
}
