// Pictures of any sizes to the network's input in one launch: resize and crop by the tables of src/geometry.rs, byte for
// byte what src/resize computes, then normalisation and layout as in pack.cu. src/cuda/ragged.rs lays out what it reads.
//
// A block makes `lines` output lines of one picture: rows where columns come first, columns where rows do. The first
// pass, rounded to bytes, goes to shared memory for the source lines that these read, [line, side, 3], and the second
// pass reads it there.

#ifndef NORMAL_VALUES
#include "pack.cu"
#endif

// As ragged.rs's Descriptor. Spans and weights are indices into the tables: of `side` pairs (first, length), even, and of
// [side, taps] weights, a multiple of four.
typedef struct {
    u64 source;        // Byte of the first pixel.
    u32 pitch;         // Bytes a source row.
    u32 vertical;      // Whether rows come first.
    u32 lines;         // Of a tile; even.
    u32 slot;          // Which picture of the output.
    u32 first_spans;
    u32 first_weights;
    u32 first_taps;    // A multiple of four.
    u32 second_spans;
    u32 second_weights;
    u32 second_taps;   // A multiple of four.
} Picture;

#define HALF_WEIGHT (1 << 21)
#define MIDDLE_OFFSET 1536 // The normalised values lie before it.

DEVICE u32 clip(int sum) {
    int value = sum >> 22;
    return (u32)(value < 0 ? 0 : value > 255 ? 255 : value);
}

// Words of a line of the middle picture: whole groups of four pixels, and odd, so that a column of it hits every bank.
DEVICE u32 middle_pitch(u32 side) { return ((side + 3) / 4 * 3) | 1; }

// Columns of source rows first_line .. first_line + count. A task is an output column of four rows. Reads whole words, so
// up to 16 bytes behind the last pixel that matters, which meet weights of zero.
DEVICE void columns_first(const u8 *pixels, Picture picture, const int *tables, u32 side, u32 first_line, u32 count,
                          u8 *middle, u32 t) {
    const int2 *spans = (const int2 *)(tables + picture.first_spans);
    const u32 pitch = middle_pitch(side) * 4, step = THREADS % side, jump = THREADS / side;
    u32 column = t % side, group = t / side;
    while (group * 4 < count) {
        int2 span = spans[column];
        const int4 *weights = (const int4 *)(tables + picture.first_weights + column * picture.first_taps);
        const u32 *from[4];
        u32 shift[4], carry[4];
        int sums[4][3];
        UNROLL
        for (u32 r = 0; r < 4; ++r) {
            u32 line = group * 4 + r < count ? group * 4 + r : count - 1;
            u64 at = picture.source + (u64)(first_line + line) * picture.pitch + (u32)span.x * 3;
            from[r] = (const u32 *)(pixels + (at & ~(u64)3));
            shift[r] = ((u32)at & 3) * 8;
            carry[r] = *from[r];
            sums[r][0] = sums[r][1] = sums[r][2] = HALF_WEIGHT;
        }
        for (int tap = 0; tap < span.y; tap += 4) {
            int4 weight = *weights++;
            UNROLL
            for (u32 r = 0; r < 4; ++r) {
                u32 second = from[r][1], third = from[r][2], last = from[r][3];
                u32 four[3] = {FUNNEL(carry[r], second, shift[r]), FUNNEL(second, third, shift[r]),
                               FUNNEL(third, last, shift[r])};
                carry[r] = last;
                from[r] += 3;
                UNROLL
                for (u32 c = 0; c < 3; ++c) {
                    int sum = sums[r][c];
                    sum += BYTE(four[c / 4], c % 4) * weight.x;
                    sum += BYTE(four[(c + 3) / 4], (c + 3) % 4) * weight.y;
                    sum += BYTE(four[(c + 6) / 4], (c + 6) % 4) * weight.z;
                    sum += BYTE(four[(c + 9) / 4], (c + 9) % 4) * weight.w;
                    sums[r][c] = sum;
                }
            }
        }
        UNROLL
        for (u32 r = 0; r < 4; ++r) {
            u8 *to = middle + (group * 4 + r) * pitch + column * 3;
            if (group * 4 + r >= count) continue;
            to[0] = (u8)clip(sums[r][0]);
            to[1] = (u8)clip(sums[r][1]);
            to[2] = (u8)clip(sums[r][2]);
        }
        column += step;
        group += jump;
        if (column >= side) {
            column -= side;
            ++group;
        }
    }
}

// Rows of source columns first_line .. first_line + count. A task is a pixel; neighbours read neighbours.
DEVICE void rows_first(const u8 *pixels, Picture picture, const int *tables, u32 side, u32 first_line, u32 count,
                       u8 *middle, u32 t) {
    const int2 *spans = (const int2 *)(tables + picture.first_spans);
    const u32 pitch = middle_pitch(side) * 4, step = THREADS % count, jump = THREADS / count;
    u32 line = t % count, row = t / count;
    while (row < side) {
        int2 span = spans[row];
        const int *weights = tables + picture.first_weights + row * picture.first_taps;
        const u8 *from = pixels + picture.source + (u64)(u32)span.x * picture.pitch + (first_line + line) * 3;
        int red = HALF_WEIGHT, green = HALF_WEIGHT, blue = HALF_WEIGHT;
        for (int tap = 0; tap < span.y; ++tap) {
            int weight = weights[tap];
            red += from[0] * weight;
            green += from[1] * weight;
            blue += from[2] * weight;
            from += picture.pitch;
        }
        u8 *to = middle + line * pitch + row * 3;
        to[0] = (u8)clip(red);
        to[1] = (u8)clip(green);
        to[2] = (u8)clip(blue);
        line += step;
        row += jump;
        if (line >= count) {
            line -= count;
            ++row;
        }
    }
}

// Output lines first .. first + count, from middle lines of which the first is source line first_line. A task is two
// neighbouring cells along the first pass's axis: twelve bytes of each of two lines.
DEVICE void second_pass(Picture picture, const int *tables, u32 side, u32 first, u32 count, u32 first_line,
                        const u32 *middle, const f16 *values, f16 *out, u32 block, u32 t) {
    const int2 *spans = (const int2 *)(tables + picture.second_spans);
    const u32 pitch = middle_pitch(side), cells = side / 2, pairs = (cells + 1) / 2;
    const u32 step = THREADS % pairs, jump = THREADS / pairs;
    u32 pair = t % pairs, cell_line = t / pairs;
    while (cell_line * 2 < count) {
        u32 value[2][12];
        UNROLL
        for (u32 d = 0; d < 2; ++d) {
            u32 line = first + cell_line * 2 + d;
            int2 span = spans[line];
            const int *weights = tables + picture.second_weights + line * picture.second_taps;
            const u32 *from = middle + ((u32)span.x - first_line) * pitch + pair * 3;
            int sums[12];
            UNROLL
            for (u32 i = 0; i < 12; ++i) sums[i] = HALF_WEIGHT;
            for (int tap = 0; tap < span.y; ++tap) {
                int weight = weights[tap];
                UNROLL
                for (u32 i = 0; i < 12; ++i) sums[i] += BYTE(from[i / 4], i % 4) * weight;
                from += pitch;
            }
            UNROLL
            for (u32 i = 0; i < 12; ++i) value[d][i] = values[i % 3 * 256 + clip(sums[i])];
        }
        UNROLL
        for (u32 c = 0; c < 2; ++c) {
            u32 along = pair * 2 + c, line = first / 2 + cell_line;
            if (along >= cells) continue;
            const u32 *a = value[0] + c * 6, *b = value[1] + c * 6;
            if (picture.vertical) {
                store_quad(out, picture.slot, along, line, side, block, a[0] | a[1] << 16, a[2] | b[0] << 16,
                           b[1] | b[2] << 16, a[3] | a[4] << 16, a[5] | b[3] << 16, b[4] | b[5] << 16);
            } else {
                store_quad(out, picture.slot, line, along, side, block, a[0] | a[1] << 16, a[2] | a[3] << 16,
                           a[4] | a[5] << 16, b[0] | b[1] << 16, b[2] | b[3] << 16, b[4] | b[5] << 16);
            }
        }
        pair += step;
        cell_line += jump;
        if (pair >= pairs) {
            pair -= pairs;
            ++cell_line;
        }
    }
}

// pixels: 4-byte aligned, readable 16 bytes behind every picture. work: what each block does, picture << 16 | tile.
KERNEL(convoy_resize, (256, 3), const u8 *RESTRICT pixels, const Picture *RESTRICT pictures, const int *RESTRICT tables,
       const u32 *RESTRICT work, f16 *RESTRICT out, int side, int block,
       const float *RESTRICT norm) {
    EACH_BLOCK {
        f16 *values = SHARED(f16, 0);
        u8 *middle = SHARED(u8, MIDDLE_OFFSET);
        const Picture picture = pictures[work[BLOCK_X] >> 16];
        const int2 *spans = (const int2 *)(tables + picture.second_spans);
        const u32 first = (work[BLOCK_X] & 0xffff) * picture.lines;
        const u32 count = picture.lines < (u32)side - first ? picture.lines : (u32)side - first;
        const u32 first_line = (u32)spans[first].x;
        const u32 lines = (u32)(spans[first + count - 1].x + spans[first + count - 1].y) - first_line;
        EACH_THREAD(t) {
            normal_values(values, norm, t);
            if (picture.vertical)
                rows_first(pixels, picture, tables, (u32)side, first_line, lines, middle, t);
            else
                columns_first(pixels, picture, tables, (u32)side, first_line, lines, middle, t);
        }
        BARRIER;
        EACH_THREAD(t)
            second_pass(picture, tables, (u32)side, first, count, first_line, (const u32 *)middle, values, out,
                        (u32)block, t);
    }
}

#ifndef __CUDACC__
// Size of a Picture, then the offsets of its fields in order, for ragged.rs's test.
u32 convoy_host_picture(u32 index) {
    const u32 layout[] = {
        sizeof(Picture),
        __builtin_offsetof(Picture, source),
        __builtin_offsetof(Picture, pitch),
        __builtin_offsetof(Picture, vertical),
        __builtin_offsetof(Picture, lines),
        __builtin_offsetof(Picture, slot),
        __builtin_offsetof(Picture, first_spans),
        __builtin_offsetof(Picture, first_weights),
        __builtin_offsetof(Picture, first_taps),
        __builtin_offsetof(Picture, second_spans),
        __builtin_offsetof(Picture, second_weights),
        __builtin_offsetof(Picture, second_taps),
    };
    return layout[index];
}
#endif
