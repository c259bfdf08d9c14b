// From logits to the best classes and their probabilities, a block a picture.

#ifndef CONVOY_COMMON
#include "common.cuh"
#endif

#define NO_CLASS 0xffffffffu

// A candidate and where it stands: the greater value first, and of equals the lower class.
DEVICE int ahead(float value, u32 index, float than, u32 than_index) {
    return value > than || (value == than && index < than_index);
}

// logits [batch, classes]; class_out and probability_out [batch, k], by falling logit, equals by rising class. bad [batch]:
// the first class whose logit is not finite, and then every place has NO_CLASS and probability 0; else -1. So have
// places beyond `classes`. probability = exp(logit - greatest) / sum of those, in f32, in an order that depends on
// `classes` alone.
KERNEL(convoy_top, (256), const float *RESTRICT logits, u32 *RESTRICT class_out, float *RESTRICT probability_out,
       int *RESTRICT bad, int classes, int k) {
    EACH_BLOCK {
        float *value = SHARED(float, 0);
        u32 *index = SHARED(u32, 1024);
        // Greatest logit, sum of exponentials and the last place given, with its class.
        float *found = SHARED(float, 2048);
        u32 *found_index = SHARED(u32, 2060);
        const float *row = logits + (u64)BLOCK_Y * (u32)classes;

        EACH_THREAD(t) {
            float best = -INFINITE;
            u32 wrong = NO_CLASS;
            for (u32 at = t; at < (u32)classes; at += 256) {
                float logit = row[at];
                if (logit - logit != 0.0f) wrong = at < wrong ? at : wrong;
                best = logit > best ? logit : best;
            }
            value[t] = best;
            index[t] = wrong;
        }
        for (u32 left = 64; left > 0; left /= 4) {
            BARRIER;
            EACH_THREAD(t) {
                if (t >= left) continue;
                for (u32 other = t + left; other < 4 * left; other += left) {
                    value[t] = value[other] > value[t] ? value[other] : value[t];
                    index[t] = index[other] < index[t] ? index[other] : index[t];
                }
                if (left == 1) {
                    found[0] = value[0];
                    // Every finite logit is behind infinity, and none behind its opposite.
                    found[2] = index[0] == NO_CLASS ? INFINITE : -INFINITE;
                    found_index[0] = NO_CLASS;
                    bad[BLOCK_Y] = (int)index[0];
                }
            }
        }
        BARRIER;
        EACH_THREAD(t) {
            float sum = 0.0f;
            for (u32 at = t; at < (u32)classes; at += 256) sum += EXPONENTIAL(row[at] - found[0]);
            value[t] = sum;
        }
        for (u32 left = 64; left > 0; left /= 4) {
            BARRIER;
            EACH_THREAD(t) {
                if (t >= left) continue;
                float sum = value[t];
                for (u32 other = t + left; other < 4 * left; other += left) sum += value[other];
                value[t] = sum;
                if (left == 1) found[1] = sum;
            }
        }
        for (int place = 0; place < k; ++place) {
            BARRIER;
            EACH_THREAD(t) {
                float best = -INFINITE;
                u32 best_index = NO_CLASS;
                for (u32 at = t; at < (u32)classes; at += 256) {
                    float logit = row[at];
                    if (!ahead(found[2], found_index[0], logit, at)) continue;
                    if (!ahead(logit, at, best, best_index)) continue;
                    best = logit;
                    best_index = at;
                }
                value[t] = best;
                index[t] = best_index;
            }
            for (u32 left = 64; left > 0; left /= 4) {
                BARRIER;
                EACH_THREAD(t) {
                    if (t >= left) continue;
                    for (u32 other = t + left; other < 4 * left; other += left) {
                        if (!ahead(value[other], index[other], value[t], index[t])) continue;
                        value[t] = value[other];
                        index[t] = index[other];
                    }
                    if (left == 1) {
                        u64 at = (u64)BLOCK_Y * (u32)k + (u32)place;
                        class_out[at] = index[0];
                        probability_out[at] = index[0] == NO_CLASS ? 0.0f : DIVIDE(EXPONENTIAL(value[0] - found[0]), found[1]);
                        found[2] = value[0];
                        found_index[0] = index[0];
                    }
                }
            }
        }
    }
}
