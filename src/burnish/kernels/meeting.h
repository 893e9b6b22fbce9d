/* A barrier for threads that share their cores with other programs. OpenMP's spins for milliseconds, and with it each
 * meeting of a step would wait that long for a thread that has no core. */
#pragma once
#include <sched.h>
#include <stdint.h>

#define SPINS 1000 /* some ten microseconds */

/* Where threads wait for each other. Most waits are short; where one is not, somebody else needs the core. */
typedef struct { int32_t arrived, round; } meeting;

static void meet(meeting *here, int threads) {
    int round = __atomic_load_n(&here->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&here->arrived, 1, __ATOMIC_ACQ_REL) == threads) {
        __atomic_store_n(&here->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&here->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spins = 0; __atomic_load_n(&here->round, __ATOMIC_ACQUIRE) == round; spins++) {
        if (spins >= SPINS) sched_yield();
#if defined(__x86_64__)
        else __builtin_ia32_pause();
#endif
    }
}
