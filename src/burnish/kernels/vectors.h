/* What the files of this room share: vectors as wide as the machine has them, weights in each form they are kept in, and
 * products of a few rows of weights with a few rows of inputs. */
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define COLUMNS 6
#elif defined(__AVX__)
#define LANES 8
#define COLUMNS 2
#else
#define LANES 4
#define COLUMNS 4
#endif
#define ROWS 4 /* rows of weights that are read together */
#if defined(__AVX512BF16__) && LANES == 16
#define MULTIPLIES_HALVES 1 /* pairs of bfloat16 numbers, 32 a vector, by one instruction */
#else
#define MULTIPLIES_HALVES 0
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef float vf_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float four __attribute__((vector_size(4 * ROWS), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef uint16_t vh_any __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

/* As `codes.py` numbers them. */
enum { FLOAT32 = 0, BFLOAT16 = 1 };
enum { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3 };

INLINE vf load(const float *from) { return *(const vf_any *)from; }
INLINE void store(float *to, vf values) { *(vf_any *)to = values; }
INLINE vf all(float value) { return value - (vf){0}; }

/* A bfloat16 is the upper half of a float32. */
INLINE vf widened(const uint16_t *from) {
#if LANES == 16
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)), 16);
#endif
    vh half = *(const vh_any *)from;
    vu wide = __builtin_convertvector(half, vu) << 16;
    return (vf)wide;
}
INLINE float widened_one(uint16_t half) {
    union { uint32_t bits; float value; } both = {(uint32_t)half << 16};
    return both.value;
}
INLINE uint16_t narrowed(float value) { /* to the nearest, ties to even */
    union { float value; uint32_t bits; } both = {value};
    if (value != value) return 0x7fc0;
    return (uint16_t)((both.bits + 0x7fff + ((both.bits >> 16) & 1)) >> 16);
}
/* `one` where a comparison holds, else `other`. */
INLINE vf chosen(vi where, vf one, vf other) { return (vf)((where & (vi)one) | (~where & (vi)other)); }
INLINE void narrow(uint16_t *to, vf values) { /* as `narrowed` */
#if MULTIPLIES_HALVES
    _mm256_storeu_si256((void *)to, (__m256i)_mm512_cvtneps_pbh((__m512)values));
#else
    vu bits = (vu)values;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    vh found = __builtin_convertvector((vu)chosen((vi)(values == values), (vf)bits, (vf)(bits * 0 + 0x7fc0)), vh);
    *(vh_any *)to = found;
#endif
}

INLINE float total(vf v) {
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)v);
#elif LANES == 8
    __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

/* The sums of four vectors. */
INLINE void totals(const vf *v, float *out) {
#if LANES >= 8
    __m256 part[4];
    for (int i = 0; i < 4; i++) {
#if LANES == 16
        __m512 whole = (__m512)v[i];
        __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(whole), 1));
        part[i] = _mm256_add_ps(_mm512_castps512_ps256(whole), upper);
#else
        part[i] = (__m256)v[i];
#endif
    }
    __m256 four = _mm256_hadd_ps(_mm256_hadd_ps(part[0], part[1]), _mm256_hadd_ps(part[2], part[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps(four, 1)));
#else
    for (int i = 0; i < 4; i++) out[i] = total(v[i]);
#endif
}

/* e^x: x = n ln 2 + r, a polynomial for e^r, and n added to the exponent. Relative error below 2e-7. */
INLINE vf exponential(vf x) {
    vf low = all(-87.0f), high = all(88.0f), magic = all(12582912.0f);
    x = chosen(x < low, low, x);
    x = chosen(x > high, high, x);
    vf n = (x * all(1.44269504f) + magic) - magic;
    vf r = x - n * all(0.693359375f);
    r = r - n * all(-2.12194440e-4f);
    vf p = all(1.0f / 720);
    p = p * r + all(1.0f / 120);
    p = p * r + all(1.0f / 24);
    p = p * r + all(1.0f / 6);
    p = p * r + all(0.5f);
    p = p * r + all(1.0f);
    p = p * r + all(1.0f);
    vi power = (__builtin_convertvector(n, vi) + 127) << 23;
    return p * (vf)power;
}
INLINE vf hyperbolic_tangent(vf x) { return all(1.0f) - all(2.0f) / (exponential(x * 2.0f) + 1.0f); }

INLINE int64_t bytes_of(const int type, int64_t count) { return count * (type == FLOAT32 ? 4 : 2); }
INLINE vf load_weights(const int type, const char *row, int64_t place) {
    return type == FLOAT32 ? load((const float *)row + place) : widened((const uint16_t *)row + place);
}
INLINE void put(const int type, void *row, int64_t place, vf values) {
    if (type == FLOAT32) store((float *)row + place, values);
    else narrow((uint16_t *)row + place, values);
}
INLINE float weight_at(const int type, const char *row, int64_t place) {
    return type == FLOAT32 ? ((const float *)row)[place] : widened_one(((const uint16_t *)row)[place]);
}

/* Asks for weights that are read soon: those of the next tile, at the same place. */
INLINE void fetch(const int type, const char *row, int64_t stride, int place) {
    __builtin_prefetch(row + ROWS * stride + bytes_of(type, place), 0, 3);
}

/* rows × columns products: result[column * ROWS + row]. `rows`, `columns`, `type` and `ahead` are constants where it is
 * called. */
INLINE void tile(const int rows, const int columns, const int type, const int ahead, const char *w, int64_t stride,
                 const float *x, int64_t x_stride, int k, float *result) {
    vf sums[COLUMNS][ROWS];
    for (int c = 0; c < columns; c++)
        for (int r = 0; r < rows; r++) sums[c][r] = (vf){0};
    int whole = k / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) {
        vf weights[ROWS];
        for (int r = 0; r < rows; r++) {
            weights[r] = load_weights(type, w + r * stride, i);
            if (ahead) fetch(type, w + r * stride, stride, i);
        }
        for (int c = 0; c < columns; c++) {
            vf inputs = load(x + c * x_stride + i);
            for (int r = 0; r < rows; r++) sums[c][r] += weights[r] * inputs;
        }
    }
    for (int c = 0; c < columns; c++) {
        if (rows == 4) totals(sums[c], result + c * ROWS);
        else for (int r = 0; r < rows; r++) result[c * ROWS + r] = total(sums[c][r]);
        for (int i = whole; i < k; i++)
            for (int r = 0; r < rows; r++) result[c * ROWS + r] += weight_at(type, w + r * stride, i) * x[c * x_stride + i];
    }
}

#define TILE(count) \
    case count: \
        if (COLUMNS >= count) tile(rows, count, type, ahead, w, stride, x, x_stride, k, result); \
        break;

INLINE void tiles(const int rows, int columns, const int type, const int ahead, const char *w, int64_t stride,
                  const float *x, int64_t x_stride, int k, float *result) {
    switch (columns) { TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) }
}

/* `rows` is ROWS or 1. */
static void products(int rows, int columns, int type, int ahead, const char *w, int64_t stride, const float *x,
                     int64_t x_stride, int k, float *result) {
    if (rows == ROWS && type == FLOAT32 && ahead) tiles(ROWS, columns, FLOAT32, 1, w, stride, x, x_stride, k, result);
    else if (rows == ROWS && type == FLOAT32) tiles(ROWS, columns, FLOAT32, 0, w, stride, x, x_stride, k, result);
    else if (rows == ROWS) tiles(ROWS, columns, BFLOAT16, 1, w, stride, x, x_stride, k, result);
    else if (type == FLOAT32) tiles(1, columns, FLOAT32, 0, w, stride, x, x_stride, k, result);
    else tiles(1, columns, BFLOAT16, 0, w, stride, x, x_stride, k, result);
}

/* A row of bfloat16 weights as float32. */
INLINE void unpack(const char *row, int64_t stride, int k, float *out) {
    int i = 0;
    for (; i + LANES <= k; i += LANES) {
        store(out + i, load_weights(BFLOAT16, row, i));
        fetch(BFLOAT16, row, stride, i);
    }
    for (; i < k; i++) out[i] = weight_at(BFLOAT16, row, i);
}
