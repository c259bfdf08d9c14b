// Pooling over halves in NHWC, eight channels a thread: `channels` is a multiple of eight.

#ifndef CONVOY_COMMON
#include "common.cuh"
#endif

// in [batch, height, width, channels] to out [batch, out_height, out_width, channels]. Window (y, x) begins at row
// y * stride - pad and is `kernel` wide and high; what lies outside the picture is not there. A NaN stays one. With `quads`
// the input is [batch, height / 2, width / 2, 2, 2, channels]: what a convolution yields that makes two by two pixels at
// a time.
KERNEL(convoy_max_pool, (256), const f16 *RESTRICT in, f16 *RESTRICT out, int height, int width, int channels,
       int out_height, int out_width, int kernel, int stride, int pad, int quads) {
    EACH_BLOCK {
        EACH_THREAD(t) {
            u32 groups = (u32)channels / 8, index = BLOCK_X * THREADS + t;
            u32 group = index % groups, pixel = index / groups;
            if (pixel >= (u32)(out_height * out_width)) continue;
            int top = (int)(pixel / (u32)out_width) * stride - pad, left = (int)(pixel % (u32)out_width) * stride - pad;
            const uint4 *picture = (const uint4 *)in + (u64)BLOCK_Y * (u32)(height * width) * groups + group;
            float best[8];
            UNROLL
            for (u32 i = 0; i < 8; ++i) best[i] = -INFINITE;
            for (int y = top < 0 ? 0 : top; y < top + kernel && y < height; ++y) {
                for (int x = left < 0 ? 0 : left; x < left + kernel && x < width; ++x) {
                    float seen[8];
                    u32 at = (u32)(y * width + x);
                    if (quads) at = (u32)(y / 2 * (width / 2) + x / 2) * 4 + (u32)(y % 2 * 2 + x % 2);
                    spread(picture[(u64)at * groups], seen);
                    UNROLL
                    for (u32 i = 0; i < 8; ++i) best[i] = seen[i] <= best[i] || best[i] != best[i] ? best[i] : seen[i];
                }
            }
            ((uint4 *)out)[((u64)BLOCK_Y * (u32)(out_height * out_width) + pixel) * groups + group] = gather(best);
        }
    }
}

// in [batch, pixels, channels] to out [batch, channels]: the sum in f32, times 1 / pixels. A block has 32 groups of eight
// channels, and eight threads share a group's pixels: the order of the sum is that of the shares.
KERNEL(convoy_average_pool, (256), const f16 *RESTRICT in, f16 *RESTRICT out, int pixels, int channels) {
    EACH_BLOCK {
        float *shares = SHARED(float, 0);
        u32 groups = (u32)channels / 8;
        EACH_THREAD(t) {
            u32 group = BLOCK_X * 32 + t % 32;
            if (group >= groups) continue;
            const uint4 *from = (const uint4 *)in + (u64)BLOCK_Y * (u32)pixels * groups + group;
            float sums[8];
            UNROLL
            for (u32 i = 0; i < 8; ++i) sums[i] = 0.0f;
            for (u32 pixel = t / 32; pixel < (u32)pixels; pixel += 8) {
                float seen[8];
                spread(from[(u64)pixel * groups], seen);
                UNROLL
                for (u32 i = 0; i < 8; ++i) sums[i] += seen[i];
            }
            UNROLL
            for (u32 i = 0; i < 8; ++i) shares[i * 256 + t] = sums[i];
        }
        BARRIER;
        EACH_THREAD(t) {
            u32 group = BLOCK_X * 32 + t;
            if (t >= 32 || group >= groups) continue;
            float sums[8], share = DIVIDE(1.0f, (float)pixels);
            UNROLL
            for (u32 i = 0; i < 8; ++i) {
                sums[i] = 0.0f;
                for (u32 part = 0; part < 8; ++part) sums[i] += shares[i * 256 + part * 32 + t];
                sums[i] *= share;
            }
            ((uint4 *)out)[(u64)BLOCK_Y * groups + group] = gather(sums);
        }
    }
}
