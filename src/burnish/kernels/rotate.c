/* Rotary position embeddings (Su et al., RoFormer, arXiv:2104.09864, eq. 34) of queries and keys, forward and back, where a number
 * and that half a head further on are turned together. Tensors are float32 or bfloat16; what is computed with is float32. */
#include "vectors.h"
#include <omp.h>

typedef struct {
    const char *from;
    char *to;
    int64_t heads, from_head, from_token, to_head, to_token; /* steps in numbers */
} turned;

typedef struct {
    turned each[2]; /* queries and keys */
    const char *cosines, *sines; /* [T, size] */
    int64_t tokens, size;
} rotation;

/* Back is the same with the angles the other way round; each half has angles of its own. */
INLINE void rotate(const int type, const int back, const rotation *job, int threads) {
    int64_t half = job->size / 2;
#pragma omp parallel for num_threads(threads) if (job->tokens > 16)
    for (int64_t t = 0; t < job->tokens; t++) {
        const char *c = job->cosines + bytes_of(type, t * job->size), *s = job->sines + bytes_of(type, t * job->size);
        for (int64_t i = 0; i < half; i += LANES) {
            vf one_c = load_weights(type, c, i), other_c = load_weights(type, c, half + i);
            vf one_s = load_weights(type, s, i), other_s = load_weights(type, s, half + i);
            for (int k = 0; k < 2; k++) {
                const turned *all_of = job->each + k;
                const char *from = all_of->from + bytes_of(type, t * all_of->from_token);
                char *to = all_of->to + bytes_of(type, t * all_of->to_token);
                for (int64_t h = 0; h < all_of->heads; h++) {
                    vf one = load_weights(type, from, i), other = load_weights(type, from, half + i);
                    put(type, to, i, back ? one * one_c + other * other_s : one * one_c - other * one_s);
                    put(type, to, half + i, back ? other * other_c - one * one_s : other * other_c + one * other_s);
                    from += bytes_of(type, all_of->from_head);
                    to += bytes_of(type, all_of->to_head);
                }
            }
        }
    }
}

void burnish_rotate(const rotation *job, int type, int back, int threads) {
    if (type == FLOAT32 && back) rotate(FLOAT32, 1, job, threads);
    else if (type == FLOAT32) rotate(FLOAT32, 0, job, threads);
    else if (back) rotate(BFLOAT16, 1, job, threads);
    else rotate(BFLOAT16, 0, job, threads);
}

int burnish_lanes(void) { return LANES; }
int burnish_rotation_size(void) { return sizeof(rotation); }
