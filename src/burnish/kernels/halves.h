/* Products of rounded inputs with bfloat16 weights, for machines that multiply bfloat16 (AVX512-BF16): 32 products an
 * instruction, twice what float32 has. Sums are in float32, and each has its own vector, so that no sum depends on how
 * many rows or columns are computed together. */
#pragma once
#include "vectors.h"

#define PAIRS 32 /* bfloat16 numbers a vector; rounded rows are filled up with zeros to whole vectors */
#define TALL 8   /* rows of weights, and columns, that are read together: 24 sums, the vectors that there are */
#define WIDE 3
#define BLOCK 64 /* outputs of a column that are written at once, in whole lines: those of all columns may share a set */

/* n numbers to the nearest bfloat16. */
INLINE void rounded(const float *from, int n, uint16_t *to) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) narrow(to + i, load(from + i));
    for (; i < n; i++) to[i] = narrowed(from[i]);
}

/* Asks for `bytes` that are read soon. */
INLINE void fetch_all(const char *from, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 0, 3);
}

#if MULTIPLIES_HALVES
INLINE __m512bh pairs(const void *from) { return (__m512bh)_mm512_loadu_si512(from); }

INLINE __m512 crossed(__m512 one, __m512 other) { /* sums of neighbours, the two vectors' in turn */
    return _mm512_add_ps(_mm512_unpacklo_ps(one, other), _mm512_unpackhi_ps(one, other));
}
INLINE __m512 crossed_pairs(__m512 one, __m512 other) {
    __m512d a = _mm512_castps_pd(one), b = _mm512_castps_pd(other);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
}
/* The sums of eight vectors. */
INLINE void totals_of_eight(const __m512 *v, float *out) {
    __m512 low = crossed_pairs(crossed(v[0], v[1]), crossed(v[2], v[3]));
    __m512 high = crossed_pairs(crossed(v[4], v[5]), crossed(v[6], v[7]));
    __m512 sums = _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
    sums = _mm512_add_ps(sums, _mm512_shuffle_f32x4(sums, sums, 0xb1)); /* low, low, high, high */
    _mm_storeu_ps(out, _mm512_castps512_ps128(sums));
    _mm_storeu_ps(out + 4, _mm512_extractf32x4_ps(sums, 2));
}

/* rows × columns products: result[column * apart + row]. `rows`, `columns` and `ahead` are constants where it is called.
 * `ahead`: lines of `next`, what is read after this, that are asked for at each step. */
INLINE void half_tile(const int rows, const int columns, const int ahead, const char *w, int64_t stride, const uint16_t *x,
                      int64_t x_stride, int k, const char *next, float *result, int64_t apart) {
    __m512 sums[WIDE][TALL];
    for (int c = 0; c < columns; c++)
        for (int r = 0; r < rows; r++) sums[c][r] = _mm512_setzero_ps();
    int i = 0;
    for (; i + PAIRS <= k; i += PAIRS) {
        __m512bh inputs[WIDE];
        for (int c = 0; c < columns; c++) inputs[c] = pairs(x + c * x_stride + i);
        for (int line = 0; line < ahead; line++) __builtin_prefetch(next + 64 * line, 0, 3);
        next += 64 * ahead;
        for (int r = 0; r < rows; r++) {
            __m512bh weights = pairs(w + r * stride + 2 * i);
            for (int c = 0; c < columns; c++) sums[c][r] = _mm512_dpbf16_ps(sums[c][r], weights, inputs[c]);
        }
    }
    if (i < k)
        for (int r = 0; r < rows; r++) {
            __mmask32 there = (__mmask32)(((uint64_t)1 << (k - i)) - 1);
            __m512bh weights = (__m512bh)_mm512_maskz_loadu_epi16(there, w + r * stride + 2 * i);
            for (int c = 0; c < columns; c++)
                sums[c][r] = _mm512_dpbf16_ps(sums[c][r], weights, pairs(x + c * x_stride + i));
        }
    for (int c = 0; c < columns; c++)
        if (rows == TALL) totals_of_eight(sums[c], result + c * apart);
        else { /* a row alone is summed in the same order */
            __m512 alone[TALL] = {sums[c][0]};
            float eight[TALL];
            totals_of_eight(alone, eight);
            result[c * apart] = eight[0];
        }
}

#define HALF(tall, wide, lines) \
    case lines * 16 + wide: return half_tile(tall, wide, lines, w, stride, x, x_stride, k, next, result, apart);

/* `rows` is TALL or 1; `columns` at most WIDE; `ahead` 0, 1, 2, 3, 4 or 8. */
static void half_products(int rows, int columns, int ahead, const char *w, int64_t stride, const uint16_t *x,
                          int64_t x_stride, int k, const char *next, float *result, int64_t apart) {
    if (rows == TALL)
        switch (ahead * 16 + columns) {
            HALF(TALL, 1, 0) HALF(TALL, 1, 1) HALF(TALL, 1, 2) HALF(TALL, 1, 3) HALF(TALL, 1, 4) HALF(TALL, 1, 8)
            HALF(TALL, 2, 0) HALF(TALL, 2, 1) HALF(TALL, 2, 2) HALF(TALL, 2, 3) HALF(TALL, 2, 4) HALF(TALL, 2, 8)
            HALF(TALL, 3, 0) HALF(TALL, 3, 1) HALF(TALL, 3, 2) HALF(TALL, 3, 3) HALF(TALL, 3, 4) HALF(TALL, 3, 8)
        }
    else
        switch (columns) { HALF(1, 1, 0) HALF(1, 2, 0) HALF(1, 3, 0) }
}
#undef HALF
#endif
