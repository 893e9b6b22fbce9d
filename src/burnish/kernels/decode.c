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

#include "halves.h"
#include "meeting.h"
#include "vectors.h"

enum { NORM = 0, LINEAR = 1, ATTEND = 2, GATED = 3, SOFTCAP = 4 };
#define TOGETHER 3 /* heads that read a value together */
#define AHEAD 16384 /* bytes of the next weights that are asked for by a thread that waits */

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
    const uint16_t *in_half; /* the rounded input of a product, where it is rounded */
    uint16_t *out_half;      /* where `out` is kept rounded too */
    int64_t in_half_stride, out_half_stride;
} operation;

/* What was written is kept rounded as well, where a product reads it so. */
INLINE void also_rounded(const operation *op, int row, int from, int count) {
    if (op->out_half)
        rounded(op->out + row * op->out_stride + from, count, op->out_half + row * op->out_half_stride + from);
}

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
            also_rounded(op, c + i, row, rows);
        }
    }
}

#if MULTIPLIES_HALVES
/* Outputs `row` … `end` - 1, at most BLOCK, from rounded inputs. `next`: the weights that this thread reads after these.
 * Scratch: batch × BLOCK sums. */
static void linear_halves(const operation *op, int batch, int row, int end, const char *next, float *scratch) {
    int64_t stride = bytes_of(BFLOAT16, op->k);
    int parts = (batch + WIDE - 1) / WIDE, ahead = parts < 5 ? (TALL + parts - 1) / parts : parts < TALL ? 2 : 1;
    for (int at = row; at < end; at += end - at < TALL ? 1 : TALL) {
        const char *w = (const char *)op->weight + at * stride, *soon = at + 2 * TALL <= end ? w + TALL * stride : next;
        const char *enough = soon + TALL * stride;
        for (int c = 0; c < batch; c += WIDE) {
            int columns = batch - c < WIDE ? batch - c : WIDE;
            half_products(end - at < TALL ? 1 : TALL, columns, soon < enough ? ahead : 0, w, stride,
                          op->in_half + c * op->in_half_stride, op->in_half_stride, op->k, soon,
                          scratch + c * BLOCK + at - row, BLOCK);
            soon += op->k / PAIRS * 64 * ahead; /* spread over the columns, so that memory is read all the time */
        }
    }
    for (int c = 0; c < batch; c++) {
        float *out = op->out + c * op->out_stride, *sums = scratch + c * BLOCK - row;
        for (int r = row; r < end; r++) {
            float value = op->scale * sums[r] + (op->bias ? op->bias[r] : 0.0f);
            out[r] = op->add ? out[r] + value : value;
        }
        also_rounded(op, c, row, end - row);
    }
}
#endif

/* The first output of a thread's own part. */
INLINE int part_of(const operation *op, int thread, int threads) {
    return thread == threads ? op->n : (int)((int64_t)(op->n / TALL) * thread / threads * TALL);
}

INLINE void linear_some(const operation *op, int batch, int row, int end, const char *next, float *scratch) {
#if MULTIPLIES_HALVES
    if (op->in_half) {
        for (; row < end; row += BLOCK) {
            int more = row + BLOCK < end;
            const char *below = (const char *)op->weight + (row + BLOCK) * bytes_of(BFLOAT16, op->k);
            linear_halves(op, batch, row, more ? row + BLOCK : end, more ? below : next, scratch);
        }
        return;
    }
#endif
    for (; row + ROWS <= end; row += ROWS) linear_rows(op, batch, row, ROWS, scratch);
    for (; row < end; row++) linear_rows(op, batch, row, 1, scratch);
}

/* Each thread does its own part, a piece at a time, and then helps those that were held up. */
static void linear(const operation *op, int batch, int thread, int threads, int32_t *taken, const char *next,
                   float *scratch) {
    for (int turn = 0; turn < threads; turn++) {
        int whose = (thread + turn) % threads;
        int first = part_of(op, whose, threads), last = part_of(op, whose + 1, threads);
        int piece = (last - first) / 8 / TALL * TALL;
        if (piece < TALL) piece = TALL;
        if (piece > 256) piece = 256;
        for (;;) {
            int start = first + __atomic_fetch_add(taken + whose, piece, __ATOMIC_RELAXED);
            if (start >= last) break;
            int end = start + piece < last ? start + piece : last;
            const char *below = (const char *)op->weight + end * bytes_of(op->type, op->k);
            linear_some(op, batch, start, end, end + TALL <= last ? below : next, scratch);
        }
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
    for (int row = thread; row < batch; row += threads) {
        normed(op->in + row * op->in_stride, (const float *)op->weight, op->offset, op->eps, op->n, op->add,
               op->out + row * op->out_stride);
        also_rounded(op, row, 0, op->n);
    }
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
        if (from < to) also_rounded(op, row, from, to - from);
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
    vf tops = all(top);
    vi lanes;
    for (int j = 0; j < LANES; j++) lanes[j] = j;
    if (op->softcap > 0)
        for (int t = 0; t < length; t++) scores[t] = op->softcap * tanhf(scores[t] * op->scale / op->softcap);
    for (int t = length; t % LANES; t++) scores[t] = -INFINITY;
    for (int t = 0; t < length; t += LANES) {
        vf here = load(scores + t);
        if (!(op->softcap > 0)) store(scores + t, here = here * op->scale);
        tops = chosen(here > tops, here, tops);
    }
    for (int j = 0; j < LANES; j++) top = tops[j] > top ? tops[j] : top;
    vf sums = (vf){0};
    for (int t = 0; t < length; t += LANES) {
        vf raised = exponential(load(scores + t) - top);
        if (t + LANES > length) raised = chosen(lanes < length - t, raised, (vf){0});
        store(scores + t, raised);
        sums += raised;
    }
    return total(sums) + (op->sinks ? expf(op->sinks[head] - top) : 0.0f);
}

/* out[h] = inverse[h] · Σ scores[h][t] · values[t], for heads that share their values. Scores lie `line` apart, outputs
 * `size`. */
INLINE void mix(const int type, const int heads, const char *values, int64_t stride, const float *scores, int64_t line,
                int length, int size, const float *inverse, float *out) {
    int i = 0;
    for (; i + 4 * LANES <= size; i += 4 * LANES) {
        vf sums[TOGETHER][4];
        for (int h = 0; h < heads; h++)
            for (int j = 0; j < 4; j++) sums[h][j] = (vf){0};
        for (int t = 0; t < length; t++)
            for (int j = 0; j < 4; j++) {
                vf value = load_weights(type, values + t * stride, i + j * LANES);
                for (int h = 0; h < heads; h++) sums[h][j] += value * scores[h * line + t];
            }
        for (int h = 0; h < heads; h++)
            for (int j = 0; j < 4; j++) store(out + h * size + i + j * LANES, sums[h][j] * inverse[h]);
    }
    for (int h = 0; h < heads; h++) {
        int rest = i;
        for (; rest + LANES <= size; rest += LANES) {
            vf sum = (vf){0};
            for (int t = 0; t < length; t++) sum += load_weights(type, values + t * stride, rest) * scores[h * line + t];
            store(out + h * size + rest, sum * inverse[h]);
        }
        for (; rest < size; rest++) {
            float sum = 0;
            for (int t = 0; t < length; t++) sum += weight_at(type, values + t * stride, rest) * scores[h * line + t];
            out[h * size + rest] = sum * inverse[h];
        }
    }
}

/* Scores of the keys `from` … for `group` queries, `line` apart. */
INLINE void score(const operation *op, const char *from, int length, const float *queries, int group, float *scores,
                  int64_t line) {
    int size = op->size;
    int64_t stride = bytes_of(op->cache_type, size);
#if MULTIPLIES_HALVES
    if (op->cache_type == BFLOAT16) {
        int64_t filled = (size + PAIRS - 1) / PAIRS * PAIRS;
        uint16_t *halves = (uint16_t *)(scores + group * line);
        for (int g = 0; g < group; g++) {
            rounded(queries + g * size, size, halves + g * filled);
            for (int i = size; i < filled; i++) halves[g * filled + i] = 0;
        }
        for (int t = 0, rows; t < length; t += rows) {
            rows = length - t < TALL ? 1 : TALL;
            for (int g = 0; g < group; g += WIDE)
                half_products(rows, group - g < WIDE ? group - g : WIDE, 0, from + t * stride, stride,
                              halves + g * filled, filled, size, from, scores + g * line + t, line);
        }
        return;
    }
#endif
    float result[COLUMNS * ROWS];
    for (int t = 0, rows; t < length; t += rows) {
        rows = length - t < ROWS ? 1 : ROWS;
        for (int g = 0; g < group; g += COLUMNS) {
            int columns = group - g < COLUMNS ? group - g : COLUMNS;
            products(rows, columns, op->cache_type, 1, from + t * stride, stride, queries + g * size, size, size, result);
            for (int c = 0; c < columns; c++)
                for (int r = 0; r < rows; r++) scores[(g + c) * line + t + r] = result[c * ROWS + r];
        }
    }
}

/* Where the keys of a task, a row and the heads that share them, begin to be looked at, counted in heads. */
INLINE int64_t seen_from(const operation *op, int task, const int64_t *places, int *length) {
    int64_t all_keys = places[task / op->shared] + 1;
    *length = (int)(op->window > 0 && all_keys > op->window ? op->window : all_keys);
    return task * op->room + all_keys - *length;
}

/* All queries of a task. Scratch: group × (room + LANES) scores, and the queries. `soon`: the task that may be next. */
static void attend_shared(const operation *op, int task, int soon, const int64_t *places, float *scratch) {
    int row = task / op->shared, shared = task % op->shared, group = op->heads / op->shared, size = op->size, length;
    int64_t place = places[row], start = seen_from(op, task, places, &length), now = task * op->room + place;
    float *queries = (float *)op->in + row * op->in_stride + shared * group * size;
    float *key = (float *)op->second + row * op->second_stride + shared * size;
    const float *value = op->third + row * op->second_stride + shared * size;
    int64_t line = op->room + LANES, line_bytes = bytes_of(op->cache_type, size);
    const char *keys = (const char *)op->keys + start * line_bytes;
    const char *values = (const char *)op->values + start * line_bytes;
    int64_t early = length * line_bytes;
    fetch_all(values, early < AHEAD ? early : AHEAD); /* while the keys are used */
    for (int g = 0; g < group; g++) turn(op, queries + g * size, op->q_norm, place);
    turn(op, key, op->k_norm, place);
    keep(op, op->keys, now * size, key);
    keep(op, op->values, now * size, value);
    score(op, keys, length, queries, group, scratch, line);
    if (soon >= 0) { /* its keys, while the values are used */
        int its_length;
        int64_t from = seen_from(op, soon, places, &its_length);
        early = its_length * line_bytes;
        fetch_all((const char *)op->keys + from * line_bytes, early < AHEAD ? early : AHEAD);
    }
    for (int g = 0; g < group; g += TOGETHER) {
        int heads = group - g < TOGETHER ? group - g : TOGETHER, from = (shared * group + g) * size;
        float *scores = scratch + g * line, *out = op->out + row * op->out_stride + from, inverse[TOGETHER];
        for (int h = 0; h < heads; h++)
            inverse[h] = 1.0f / weigh(op, scores + h * line, length, shared * group + g + h);
#define MIX(kind, count) \
    if (op->cache_type == kind && heads == count) mix(kind, count, values, line_bytes, scores, line, length, size, inverse, out);
        MIX(FLOAT32, 1) MIX(FLOAT32, 2) MIX(FLOAT32, 3) MIX(BFLOAT16, 1) MIX(BFLOAT16, 2) MIX(BFLOAT16, 3)
#undef MIX
        also_rounded(op, row, from, heads * size);
    }
}

static void attend(const operation *op, int batch, const int64_t *places, int threads, int32_t *next, float *scratch) {
    int tasks = batch * op->shared;
    for (;;) {
        int task = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED), soon = task + threads;
        if (task >= tasks) return;
        attend_shared(op, task, soon < tasks ? soon : -1, places, scratch);
    }
}

/* Where a thread's part of the first product behind operation `i` begins. */
INLINE const char *coming(const operation *operations, int count, int i, int thread, int threads) {
    for (i++; i < count; i++) {
        const operation *op = operations + i;
        int64_t row = part_of(op, thread, threads);
        if (op->kind == LINEAR) return (const char *)op->weight + row * bytes_of(op->type, op->k);
    }
    return NULL;
}

/* `taken`: `threads` numbers an operation; `scratch`: `scratch_size` floats a thread. */
void burnish_decode(const operation *operations, int count, int batch, const int64_t *places, int threads,
                    int32_t *taken, float *scratch, int64_t scratch_size) {
    meeting here = {0, 0};
    memset(taken, 0, (int64_t)count * threads * sizeof(int32_t));
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num(), all_threads = omp_get_num_threads();
        float *own = scratch + thread * scratch_size;
        for (int i = 0; i < count; i++) {
            const operation *op = operations + i;
            const char *next = coming(operations, count, i, thread, all_threads);
            if (op->sync) meet(&here, all_threads);
            switch (op->kind) {
                case NORM: norm(op, batch, thread, all_threads); break;
                case LINEAR: linear(op, batch, thread, all_threads, taken + i * threads, next, own); break;
                case ATTEND: attend(op, batch, places, all_threads, taken + i * threads, own); break;
                case GATED: gated(op, batch, thread, all_threads); break;
                case SOFTCAP: softcap(op, batch, thread, all_threads); break;
            }
            if (op->kind != LINEAR && next) fetch_all(next, AHEAD); /* while the others get here */
        }
    }
}

int burnish_operation_size(void) { return sizeof(operation); }
int burnish_rounds(void) { return MULTIPLIES_HALVES; }
