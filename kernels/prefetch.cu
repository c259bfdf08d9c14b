// Brings memory that will be read soon into the cache that all multiprocessors share. Computes nothing.

#ifndef CONVOY_COMMON
#include "common.cuh"
#endif

#define LINE 128

// Every line of `bytes` bytes from `from` on.
KERNEL(convoy_prefetch, (256), const u8 *RESTRICT from, u64 bytes) {
    EACH_BLOCK {
        EACH_THREAD(t) {
            for (u64 at = ((u64)BLOCK_X * THREADS + t) * LINE; at < bytes; at += (u64)GRID_X * THREADS * LINE)
                PREFETCH(from + at);
        }
    }
}
