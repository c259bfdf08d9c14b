// What the engine chooses and checks its kernels with: tensors to time them on, and how far two results differ.

#ifndef CONVOY_COMMON
#include "common.cuh"
#endif

DEVICE u32 scramble(u32 bits) {
    bits ^= bits >> 16;
    bits *= 0x7feb352du;
    bits ^= bits >> 15;
    bits *= 0x846ca68bu;
    return bits ^ (bits >> 16);
}

// Halves in -scale .. scale, evenly, of their index and the seed alone.
KERNEL(convoy_fill, (256), f16 *RESTRICT out, u64 count, u32 seed, float scale) {
    EACH_BLOCK {
        EACH_THREAD(t) {
            for (u64 at = (u64)BLOCK_X * THREADS + t; at < count; at += (u64)GRID_X * THREADS) {
                u32 bits = scramble((u32)at ^ scramble((u32)(at >> 32) ^ scramble(seed)));
                out[at] = to_f16(((float)(bits >> 8) * (1.0f / 8388608.0f) - 1.0f) * scale);
            }
        }
    }
}

DEVICE double widened(const void *values, int is_f32, u64 at) {
    return is_f32 ? ((const float *)values)[at] : from_f16(((const f16 *)values)[at]);
}

// Adds the sums of (a - b)^2 and of b^2 to sums[0] and sums[1]. Each of a and b is floats or halves. What is not finite in
// either makes the first sum NaN or infinite. The order of the blocks, and so the last bits, may vary.
KERNEL(convoy_differ, (256), const void *RESTRICT a, const void *RESTRICT b, int a_is_f32, int b_is_f32, u64 count,
       double *RESTRICT sums) {
    EACH_BLOCK {
        double *apart = SHARED(double, 0), *size = SHARED(double, 2048);
        EACH_THREAD(t) {
            double sum = 0.0, squares = 0.0;
            for (u64 at = (u64)BLOCK_X * THREADS + t; at < count; at += (u64)GRID_X * THREADS) {
                double expected = widened(b, b_is_f32, at), error = widened(a, a_is_f32, at) - expected;
                sum += error * error;
                squares += expected * expected;
            }
            apart[t] = sum;
            size[t] = squares;
        }
        for (u32 left = 128; left > 0; left /= 2) {
            BARRIER;
            EACH_THREAD(t) {
                if (t >= left) continue;
                apart[t] += apart[t + left];
                size[t] += size[t + left];
            }
        }
        EACH_THREAD(t) {
            if (t != 0) continue;
            ADD_ATOMICALLY(sums, apart[0]);
            ADD_ATOMICALLY(sums + 1, size[0]);
        }
    }
}
