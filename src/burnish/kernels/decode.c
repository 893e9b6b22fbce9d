/* One new token for each of a few rows, through all layers of a model, in one call.
 *
 * At a few rows a matrix product is bound by reading the weights, and general libraries read them far below the speed of
 * the memory. Here each weight is read once for all rows, and the threads meet between operations instead of being
 * started for each. Sums are in float32. A row's numbers do not depend on the other rows or on the number of threads.
 *
 * kernels/decode.py describes the operations, compiles this file and says what each of them must equal.
 */
#include <math.h>
#include <omp.h>
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
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef float vf_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef uint16_t vh_any __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

enum { FLOAT32 = 0, BFLOAT16 = 1 };
enum { NORM = 0, LINEAR = 1, ATTEND = 2, GATED = 3, SOFTCAP = 4 };
enum { SILU = 0, GELU = 1, GELU_TANH = 2 };

typedef struct {
    int32_t kind, sync; /* sync: all threads finish what is before it */
    int32_t n, k;       /* outputs and inputs of a row */
    int32_t type, add;  /* of the weights; whether `out` is added to */
    float scale, eps, offset, softcap;
    int32_t heads, shared, size, turned, window, cache_type;
    const void *weight;
    const float *bias, *in, *second, *third;
    float *out;
    int64_t in_stride, second_stride, out_stride;
    const float *q_norm, *k_norm, *cos, *sin, *sinks;
    void *keys, *values;
    int64_t room;
} operation;

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

INLINE vf chosen(vi where, vf one, vf other) { return (vf)((where & (vi)one) | (~where & (vi)other)); }

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

INLINE vf load_weights(const int type, const void *from, int64_t place) {
    return type == FLOAT32 ? load((const float *)from + place) : widened((const uint16_t *)from + place);
}
INLINE float weight_at(const int type, const void *from, int64_t place) {
    return type == FLOAT32 ? ((const float *)from)[place] : widened_one(((const uint16_t *)from)[place]);
}

/* Asks for weights that are read soon: those of the next tile, at the same place. */
INLINE void fetch(const int type, const void *w, int64_t w_stride, int row, int place) {
    __builtin_prefetch((const char *)w + ((row + ROWS) * w_stride + place) * (type == FLOAT32 ? 4 : 2), 0, 3);
}

/* rows × columns products: result[column * ROWS + row]. `rows`, `columns`, `type` and `ahead` are constants where it is
 * called. */
INLINE void tile(const int rows, const int columns, const int type, const int ahead, const void *w, int64_t w_stride,
                 const float *x, int64_t x_stride, int k, float *result) {
    vf sums[COLUMNS][ROWS];
    for (int c = 0; c < columns; c++)
        for (int r = 0; r < rows; r++) sums[c][r] = (vf){0};
    int whole = k / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) {
        vf weights[ROWS];
        for (int r = 0; r < rows; r++) {
            weights[r] = load_weights(type, w, r * w_stride + i);
            if (ahead) fetch(type, w, w_stride, r, i);
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
            for (int r = 0; r < rows; r++) result[c * ROWS + r] += weight_at(type, w, r * w_stride + i) * x[c * x_stride + i];
    }
}

#define TILE(count) \
    case count: \
        if (COLUMNS >= count) tile(rows, count, type, ahead, w, w_stride, x, x_stride, k, result); \
        break;

INLINE void tiles(const int rows, int columns, const int type, const int ahead, const void *w, int64_t w_stride,
                  const float *x, int64_t x_stride, int k, float *result) {
    switch (columns) { TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) }
}

/* `rows` is ROWS or 1. */
static void products(int rows, int columns, int type, int ahead, const void *w, int64_t w_stride, const float *x,
                     int64_t x_stride, int k, float *result) {
    if (rows == ROWS && type == FLOAT32 && ahead) tiles(ROWS, columns, FLOAT32, 1, w, w_stride, x, x_stride, k, result);
    else if (rows == ROWS && type == FLOAT32) tiles(ROWS, columns, FLOAT32, 0, w, w_stride, x, x_stride, k, result);
    else if (rows == ROWS) tiles(ROWS, columns, BFLOAT16, 1, w, w_stride, x, x_stride, k, result);
    else if (type == FLOAT32) tiles(1, columns, FLOAT32, 0, w, w_stride, x, x_stride, k, result);
    else tiles(1, columns, BFLOAT16, 0, w, w_stride, x, x_stride, k, result);
}

static void linear_rows(const operation *op, int batch, int row, int rows, float *scratch) {
    int type = op->type;
    const void *w = (const char *)op->weight + (int64_t)row * op->k * (type == FLOAT32 ? 4 : 2);
    float result[COLUMNS * ROWS];
    if (type == BFLOAT16 && batch > COLUMNS) { /* widened once for all columns */
        for (int r = 0; r < rows; r++) {
            const uint16_t *from = (const uint16_t *)w + (int64_t)r * op->k;
            int i = 0;
            for (; i + LANES <= op->k; i += LANES) {
                store(scratch + (int64_t)r * op->k + i, widened(from + i));
                fetch(BFLOAT16, from, op->k, 0, i);
            }
            for (; i < op->k; i++) scratch[(int64_t)r * op->k + i] = widened_one(from[i]);
        }
        w = scratch, type = FLOAT32;
    }
    for (int c = 0; c < batch; c += COLUMNS) {
        int columns = batch - c < COLUMNS ? batch - c : COLUMNS;
        const float *x = op->in + c * op->in_stride;
        products(rows, columns, type, c == 0 && w != scratch, w, op->k, x, op->in_stride, op->k, result);
        for (int i = 0; i < columns; i++) {
            float *out = op->out + (c + i) * op->out_stride + row;
            for (int r = 0; r < rows; r++) {
                float value = op->scale * result[i * ROWS + r] + (op->bias ? op->bias[row + r] : 0.0f);
                out[r] = op->add ? out[r] + value : value;
            }
        }
    }
}

static void linear(const operation *op, int batch, int threads, int32_t *next, float *scratch) {
    int chunk = op->n / (threads * 8) / ROWS * ROWS; /* taken as threads come free: one may be held up by others */
    if (chunk < ROWS) chunk = ROWS;
    if (chunk > 256) chunk = 256;
    for (;;) {
        int start = __atomic_fetch_add(next, chunk, __ATOMIC_RELAXED);
        if (start >= op->n) return;
        int end = start + chunk < op->n ? start + chunk : op->n, row = start;
        for (; row + ROWS <= end; row += ROWS) linear_rows(op, batch, row, ROWS, scratch);
        for (; row < end; row++) linear_rows(op, batch, row, 1, scratch);
    }
}

INLINE void normed(const float *in, const float *weight, float offset, float eps, int n, int add, float *out) {
    vf squares = (vf){0};
    float sum = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES) squares += load(in + i) * load(in + i);
    for (; i < n; i++) sum += in[i] * in[i];
    float inverse = 1.0f / sqrtf((total(squares) + sum) / n + eps);
    for (i = 0; i < n; i++) {
        float value = in[i] * inverse * (weight[i] + offset);
        out[i] = add ? out[i] + value : value;
    }
}

static void norm(const operation *op, int batch, int thread, int threads) {
    for (int row = thread; row < batch; row += threads)
        normed(op->in + row * op->in_stride, (const float *)op->weight, op->offset, op->eps, op->n, op->add,
               op->out + row * op->out_stride);
}

static void gated(const operation *op, int batch, int thread, int threads) {
    int part = (op->n / threads + LANES - 1) / LANES * LANES;
    int from = part * thread, to = thread == threads - 1 ? op->n : from + part;
    if (to > op->n) to = op->n;
    for (int row = 0; row < batch; row++) {
        const float *gate = op->in + row * op->in_stride, *up = op->second + row * op->second_stride;
        float *out = op->out + row * op->out_stride;
        for (int i = from; i < to; i += LANES) {
            vf x = (vf){0}, other = (vf){0}, acted;
            int whole = i + LANES <= to, here = whole ? LANES : to - i;
            if (whole) x = load(gate + i), other = load(up + i);
            else for (int j = 0; j < here; j++) x[j] = gate[i + j], other[j] = up[i + j];
            if (op->type == SILU) acted = x / (exponential(-x) + 1.0f);
            else if (op->type == GELU_TANH)
                acted = x * 0.5f * (hyperbolic_tangent((x + x * x * x * 0.044715f) * 0.7978845608f) + 1.0f);
            else for (int j = 0; j < LANES; j++) acted[j] = 0.5f * x[j] * (1.0f + erff(x[j] * 0.70710678f));
            acted = acted * other;
            if (whole) store(out + i, acted);
            else for (int j = 0; j < here; j++) out[i + j] = acted[j];
        }
    }
}

static void softcap(const operation *op, int batch, int thread, int threads) {
    for (int row = 0; row < batch; row++) {
        float *out = op->out + row * op->out_stride;
        for (int i = thread; i < op->n; i += threads) out[i] = op->softcap * tanhf(out[i] / op->softcap);
    }
}

/* A head's norm where it has one, then its rotation: the first `turned` numbers, halves as pairs. */
INLINE void turn(const operation *op, float *head, const float *weight, int64_t place) {
    if (weight) normed(head, weight, op->offset, op->eps, op->size, 0, head);
    const float *cosines = op->cos + place * op->turned, *sines = op->sin + place * op->turned;
    int half = op->turned / 2;
    for (int i = 0; i < half; i++) {
        float one = head[i], other = head[i + half];
        head[i] = one * cosines[i] - other * sines[i];
        head[i + half] = other * cosines[i + half] + one * sines[i + half];
    }
}

INLINE void keep(const operation *op, void *cache, int64_t at, const float *head) {
    if (op->cache_type == FLOAT32) memcpy((float *)cache + at, head, op->size * sizeof(float));
    else for (int i = 0; i < op->size; i++) ((uint16_t *)cache)[at + i] = narrowed(head[i]);
}

/* Scores of one head's keys become weights; returns the sum that they are divided by. */
INLINE float weigh(const operation *op, float *scores, int length, int head) {
    float top = op->sinks ? op->sinks[head] : -INFINITY;
    for (int t = 0; t < length; t++) {
        scores[t] *= op->scale;
        if (op->softcap > 0) scores[t] = op->softcap * tanhf(scores[t] / op->softcap);
        top = scores[t] > top ? scores[t] : top;
    }
    for (int t = length; t % LANES; t++) scores[t] = -INFINITY;
    vf sums = (vf){0};
    for (int t = 0; t < length; t += LANES) {
        vf raised = exponential(load(scores + t) - top);
        for (int j = 0; t + j >= length - LANES && j < LANES; j++) if (t + j >= length) raised[j] = 0;
        store(scores + t, raised);
        sums += raised;
    }
    return total(sums) + (op->sinks ? expf(op->sinks[head] - top) : 0.0f);
}

/* All queries that share the keys `shared` of row `row`. Scratch: group × (room + LANES) scores. */
static void attend_shared(const operation *op, int row, int shared, int64_t place, float *scratch) {
    int group = op->heads / op->shared, size = op->size, length = (int)place + 1, first = 0;
    if (op->window > 0 && length > op->window) first = length - op->window, length = op->window;
    float *queries = (float *)op->in + row * op->in_stride + shared * group * size;
    float *key = (float *)op->second + row * op->second_stride + shared * size;
    const float *value = op->third + row * op->second_stride + shared * size;
    for (int g = 0; g < group; g++) turn(op, queries + g * size, op->q_norm, place);
    turn(op, key, op->k_norm, place);
    int64_t base = ((int64_t)row * op->shared + shared) * op->room;
    keep(op, op->keys, (base + place) * size, key);
    keep(op, op->values, (base + place) * size, value);
    int width = op->cache_type == FLOAT32 ? 4 : 2;
    const char *keys = (const char *)op->keys + (base + first) * size * width;
    const char *values = (const char *)op->values + (base + first) * size * width;
    int64_t line = op->room + LANES;
    float result[COLUMNS * ROWS];
    for (int t = 0; t < length; t += ROWS) {
        int rows = length - t < ROWS ? 1 : ROWS;
        for (int each = t; each < (rows == 1 ? length : t + 1); each++)
            for (int g = 0; g < group; g += COLUMNS) {
                int columns = group - g < COLUMNS ? group - g : COLUMNS;
                const void *from = keys + (int64_t)each * size * width;
                products(rows, columns, op->cache_type, 1, from, size, queries + g * size, size, size, result);
                for (int c = 0; c < columns; c++)
                    for (int r = 0; r < rows; r++) scratch[(g + c) * line + each + r] = result[c * ROWS + r];
            }
    }
    for (int g = 0; g < group; g++) {
        float *scores = scratch + g * line, *out = op->out + row * op->out_stride + (shared * group + g) * size;
        float inverse = 1.0f / weigh(op, scores, length, shared * group + g);
        int i = 0;
        for (; i + 4 * LANES <= size; i += 4 * LANES) {
            vf sums[4] = {(vf){0}, (vf){0}, (vf){0}, (vf){0}};
            for (int t = 0; t < length; t++)
                for (int j = 0; j < 4; j++)
                    sums[j] += load_weights(op->cache_type, values, (int64_t)t * size + i + j * LANES) * scores[t];
            for (int j = 0; j < 4; j++) store(out + i + j * LANES, sums[j] * inverse);
        }
        for (; i + LANES <= size; i += LANES) {
            vf sum = (vf){0};
            for (int t = 0; t < length; t++) sum += load_weights(op->cache_type, values, (int64_t)t * size + i) * scores[t];
            store(out + i, sum * inverse);
        }
        for (; i < size; i++) {
            float sum = 0;
            for (int t = 0; t < length; t++) sum += weight_at(op->cache_type, values, (int64_t)t * size + i) * scores[t];
            out[i] = sum * inverse;
        }
    }
}

static void attend(const operation *op, int batch, const int64_t *places, int32_t *next, float *scratch) {
    for (;;) {
        int task = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
        if (task >= batch * op->shared) return;
        int row = task / op->shared;
        attend_shared(op, row, task % op->shared, places[row], scratch);
    }
}

/* `next`: one number an operation; `scratch`: `scratch_size` floats a thread. */
void burnish_decode(const operation *operations, int count, int batch, const int64_t *places, int threads, int32_t *next,
                    float *scratch, int64_t scratch_size) {
    memset(next, 0, count * sizeof(int32_t));
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num(), all_threads = omp_get_num_threads();
        float *own = scratch + thread * scratch_size;
        for (int i = 0; i < count; i++) {
            const operation *op = operations + i;
            if (op->sync) {
#pragma omp barrier
            }
            switch (op->kind) {
                case NORM: norm(op, batch, thread, all_threads); break;
                case LINEAR: linear(op, batch, all_threads, next + i, own); break;
                case ATTEND: attend(op, batch, places, next + i, own); break;
                case GATED: gated(op, batch, thread, all_threads); break;
                case SOFTCAP: softcap(op, batch, thread, all_threads); break;
            }
        }
    }
}

int burnish_operation_size(void) { return sizeof(operation); }
