/* Causal attention over the documents of a packed row, forward and backward.
 *
 * Tensors are float32 or bfloat16. Sums are float32; where a machine multiplies pairs of bfloat16 numbers, the factors of
 * products are bfloat16 as well (`attend_pairs.h`).
 *
 * A task is one head of one document, or of two documents that share a prompt. Scores exist for BLOCK_Q queries and BLOCK_K
 * keys at a time, and are made again on the way back (Dao, FlashAttention-2, arXiv:2307.08691, algorithms 1 and 2). All
 * products are one kernel: numbers of A, each spread over a vector, times rows of B. */
#include "vectors.h"
#include <math.h>
#include <omp.h>

#if LANES == 8
#define WIDE 2 /* vectors beside each other in a tile */
#else
#define WIDE 4
#endif
#define TALL 6 /* rows of a tile */
#define BLOCK_Q 48
#define BLOCK_K 128
#define NEVER (-1e30f)

typedef struct {
    int64_t start, length, prompt_start, prompt; /* the prompt's keys stand before the document's own */
} document;

typedef struct {
    const char *data;
    int64_t head, token; /* steps from one head to the next, and from one token to the next, in numbers */
} tensor;

typedef struct {
    const document *documents;
    int64_t count, together, heads, shared, size, window; /* `together`: documents of one task; window 0: none */
    int64_t type;                                         /* FLOAT32 or BFLOAT16 */
    float scale;
    tensor query, key, value, out, grad, grad_query, grad_key, grad_value;
    tensor each_key, each_value; /* float32: gradients of keys and values by each head, before those that share are added up */
    float *sums;                 /* [H, T] log of the softmax's sums */
    int64_t tokens;
} attention;

INLINE char *row_of(const attention *job, const tensor *t, int64_t head, int64_t token) {
    return (char *)t->data + bytes_of((int)job->type, head * t->head + token * t->token);
}
INLINE float *sum_of(const tensor *t, int64_t head, int64_t token) { /* of each_key and each_value */
    return (float *)t->data + head * t->head + token * t->token;
}

/* Rows as float32: themselves, or a copy in `room`; `*step` is from one row to the next. */
INLINE const float *as_floats(const int type, const char *rows, int64_t *step, int64_t count, int size, float *room) {
    if (type == FLOAT32) return (const float *)rows;
    for (int64_t r = 0; r < count; r++)
        for (int d = 0; d < size; d += LANES)
            store(room + r * size + d, load_weights(type, rows + bytes_of(type, r * *step), d));
    *step = size;
    return room;
}

/* sum + a · b, with one number of A for all of B's; of pairs, sum + a[0] · b[0] + a[1] · b[1]. */
INLINE vf multiplied(const int pairs, vf sum, float a, vf b) {
#if MULTIPLIES_HALVES
    union { float value; int32_t bits; } both = {a};
    if (pairs) return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(both.bits), (__m512bh)b);
#endif
    return sum + all(a) * b;
}

/* C = A B, or C += A B. A[r, x] lies at a[r * a_row + x * a_step]; `wide` vectors of each row of B and C. Of pairs, A and B hold
 * two numbers, neighbours along x, in the place of a float. */
INLINE void patch(const int pairs, const int rows, const int wide, const int add, const float *a, int64_t a_row, int64_t a_step,
                 const float *b, int64_t b_row, int depth, float *c, int64_t c_row) {
    vf sums[TALL][WIDE];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < wide; v++) sums[r][v] = add ? load(c + r * c_row + v * LANES) : (vf){0};
    for (int x = 0; x < depth; x++) {
        vf from[WIDE];
        for (int v = 0; v < wide; v++) from[v] = load(b + x * b_row + v * LANES);
        for (int r = 0; r < rows; r++) {
            float spread = a[r * a_row + x * a_step];
            for (int v = 0; v < wide; v++) sums[r][v] = multiplied(pairs, sums[r][v], spread, from[v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < wide; v++) store(c + r * c_row + v * LANES, sums[r][v]);
}

#define TALL_CASE(count) \
    case count: patch(pairs, count, wide, add, a, a_row, a_step, b, b_row, depth, c, c_row); break;

INLINE void column(const int pairs, const int wide, const int add, int rows, const float *a, int64_t a_row, int64_t a_step,
                   const float *b, int64_t b_row, int depth, float *c, int64_t c_row) {
    for (; rows >= TALL; rows -= TALL, a += TALL * a_row, c += TALL * c_row)
        patch(pairs, TALL, wide, add, a, a_row, a_step, b, b_row, depth, c, c_row);
    switch (rows) { TALL_CASE(1) TALL_CASE(2) TALL_CASE(3) TALL_CASE(4) TALL_CASE(5) }
}

/* [rows, depth] × [depth, columns], `columns` a multiple of LANES. */
#define PRODUCT(name, pairs, add)                                                                                             \
    static void name(int rows, int columns, int depth, const float *a, int64_t a_row, int64_t a_step, const float *b,          \
                     int64_t b_row, float *c, int64_t c_row) {                                                                 \
        int vectors = columns / LANES;                                                                                         \
        for (; vectors >= WIDE; vectors -= WIDE, b += WIDE * LANES, c += WIDE * LANES)                                         \
            column(pairs, WIDE, add, rows, a, a_row, a_step, b, b_row, depth, c, c_row);                                       \
        for (; vectors; vectors--, b += LANES, c += LANES)                                                                     \
            column(pairs, 1, add, rows, a, a_row, a_step, b, b_row, depth, c, c_row);                                          \
    }

PRODUCT(product_new, 0, 0)
PRODUCT(product_onto, 0, 1)

INLINE int up(int64_t count) { return (int)((count + LANES - 1) / LANES * LANES); }

/* Rows of keys or values as columns: [size, BLOCK_K], zeros up to a whole vector. */
INLINE void turn_over(const float *from, int64_t step, int count, int size, float *to) {
    for (int d = 0; d < size; d++)
        for (int t = count; t < up(count); t++) to[d * BLOCK_K + t] = 0;
    for (int t = 0; t < count; t++)
        for (int d = 0; d < size; d++) to[d * BLOCK_K + t] = from[t * step + d];
}

/* A run of keys in memory; `place` is where its first one stands for the document that reads it. */
typedef struct {
    int64_t token, place;
    int count;
} keys;

/* Block number `index` of a document's keys, those of the prompt first; count 0 after the last. */
static keys key_block(const document *doc, int index) {
    int before = (int)((doc->prompt + BLOCK_K - 1) / BLOCK_K);
    int64_t first = (int64_t)(index < before ? index : index - before) * BLOCK_K;
    int64_t left = (index < before ? doc->prompt : doc->length) - first;
    keys found = {(index < before ? doc->prompt_start : doc->start) + first, first + (index < before ? 0 : doc->prompt), 0};
    if (left > 0) found.count = left < BLOCK_K ? (int)left : BLOCK_K;
    return found;
}

/* Which keys of a block the query at `place` sees: from `*first` up to, not including, what is returned. */
INLINE int seen(const attention *job, const keys *block, int64_t place, int *first) {
    int64_t low = job->window ? place - job->window + 1 - block->place : 0, high = place + 1 - block->place;
    *first = low < 0 ? 0 : low > block->count ? block->count : (int)low;
    return high < 0 ? 0 : high > block->count ? block->count : (int)high;
}

/* How many keys of a block, from its first on, some query of a run of them sees; 0 where none is seen. */
INLINE int seen_by_any(const attention *job, const keys *block, int64_t place, int queries) {
    int first, none = seen(job, block, place, &first) == 0 && seen(job, block, place + queries - 1, &first) == 0;
    if (none || (job->window && place - job->window + 1 >= block->place + block->count)) return 0;
    return seen(job, block, place + queries - 1, &first);
}

INLINE float greatest(vf v) {
    float found = v[0];
    for (int i = 1; i < LANES; i++) found = v[i] > found ? v[i] : found;
    return found;
}

INLINE void scaled(float *to, const float *from, int size, float factor) {
    for (int d = 0; d < size; d += LANES) store(to + d, load(from + d) * factor);
}
INLINE void scaled_in(const int type, float *to, const char *from, int size, float factor) {
    for (int d = 0; d < size; d += LANES) store(to + d, load_weights(type, from, d) * factor);
}
INLINE void scaled_out(const int type, char *to, const float *from, int size, float factor) {
    for (int d = 0; d < size; d += LANES) put(type, to, d, load(from + d) * factor);
}

/* Scores of one query, times a factor, become weights e^(s - most); returns their sum. What is not seen weighs nothing. */
INLINE float weigh(float *scores, const float factor, int first, int last, int count, float *most) {
    vf high = all(*most), sum = {0};
    for (int t = 0; t < first; t++) scores[t] = NEVER;
    for (int t = last; t < up(count); t++) scores[t] = NEVER;
    for (int t = 0; t < up(count); t += LANES) {
        vf each = load(scores + t) * factor;
        high = chosen(each > high, each, high);
    }
    *most = greatest(high);
    for (int t = 0; t < up(count); t += LANES) {
        vf each = exponential(load(scores + t) * factor - all(*most));
        store(scores + t, each);
    }
    for (int t = 0; t < first; t++) scores[t] = 0;
    for (int t = last; t < up(count); t++) scores[t] = 0;
    for (int t = 0; t < up(count); t += LANES) sum += load(scores + t);
    return total(sum);
}

INLINE void document_forward(const int type, const attention *job, const document *doc, int64_t head, float *scratch) {
    int size = (int)job->size, blocks = 0;
    int64_t shared = head / (job->heads / job->shared), whole = (doc->length + doc->prompt + 2 * BLOCK_K) * size;
    float *scores = scratch, *queries = scores + BLOCK_Q * BLOCK_K, *mixed = queries + BLOCK_Q * size;
    float *columns = mixed + BLOCK_Q * size, *values = columns + whole, most[BLOCK_Q], sum[BLOCK_Q];
    for (keys block; (block = key_block(doc, blocks)).count; blocks++) {
        int64_t step = job->key.token;
        const char *rows = row_of(job, &job->key, shared, block.token);
        const float *from = as_floats(type, rows, &step, block.count, size, values);
        turn_over(from, step, block.count, size, columns + (int64_t)blocks * BLOCK_K * size);
    }
    for (int b = 0; type != FLOAT32 && b < blocks; b++) {
        keys block = key_block(doc, b);
        int64_t step = job->value.token;
        const char *rows = row_of(job, &job->value, shared, block.token);
        as_floats(type, rows, &step, block.count, size, values + (int64_t)b * BLOCK_K * size);
    }
    for (int64_t q = 0; q < doc->length; q += BLOCK_Q) {
        int rows = doc->length - q < BLOCK_Q ? (int)(doc->length - q) : BLOCK_Q;
        for (int r = 0; r < rows; r++) {
            scaled_in(type, queries + r * size, row_of(job, &job->query, head, doc->start + q + r), size, job->scale);
            most[r] = NEVER, sum[r] = 0;
        }
        memset(mixed, 0, rows * size * sizeof(float));
        for (int b = 0; b < blocks; b++) {
            keys block = key_block(doc, b);
            int count = seen_by_any(job, &block, doc->prompt + q, rows);
            if (!count) continue;
            product_new(rows, up(count), size, queries, size, 1, columns + (int64_t)b * BLOCK_K * size, BLOCK_K, scores,
                        BLOCK_K);
            for (int r = 0; r < rows; r++) {
                int first, last = seen(job, &block, doc->prompt + q + r, &first);
                float *line = scores + r * BLOCK_K, before = most[r];
                if (first >= last) {
                    memset(line, 0, up(count) * sizeof(float));
                    continue;
                }
                float found = weigh(line, 1, first, last, count, most + r), kept = 1;
                if (most[r] > before) {
                    kept = sum[r] > 0 ? expf(before - most[r]) : 0;
                    scaled(mixed + r * size, mixed + r * size, size, kept);
                }
                sum[r] = sum[r] * kept + found;
            }
            const float *read = values + (int64_t)b * BLOCK_K * size;
            if (type == FLOAT32) read = (const float *)row_of(job, &job->value, shared, block.token);
            product_onto(rows, size, count, scores, BLOCK_K, 1, read, type == FLOAT32 ? job->value.token : size, mixed,
                         size);
        }
        for (int r = 0; r < rows; r++) {
            scaled_out(type, row_of(job, &job->out, head, doc->start + q + r), mixed + r * size, size, 1 / sum[r]);
            job->sums[head * job->tokens + doc->start + q + r] = most[r] + logf(sum[r]);
        }
    }
}

/* Scores, times a factor, become weights, and slopes of the weights those of the scores before it, each for one query. */
INLINE void slopes(float *weights, float *slope, const float factor, int first, int last, int count, float sum, float mean) {
    for (int t = 0; t < up(count); t += LANES) store(weights + t, exponential(load(weights + t) * factor - all(sum)));
    for (int t = 0; t < first; t++) weights[t] = 0;
    for (int t = last; t < up(count); t++) weights[t] = 0;
    for (int t = 0; t < up(count); t += LANES)
        store(slope + t, load(weights + t) * (load(slope + t) - all(mean)) * factor);
}

/* Adds to the head's gradients of keys and values. */
INLINE void document_backward(const int type, const attention *job, const document *doc, int64_t head, float *scratch) {
    int size = (int)job->size;
    int64_t shared = head / (job->heads / job->shared), length = doc->length;
    float *weights = scratch, *slope = weights + BLOCK_Q * BLOCK_K, *key_columns = slope + BLOCK_Q * BLOCK_K;
    float *value_columns = key_columns + BLOCK_K * size, *queries = value_columns + BLOCK_K * size;
    float *grad_queries = queries + length * size, *means = grad_queries + length * size;
    float *room = means + length + LANES, *grads = room + BLOCK_K * size;
    int64_t grad_step = job->grad.token;
    const float *grad = as_floats(type, row_of(job, &job->grad, head, doc->start), &grad_step, length, size, grads);
    memset(grad_queries, 0, length * size * sizeof(float));
    for (int64_t q = 0; q < length; q++) {
        const char *out = row_of(job, &job->out, head, doc->start + q);
        vf sum = {0};
        for (int d = 0; d < size; d += LANES) sum += load_weights(type, out, d) * load(grad + q * grad_step + d);
        means[q] = total(sum);
        scaled_in(type, queries + q * size, row_of(job, &job->query, head, doc->start + q), size, job->scale);
    }
    keys block;
    for (int b = 0; (block = key_block(doc, b)).count; b++) {
        int64_t value_step = job->value.token, key_step = job->key.token;
        const char *values = row_of(job, &job->value, shared, block.token);
        const char *all_keys = row_of(job, &job->key, shared, block.token);
        const float *value = as_floats(type, values, &value_step, block.count, size, room);
        turn_over(value, value_step, block.count, size, value_columns);
        const float *key = as_floats(type, all_keys, &key_step, block.count, size, room);
        turn_over(key, key_step, block.count, size, key_columns);
        int64_t from = block.place > doc->prompt ? block.place - doc->prompt : 0; /* the first query that sees it */
        for (int64_t q = from; q < length; q += BLOCK_Q) {
            int rows = length - q < BLOCK_Q ? (int)(length - q) : BLOCK_Q;
            int count = seen_by_any(job, &block, doc->prompt + q, rows);
            if (!count) break; /* later ones are farther away */
            const float *asked = queries + q * size, *back = grad + q * grad_step;
            product_new(rows, up(count), size, asked, size, 1, key_columns, BLOCK_K, weights, BLOCK_K);
            product_new(rows, up(count), size, back, grad_step, 1, value_columns, BLOCK_K, slope, BLOCK_K);
            for (int r = 0; r < rows; r++) {
                int first, last = seen(job, &block, doc->prompt + q + r, &first);
                if (last < first) last = first;
                float sum = job->sums[head * job->tokens + doc->start + q + r];
                slopes(weights + r * BLOCK_K, slope + r * BLOCK_K, 1, first, last, count, sum, means[q + r]);
            }
            product_onto(count, size, rows, weights, 1, BLOCK_K, back, grad_step,
                         sum_of(&job->each_value, head, block.token), job->each_value.token);
            product_onto(count, size, rows, slope, 1, BLOCK_K, asked, size, sum_of(&job->each_key, head, block.token),
                         job->each_key.token);
            product_onto(rows, size, count, slope, BLOCK_K, 1, key, key_step, grad_queries + q * size, size);
        }
    }
    for (int64_t q = 0; q < length; q++)
        scaled_out(type, row_of(job, &job->grad_query, head, doc->start + q), grad_queries + q * size, size, job->scale);
}

#if MULTIPLIES_HALVES
#include "attend_pairs.h"
#else
#define forward_of_pairs(...) document_forward(BFLOAT16, __VA_ARGS__)
#define backward_of_pairs(...) document_backward(BFLOAT16, __VA_ARGS__)
#endif

static void whole_forward(const attention *job, const document *doc, int64_t head, float *scratch) {
    if (job->type == FLOAT32) document_forward(FLOAT32, job, doc, head, scratch);
    else forward_of_pairs(job, doc, head, scratch);
}
static void whole_backward(const attention *job, const document *doc, int64_t head, float *scratch) {
    if (job->type == FLOAT32) document_backward(FLOAT32, job, doc, head, scratch);
    else backward_of_pairs(job, doc, head, scratch);
}

INLINE void clear(const attention *job, const tensor *t, const document *doc, int64_t head) {
    for (int64_t i = 0; i < doc->length; i++) memset(sum_of(t, head, doc->start + i), 0, job->size * sizeof(float));
}

static void run(const attention *job, const int backward, int threads, float *scratch, int64_t scratch_size) {
    int64_t tasks = job->count / job->together * job->heads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t task = 0; task < tasks; task++) {
        const document *first = job->documents + task / job->heads * job->together;
        int64_t head = task % job->heads;
        float *own = scratch + omp_get_thread_num() * scratch_size;
        for (int64_t i = 0; i < job->together && backward; i++) {
            clear(job, &job->each_key, first + i, head);
            clear(job, &job->each_value, first + i, head);
        }
        for (int64_t i = 0; i < job->together; i++) {
            if (backward) whole_backward(job, first + i, head, own);
            else whole_forward(job, first + i, head, own);
        }
    }
}

/* The gradients of heads that share keys and values, always added up in the same order. */
static void add_up(const attention *job, const tensor *each, const tensor *sum, int threads) {
    int64_t group = job->heads / job->shared;
    if (each->data == sum->data) return;
#pragma omp parallel for num_threads(threads)
    for (int64_t t = 0; t < job->tokens; t++)
        for (int64_t s = 0; s < job->shared; s++)
            for (int64_t d = 0; d < job->size; d += LANES) {
                vf found = load(sum_of(each, s * group, t) + d);
                for (int64_t g = 1; g < group; g++) found += load(sum_of(each, s * group + g, t) + d);
                if (job->type == FLOAT32) put(FLOAT32, row_of(job, sum, s, t), d, found);
                else put(BFLOAT16, row_of(job, sum, s, t), d, found);
            }
}

int64_t burnish_attend_scratch(int64_t size, int64_t longest, int backward) {
    if (backward) return 4 * BLOCK_Q * BLOCK_K + 3 * BLOCK_K * size + longest * (3 * size + 1) + size + LANES;
    return BLOCK_Q * BLOCK_K + 2 * BLOCK_Q * size + 2 * (longest + 2 * BLOCK_K) * size;
}

void burnish_attend(const attention *job, int threads, float *scratch, int64_t scratch_size) {
    run(job, 0, threads, scratch, scratch_size);
}

void burnish_attend_back(const attention *job, int threads, float *scratch, int64_t scratch_size) {
    run(job, 1, threads, scratch, scratch_size);
    add_up(job, &job->each_key, &job->grad_key, threads);
    add_up(job, &job->each_value, &job->grad_value, threads);
}

int burnish_lanes(void) { return LANES; }
int burnish_attention_size(void) { return sizeof(attention); }
