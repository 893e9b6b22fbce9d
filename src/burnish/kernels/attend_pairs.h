/* Attention in bfloat16 on machines that multiply pairs of such numbers (AVX512-BF16): part of `attend.c`.
 *
 * Both factors of each product lie in pairs along what is summed over, a pair in the place of a float. Weights and slopes are
 * rounded to bfloat16 before they are factors, as PyTorch's attention in bfloat16 does. */

PRODUCT(pairs_new, 1, 0)
PRODUCT(pairs_onto, 1, 1)

/* [16, 16] words, rows become columns: four times a perfect shuffle of the two halves. */
INLINE void turn_sixteen(__m512i *rows) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    for (int round = 0; round < 4; round++) {
        __m512i next[16];
        for (int i = 0; i < 8; i++) {
            next[2 * i] = _mm512_permutex2var_epi32(rows[i], low, rows[i + 8]);
            next[2 * i + 1] = _mm512_permutex2var_epi32(rows[i], high, rows[i + 8]);
        }
        for (int i = 0; i < 16; i++) rows[i] = next[i];
    }
}

/* Rows of keys or values, `step` numbers apart, as columns of pairs: [size / 2, BLOCK_K], zeros up to a whole vector. */
static void pairs_as_columns(const uint16_t *from, int64_t step, int count, int size, float *to) {
    for (int t = 0; t < count; t += 16)
        for (int d = 0; d < size / 2; d += 16) {
            int words = size / 2 - d < 16 ? size / 2 - d : 16;
            __m512i rows[16];
            for (int i = 0; i < 16; i++)
                rows[i] = t + i < count ? _mm512_maskz_loadu_epi32((__mmask16)((1u << words) - 1), from + (t + i) * step + 2 * d)
                                        : _mm512_setzero_si512();
            turn_sixteen(rows);
            for (int i = 0; i < words; i++) _mm512_storeu_si512(to + (d + i) * BLOCK_K + t, rows[i]);
        }
}

/* Two vectors of float32 as pairs: of each place, one below and the other above. */
INLINE void store_pairs(float *to, vf one, vf other) {
    __m512i lower = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)one));
    __m512i upper = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)other));
    _mm512_storeu_si512(to, _mm512_or_si512(lower, _mm512_slli_epi32(upper, 16)));
}

/* Rows, `step` numbers apart, as pairs of neighbours: [count / 2 rounded up, size]; the last row's neighbour may be zeros. */
static void pairs_of_rows(const uint16_t *from, int64_t step, int64_t count, int size, float *to) {
    for (int64_t t = 0; t < count; t += 2, to += size)
        for (int d = 0; d < size; d += 16) {
            const uint16_t *row = from + t * step + d;
            __m512i lower = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)row)), upper = _mm512_setzero_si512();
            if (t + 1 < count) upper = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(row + step)));
            _mm512_storeu_si512(to + d, _mm512_or_si512(lower, _mm512_slli_epi32(upper, 16)));
        }
}

/* float32 numbers as pairs of neighbours within a row; `count` a multiple of 16. */
INLINE void pairs_in_row(const float *from, int count, float *to) {
    for (int t = 0; t < count; t += 16) narrow((uint16_t *)to + t, load(from + t));
}

static void forward_of_pairs(const attention *job, const document *doc, int64_t head, float *scratch) {
    int size = (int)job->size, blocks = 0;
    int64_t shared = head / (job->heads / job->shared), whole = (doc->length + doc->prompt + 2 * BLOCK_K) * size / 2;
    float *scores = scratch, *mixed = scores + BLOCK_Q * BLOCK_K, *columns = mixed + BLOCK_Q * size;
    float *values = columns + whole, *weights = values + whole, most[BLOCK_Q], sum[BLOCK_Q];
    for (keys block; (block = key_block(doc, blocks)).count; blocks++) {
        int64_t place = (int64_t)blocks * BLOCK_K * size / 2;
        const uint16_t *key = (const uint16_t *)row_of(job, &job->key, shared, block.token);
        const uint16_t *value = (const uint16_t *)row_of(job, &job->value, shared, block.token);
        pairs_as_columns(key, job->key.token, block.count, size, columns + place);
        pairs_of_rows(value, job->value.token, block.count, size, values + place);
    }
    for (int64_t q = 0; q < doc->length; q += BLOCK_Q) {
        int rows = doc->length - q < BLOCK_Q ? (int)(doc->length - q) : BLOCK_Q;
        const float *queries = (const float *)row_of(job, &job->query, head, doc->start + q);
        for (int r = 0; r < rows; r++) most[r] = NEVER, sum[r] = 0;
        memset(mixed, 0, rows * size * sizeof(float));
        for (int b = 0; b < blocks; b++) {
            keys block = key_block(doc, b);
            int count = seen_by_any(job, &block, doc->prompt + q, rows);
            if (!count) continue;
            int64_t place = (int64_t)b * BLOCK_K * size / 2;
            pairs_new(rows, up(count), size / 2, queries, job->query.token / 2, 1, columns + place, BLOCK_K, scores, BLOCK_K);
            for (int r = 0; r < rows; r++) {
                int first, last = seen(job, &block, doc->prompt + q + r, &first);
                float *line = scores + r * BLOCK_K, before = most[r];
                if (first >= last) memset(line, 0, up(count) * sizeof(float));
                else {
                    float found = weigh(line, job->scale, first, last, count, most + r), kept = 1;
                    if (most[r] > before) {
                        kept = sum[r] > 0 ? expf(before - most[r]) : 0;
                        scaled(mixed + r * size, mixed + r * size, size, kept);
                    }
                    sum[r] = sum[r] * kept + found;
                }
                pairs_in_row(line, up(count), weights + r * (BLOCK_K / 2));
            }
            pairs_onto(rows, size, (count + 1) / 2, weights, BLOCK_K / 2, 1, values + place, size, mixed, size);
        }
        for (int r = 0; r < rows; r++) {
            scaled_out(BFLOAT16, row_of(job, &job->out, head, doc->start + q + r), mixed + r * size, size, 1 / sum[r]);
            job->sums[head * job->tokens + doc->start + q + r] = most[r] + logf(sum[r]);
        }
    }
}

/* Adds to the head's gradients of keys and values. */
static void backward_of_pairs(const attention *job, const document *doc, int64_t head, float *scratch) {
    int size = (int)job->size, half = BLOCK_K * size / 2;
    int64_t shared = head / (job->heads / job->shared), length = doc->length;
    float *weights = scratch, *slope = weights + BLOCK_Q * BLOCK_K, *weight_pairs = slope + BLOCK_Q * BLOCK_K;
    float *slope_pairs = weight_pairs + BLOCK_Q * BLOCK_K / 2, *slope_rows = slope_pairs + BLOCK_Q * BLOCK_K / 2;
    float *key_columns = slope_rows + BLOCK_Q * BLOCK_K / 2, *value_columns = key_columns + half;
    float *key_pairs = value_columns + half, *query_pairs = key_pairs + half, *back_pairs = query_pairs + (length + 1) / 2 * size;
    float *grad_queries = back_pairs + (length + 1) / 2 * size, *means = grad_queries + length * size;
    const uint16_t *asked = (const uint16_t *)row_of(job, &job->query, head, doc->start);
    const uint16_t *back = (const uint16_t *)row_of(job, &job->grad, head, doc->start);
    pairs_of_rows(asked, job->query.token, length, size, query_pairs);
    pairs_of_rows(back, job->grad.token, length, size, back_pairs);
    memset(grad_queries, 0, length * size * sizeof(float));
    for (int64_t q = 0; q < length; q++) {
        const char *out = row_of(job, &job->out, head, doc->start + q), *grad = (const char *)(back + q * job->grad.token);
        vf sum = {0};
        for (int d = 0; d < size; d += LANES) sum += load_weights(BFLOAT16, out, d) * load_weights(BFLOAT16, grad, d);
        means[q] = total(sum);
    }
    keys block;
    for (int b = 0; (block = key_block(doc, b)).count; b++) {
        const uint16_t *key = (const uint16_t *)row_of(job, &job->key, shared, block.token);
        const uint16_t *value = (const uint16_t *)row_of(job, &job->value, shared, block.token);
        pairs_as_columns(key, job->key.token, block.count, size, key_columns);
        pairs_as_columns(value, job->value.token, block.count, size, value_columns);
        pairs_of_rows(key, job->key.token, block.count, size, key_pairs);
        int64_t from = block.place > doc->prompt ? block.place - doc->prompt : 0; /* the first query that sees it, an even one */
        for (int64_t q = from; q < length; q += BLOCK_Q) {
            int rows = length - q < BLOCK_Q ? (int)(length - q) : BLOCK_Q;
            int count = seen_by_any(job, &block, doc->prompt + q, rows), wide = up(count);
            if (!count) break; /* later ones are farther away */
            const float *query = (const float *)(asked + q * job->query.token);
            const float *grad = (const float *)(back + q * job->grad.token);
            pairs_new(rows, wide, size / 2, query, job->query.token / 2, 1, key_columns, BLOCK_K, weights, BLOCK_K);
            pairs_new(rows, wide, size / 2, grad, job->grad.token / 2, 1, value_columns, BLOCK_K, slope, BLOCK_K);
            for (int r = 0; r < rows; r++) {
                int first, last = seen(job, &block, doc->prompt + q + r, &first);
                if (last < first) last = first;
                float sum = job->sums[head * job->tokens + doc->start + q + r];
                slopes(weights + r * BLOCK_K, slope + r * BLOCK_K, job->scale, first, last, count, sum, means[q + r]);
                pairs_in_row(slope + r * BLOCK_K, wide, slope_rows + r * (BLOCK_K / 2));
            }
            for (int r = 0; r < rows; r += 2)
                for (int t = 0; t < wide; t += LANES) {
                    const float *one = weights + r * BLOCK_K + t, *other = slope + r * BLOCK_K + t;
                    int alone = r + 1 == rows;
                    store_pairs(weight_pairs + r / 2 * BLOCK_K + t, load(one), alone ? (vf){0} : load(one + BLOCK_K));
                    store_pairs(slope_pairs + r / 2 * BLOCK_K + t, load(other), alone ? (vf){0} : load(other + BLOCK_K));
                }
            int depth = (rows + 1) / 2;
            pairs_onto(count, size, depth, weight_pairs, 1, BLOCK_K, back_pairs + q / 2 * size, size,
                       sum_of(&job->each_value, head, block.token), job->each_value.token);
            pairs_onto(count, size, depth, slope_pairs, 1, BLOCK_K, query_pairs + q / 2 * size, size,
                       sum_of(&job->each_key, head, block.token), job->each_key.token);
            pairs_onto(rows, size, (count + 1) / 2, slope_rows, BLOCK_K / 2, 1, key_pairs, size, grad_queries + q * size, size);
        }
    }
    for (int64_t q = 0; q < length; q++)
        scaled_out(BFLOAT16, row_of(job, &job->grad_query, head, doc->start + q), grad_queries + q * size, size, 1);
}
