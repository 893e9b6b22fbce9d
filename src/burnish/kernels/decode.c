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

#include "vectors.h"

enum { NORM = 0, LINEAR = 1, ATTEND = 2, GATED = 3, SOFTCAP = 4 };
enum { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3 };

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

static void linear_rows(const operation *op, int batch, int row, int rows, float *scratch) {
    int type = op->type, k = op->k;
    int64_t stride = bytes_of(type, k);
    const char *w = (const char *)op->weight + row * stride;
    float result[COLUMNS * ROWS];
    if (type == BFLOAT16 && batch > COLUMNS) { /* made wide once for all columns */
        for (int r = 0; r < rows; r++) unpack(w + r * stride, stride, k, scratch + (int64_t)r * k);
        w = (const char *)scratch, type = FLOAT32, stride = bytes_of(FLOAT32, k);
    }
    for (int c = 0; c < batch; c += COLUMNS) {
        int columns = batch - c < COLUMNS ? batch - c : COLUMNS;
        int ahead = c == 0 && w != (const char *)scratch;
        products(rows, columns, type, ahead, w, stride, op->in + c * op->in_stride, op->in_stride, k, result);
        for (int i = 0; i < columns; i++) {
            float *out = op->out + (c + i) * op->out_stride + row;
            if (rows == ROWS) {
                four values = *(const four *)(result + i * ROWS) * op->scale;
                if (op->bias) values += *(const four *)(op->bias + row);
                if (op->add) values += *(const four *)out;
                *(four *)out = values;
            } else {
                float value = op->scale * result[i * ROWS] + (op->bias ? op->bias[row] : 0.0f);
                *out = op->add ? *out + value : value;
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
            else if (op->type == RELU) acted = chosen(x > all(0.0f), x, all(0.0f));
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

/* out = inverse · Σ scores[t] · values[t] */
INLINE void mix(const int type, const char *values, int64_t stride, const float *scores, int length, int size,
                float inverse, float *out) {
    int i = 0;
    for (; i + 4 * LANES <= size; i += 4 * LANES) {
        vf sums[4] = {(vf){0}, (vf){0}, (vf){0}, (vf){0}};
        for (int t = 0; t < length; t++)
            for (int j = 0; j < 4; j++) sums[j] += load_weights(type, values + t * stride, i + j * LANES) * scores[t];
        for (int j = 0; j < 4; j++) store(out + i + j * LANES, sums[j] * inverse);
    }
    for (; i + LANES <= size; i += LANES) {
        vf sum = (vf){0};
        for (int t = 0; t < length; t++) sum += load_weights(type, values + t * stride, i) * scores[t];
        store(out + i, sum * inverse);
    }
    for (; i < size; i++) {
        float sum = 0;
        for (int t = 0; t < length; t++) sum += weight_at(type, values + t * stride, i) * scores[t];
        out[i] = sum * inverse;
    }
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
    int64_t line_bytes = bytes_of(op->cache_type, size);
    const char *keys = (const char *)op->keys + (base + first) * line_bytes;
    const char *values = (const char *)op->values + (base + first) * line_bytes;
    int64_t line = op->room + LANES;
    float result[COLUMNS * ROWS];
    for (int t = 0; t < length; t += ROWS) {
        int rows = length - t < ROWS ? 1 : ROWS;
        for (int each = t; each < (rows == 1 ? length : t + 1); each++)
            for (int g = 0; g < group; g += COLUMNS) {
                int columns = group - g < COLUMNS ? group - g : COLUMNS;
                const char *from = keys + each * line_bytes;
                products(rows, columns, op->cache_type, 1, from, line_bytes, queries + g * size, size, size, result);
                for (int c = 0; c < columns; c++)
                    for (int r = 0; r < rows; r++) scratch[(g + c) * line + each + r] = result[c * ROWS + r];
            }
    }
    for (int g = 0; g < group; g++) {
        float *scores = scratch + g * line, *out = op->out + row * op->out_stride + (shared * group + g) * size;
        float inverse = 1.0f / weigh(op, scores, length, shared * group + g);
        if (op->cache_type == FLOAT32) mix(FLOAT32, values, line_bytes, scores, length, size, inverse, out);
        else mix(BFLOAT16, values, line_bytes, scores, length, size, inverse, out);
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
