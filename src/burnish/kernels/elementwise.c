/* What layers do to each number: RMSNorm, the gate of an MLP and the softmax of the head, each forward and back in one go.
 *
 * Tensors are float32 or bfloat16 and lie without gaps; between loading and storing everything is float32. Rows, or blocks of
 * fixed size, are shared out among threads, and sums over them are added up in one order: results do not depend on the
 * number of threads. */
#include "vectors.h"
#include <math.h>
#include <omp.h>

#define SMALL 16384 /* numbers that are not worth waking other threads for */
#define PART 4096   /* numbers, or vectors of a sum, that are worked on at a time */
#define SUMS 4      /* sums beside each other: one would wait for itself */

/* The numbers of a row from `place` to `end`, at most a vector of them; zeros beyond. */
INLINE vf get(const int type, const void *row, int64_t place, int64_t end) {
    if (place + LANES <= end) return load_weights(type, row, place);
    float rest[LANES] = {0};
    for (int64_t i = place; i < end; i++) rest[i - place] = weight_at(type, row, i);
    return load(rest);
}

INLINE void put_one(const int type, void *row, int64_t place, float value) {
    if (type == FLOAT32) ((float *)row)[place] = value;
    else ((uint16_t *)row)[place] = narrowed(value);
}

INLINE void put_until(const int type, void *row, int64_t place, int64_t end, vf values) {
    if (place + LANES <= end) put(type, row, place, values);
    else for (int64_t k = place; k < end; k++) put_one(type, row, k, values[k - place]);
}

INLINE char *row_at(const int type, const void *data, int64_t row, int64_t size) {
    return (char *)data + bytes_of(type, row * size);
}

INLINE float added_up(const vf *sums) { return total((sums[0] + sums[1]) + (sums[2] + sums[3])); }

/* -- RMSNorm (Zhang and Sennrich, arXiv:1910.07467, eq. 4) -- */

INLINE void norm_row(const int type, const char *x, const char *weight, float offset, float inverse, char *out, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES)
        put_until(type, out, i, n, get(type, x, i, n) * inverse * (get(type, weight, i, n) + offset));
}

INLINE void norm(const int type, int64_t rows, int64_t n, const char *x, const char *weight, float offset, float epsilon,
                 const int again, float *inverses, char *out, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * n > SMALL)
    for (int64_t row = 0; row < rows; row++) {
        const char *from = row_at(type, x, row, n);
        if (!again) {
            vf sums[SUMS] = {{0}};
            int64_t i = 0;
            for (; i + SUMS * LANES <= n; i += SUMS * LANES)
                for (int s = 0; s < SUMS; s++) {
                    vf one = load_weights(type, from, i + s * LANES);
                    sums[s] += one * one;
                }
            for (; i < n; i += LANES) sums[0] += get(type, from, i, n) * get(type, from, i, n);
            inverses[row] = 1 / sqrtf(added_up(sums) / n + epsilon);
        }
        norm_row(type, from, weight, offset, inverses[row], row_at(type, out, row, n), n);
    }
}

/* out, and 1 / sqrt(mean(x²) + epsilon) of each row; with `again` those are read, and the bits of out are the same. */
void burnish_norm(int type, int64_t rows, int64_t n, const void *x, const void *weight, float offset, float epsilon, int again,
                  float *inverses, void *out, int threads) {
    if (type == FLOAT32) norm(FLOAT32, rows, n, x, weight, offset, epsilon, again, inverses, out, threads);
    else norm(BFLOAT16, rows, n, x, weight, offset, epsilon, again, inverses, out, threads);
}

/* With y = x / s: d loss / d x = (g - y · mean(g · y)) / s, g being d loss / d y. */
INLINE void norm_back_row(const int type, int64_t n, const char *x, const char *weight, float offset, float inverse,
                          const char *slope, char *grad, float *grad_weight) {
    vf sums[SUMS] = {{0}};
    int64_t done = 0;
    for (; grad && done + SUMS * LANES <= n; done += SUMS * LANES)
        for (int s = 0; s < SUMS; s++) {
            int64_t i = done + s * LANES;
            vf scaled = load_weights(type, slope, i) * (load_weights(type, weight, i) + offset);
            sums[s] += scaled * load_weights(type, x, i);
        }
    for (; grad && done < n; done += LANES)
        sums[0] += get(type, slope, done, n) * (get(type, weight, done, n) + offset) * get(type, x, done, n);
    float common = -added_up(sums) * inverse * inverse * inverse / n;
    for (int64_t i = 0; i < n; i += LANES) {
        vf given = get(type, slope, i, n), wide = get(type, x, i, n);
        if (grad) put_until(type, grad, i, n, given * (get(type, weight, i, n) + offset) * inverse + wide * common);
        if (grad_weight) put_until(FLOAT32, grad_weight, i, n, get(FLOAT32, grad_weight, i, n) + given * wide * inverse);
    }
}

INLINE void norm_back(const int type, int64_t rows, int64_t n, int64_t block, const char *x, const char *weight, float offset,
                      const float *inverses, const char *slope, char *grad, float *parts, int threads) {
    int64_t blocks = (rows + block - 1) / block;
#pragma omp parallel for num_threads(threads) if (rows * n > SMALL)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t row = b * block; row < rows && row < (b + 1) * block; row++)
            norm_back_row(type, n, row_at(type, x, row, n), weight, offset, inverses[row], row_at(type, slope, row, n),
                          grad ? row_at(type, grad, row, n) : 0, parts ? parts + b * n : 0);
    for (int64_t b = 1; b < blocks && parts; b++)
        for (int64_t i = 0; i < n; i++) parts[i] += parts[b * n + i];
}

/* grad, of x, where it is asked for; and that of the weight in the first n of `parts`: zeros, n for each block of rows. */
void burnish_norm_back(int type, int64_t rows, int64_t n, int64_t block, const void *x, const void *weight, float offset,
                       const float *inverses, const void *slope, void *grad, float *parts, int threads) {
    if (type == FLOAT32)
        norm_back(FLOAT32, rows, n, block, x, weight, offset, inverses, slope, grad, parts, threads);
    else norm_back(BFLOAT16, rows, n, block, x, weight, offset, inverses, slope, grad, parts, threads);
}

/* -- the gate of an MLP -- */

/* An activation's value, and its derivative. */
INLINE vf acted(const int kind, vf x, vf *slope) {
    vf one = all(1.0f), half = all(0.5f);
    if (kind == SILU) {
        vf share = one / (one + exponential(-x));
        *slope = share * (one + x * (one - share));
        return x * share;
    }
    if (kind == GELU) { /* the error function by Abramowitz and Stegun, 7.1.26: off by less than 1.5e-7 */
        vf bell = exponential(x * x * -0.5f), far = chosen(x < 0.0f, -x, x) * 0.70710678f, t = one / (one + far * 0.3275911f);
        vf tail = ((((t * 1.061405429f - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
        tail = tail * bell * half;
        vf share = chosen(x < 0.0f, tail, one - tail);
        *slope = share + x * bell * 0.39894228f;
        return x * share;
    }
    if (kind == GELU_TANH) {
        vf square = x * x, away = exponential(x * (one + square * 0.044715f) * -1.59576912f);
        vf share = one / (one + away); /* (1 + tanh u) / 2 */
        *slope = share + x * share * (share * away) * (one + square * 0.134145f) * 1.59576912f;
        return x * share;
    }
    *slope = chosen(x > 0.0f, one, all(0.0f));
    return chosen(x > 0.0f, x, all(0.0f));
}

INLINE void gate(const int type, const int kind, int64_t count, const char *gated, const char *raised, char *out, int threads) {
#pragma omp parallel for num_threads(threads) if (count > SMALL)
    for (int64_t part = 0; part < count; part += PART) {
        int64_t end = part + PART < count ? part + PART : count;
        for (int64_t i = part; i < end; i += LANES) {
            vf slope, value = acted(kind, get(type, gated, i, end), &slope);
            put_until(type, out, i, end, value * get(type, raised, i, end));
        }
    }
}

INLINE void gate_back(const int type, const int kind, int64_t count, const char *gated, const char *raised, char *slope,
                      char *grad_gated, char *product, int threads) {
#pragma omp parallel for num_threads(threads) if (count > SMALL)
    for (int64_t part = 0; part < count; part += PART) {
        int64_t end = part + PART < count ? part + PART : count;
        for (int64_t i = part; i < end; i += LANES) {
            vf bent, value = acted(kind, get(type, gated, i, end), &bent), up = get(type, raised, i, end);
            vf given = get(type, slope, i, end);
            put_until(type, slope, i, end, given * value);
            put_until(type, grad_gated, i, end, given * up * bent);
            if (product) put_until(type, product, i, end, value * up);
        }
    }
}

#define EACH_KIND(call, type, ...) \
    switch (kind) { \
    case SILU: call(type, SILU, __VA_ARGS__); break; \
    case GELU: call(type, GELU, __VA_ARGS__); break; \
    case GELU_TANH: call(type, GELU_TANH, __VA_ARGS__); break; \
    default: call(type, RELU, __VA_ARGS__); \
    }

/* out = activation(gated) · raised */
void burnish_gate(int type, int kind, int64_t count, const void *gated, const void *raised, void *out, int threads) {
    if (type == FLOAT32) { EACH_KIND(gate, FLOAT32, count, gated, raised, out, threads) }
    else { EACH_KIND(gate, BFLOAT16, count, gated, raised, out, threads) }
}

/* From d loss / d out in `slope`: d loss / d raised, written over it, and d loss / d gated; and out again where it is asked
 * for. */
void burnish_gate_back(int type, int kind, int64_t count, const void *gated, const void *raised, void *slope, void *grad_gated,
                       void *product, int threads) {
    if (type == FLOAT32) { EACH_KIND(gate_back, FLOAT32, count, gated, raised, slope, grad_gated, product, threads) }
    else { EACH_KIND(gate_back, BFLOAT16, count, gated, raised, slope, grad_gated, product, threads) }
}

/* -- the softmax of the head -- */

typedef struct {
    void *logits; /* [rows, size] */
    int64_t rows, size;
    const int64_t *targets;
    const float *factors; /* of each row's loss, on the way back */
    float smoothing;
    int back; /* whether to write the gradient over the logits */
    float *logprobs, *losses;
    uint8_t *hits; /* whether the target is the first of the largest; may be null */
} cross_entropy;

/* Sums of a row: in parts, so that no small number is added to a sum of very many. */
INLINE float summed(const int type, const int keep, void *row, int64_t n, float most) {
    vf sum = {0};
    for (int64_t part = 0; part < n; part += PART) {
        int64_t end = part + PART < n ? part + PART : n, i = part;
        vf sums[SUMS] = {{0}};
        for (; i + SUMS * LANES <= end; i += SUMS * LANES)
            for (int s = 0; s < SUMS; s++) {
                vf one = exponential(load_weights(type, row, i + s * LANES) - most);
                if (keep) store((float *)row + i + s * LANES, one);
                sums[s] += one;
            }
        for (; i + LANES <= end; i += LANES) {
            vf one = exponential(load_weights(type, row, i) - most);
            if (keep) store((float *)row + i, one);
            sums[0] += one;
        }
        sum += (sums[0] + sums[1]) + (sums[2] + sums[3]);
        for (; i < end; i++) {
            float one = expf(weight_at(type, row, i) - most);
            if (keep) ((float *)row)[i] = one;
            sum[0] += one;
        }
    }
    return total(sum);
}

INLINE float largest(const int type, const void *row, int64_t n, float *mean) {
    vf most = all(weight_at(type, row, 0)), sum = {0};
    float found = weight_at(type, row, 0), rest = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf one = load_weights(type, row, i);
        most = chosen(one > most, one, most);
        if (mean) sum += one;
    }
    for (; i < n; i++) {
        float one = weight_at(type, row, i);
        found = one > found ? one : found;
        rest += one;
    }
    for (int l = 0; l < LANES; l++) found = most[l] > found ? most[l] : found;
    if (mean) *mean = (total(sum) + rest) / n;
    return found;
}

/* Loss (1 - e) (log sum exp z - z of the target) + e (log sum exp z - mean z), and its gradient softmax - (1 - e) one-hot -
 * e / V times the row's factor. */
INLINE void cross_entropy_row(const int type, const cross_entropy *job, int64_t row) {
    char *z = row_at(type, job->logits, row, job->size);
    int64_t n = job->size, target = job->targets[row];
    float e = job->smoothing, factor = job->factors[row], wanted = weight_at(type, z, target), mean = 0;
    float most = largest(type, z, n, e ? &mean : 0);
    if (job->hits) {
        int hit = wanted == most;
        for (int64_t i = 0; hit && i < target; i++) hit = weight_at(type, z, i) != most;
        job->hits[row] = (uint8_t)hit;
    }
    const int keep = type == FLOAT32 && job->back; /* the exponentials stay where the logits were, or are made again */
    float sum = summed(type, keep, z, n, most), logsum = logf(sum), logprob = (wanted - most) - logsum;
    job->logprobs[row] = logprob;
    job->losses[row] = e ? (1 - e) * -logprob + e * ((most + logsum) - mean) : -logprob;
    if (!job->back) return;
    float scale = factor / sum, less = factor * e / n;
    for (int64_t i = 0; i < n; i += LANES) {
        vf share = get(type, z, i, n);
        if (!keep) share = exponential(share - most);
        put_until(type, z, i, n, share * scale - less);
    }
    put_one(type, z, target, expf(wanted - most) * scale - less - factor * (1 - e));
}

void burnish_cross_entropy(int type, const cross_entropy *job, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (job->rows * job->size > SMALL)
    for (int64_t row = 0; row < job->rows; row++) {
        if (type == FLOAT32) cross_entropy_row(FLOAT32, job, row);
        else cross_entropy_row(BFLOAT16, job, row);
    }
}

int burnish_cross_entropy_size(void) { return sizeof(cross_entropy); }
