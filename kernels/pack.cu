// Pictures that already have the network's size, to the layout of the network's input. Owns that layout and the
// normalisation of 8-bit values; resizing is resize.cu's.
//
// The input is "space to depth": halves [batch, side / block, side / block, channels], a cell for `block` by `block` pixels,
// which are 2 or 4. Quads of two by two pixels lie one after another, rows of quads first; in a quad channel
// (dy * 2 + dx) * 3 + c is the normalised colour c of its pixel (dy, dx). A cell of 2 has one quad and four channels of
// zeros behind it, 16 in all; a cell of 4 has four quads, 48. `side` is a multiple of `block`.

#ifndef CONVOY_COMMON
#include "common.cuh"
#endif

#define NORMAL_VALUES 768

// Writes quad (y, x) of a picture, its twelve halves in pairs.
DEVICE void store_quad(f16 *out, u32 picture, u32 y, u32 x, u32 side, u32 block, u32 a, u32 b, u32 c, u32 d, u32 e, u32 f) {
    if (block == 2) {
        uint4 *to = (uint4 *)out + (((u64)picture * (side / 2) + y) * (side / 2) + x) * 2;
        to[0] = words(a, b, c, d);
        to[1] = words(e, f, 0, 0);
    } else {
        u64 cell = ((u64)picture * (side / 4) + y / 2) * (side / 4) + x / 2;
        uint2 *to = (uint2 *)out + cell * 12 + (y % 2 * 2 + x % 2) * 3;
        to[0] = two_words(a, b);
        to[1] = two_words(c, d);
        to[2] = two_words(e, f);
    }
}

// The normalised halves of all byte values, [3, 256], in a block's shared memory: as the CPU computes them, in f32,
// rounded after every operation. `norm` is mean of red, green and blue, then their standard deviations.
DEVICE void normal_values(f16 *values, const float *norm, u32 t) {
    for (u32 at = t; at < NORMAL_VALUES; at += THREADS) {
        u32 colour = at >> 8;
        float unit = DIVIDE((float)(at & 255), 255.0f);
        values[at] = to_f16(DIVIDE(SUBTRACT(unit, norm[colour]), norm[3 + colour]));
    }
}

// pixels: bytes [batch, side, side, 3].
KERNEL(convoy_pack_rgb8, (256), const u8 *RESTRICT pixels, f16 *RESTRICT out, int side, int block,
       const float *RESTRICT norm) {
    EACH_BLOCK {
        f16 *values = SHARED(f16, 0);
        EACH_THREAD(t) normal_values(values, norm, t);
        BARRIER;
        EACH_THREAD(t) {
            u32 cells = (u32)side / 2, cell = BLOCK_X * THREADS + t;
            if (cell >= cells * cells) continue;
            u32 y = cell / cells, x = cell % cells;
            const u8 *from = pixels + (((u64)BLOCK_Y * (u32)side + 2 * y) * (u32)side + 2 * x) * 3;
            u32 value[12];
            UNROLL
            for (u32 dy = 0; dy < 2; ++dy) {
                UNROLL
                for (u32 at = 0; at < 6; ++at) value[dy * 6 + at] = values[at % 3 * 256 + from[dy * (u32)side * 3 + at]];
            }
            store_quad(out, BLOCK_Y, y, x, (u32)side, (u32)block, value[0] | value[1] << 16, value[2] | value[3] << 16,
                       value[4] | value[5] << 16, value[6] | value[7] << 16, value[8] | value[9] << 16,
                       value[10] | value[11] << 16);
        }
    }
}

// pixels: floats [batch, side, side, 3], normalised already.
KERNEL(convoy_pack_f32, (256), const float *RESTRICT pixels, f16 *RESTRICT out, int side, int block) {
    EACH_BLOCK {
        EACH_THREAD(t) {
            u32 cells = (u32)side / 2, cell = BLOCK_X * THREADS + t;
            if (cell >= cells * cells) continue;
            u32 y = cell / cells, x = cell % cells;
            const float *upper = pixels + (((u64)BLOCK_Y * (u32)side + 2 * y) * (u32)side + 2 * x) * 3;
            const float *lower = upper + (u32)side * 3;
            store_quad(out, BLOCK_Y, y, x, (u32)side, (u32)block, pair_of(upper[0], upper[1]),
                       pair_of(upper[2], upper[3]), pair_of(upper[4], upper[5]), pair_of(lower[0], lower[1]),
                       pair_of(lower[2], lower[3]), pair_of(lower[4], lower[5]));
        }
    }
}
