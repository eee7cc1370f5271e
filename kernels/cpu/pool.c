/* A pool of threads. They start with the first call that wants them and wait for the next: awake for as long as the
 * gap between two layers lasts, then asleep, so that they do not take cores from PyTorch's own threads. A call wakes
 * those it wants, and no others. Tasks are claimed from a counter. One call at a time has the pool; another that comes
 * meanwhile works alone. A forked child starts with a pool of its own.
 */
#define _POSIX_C_SOURCE 200809L
#include "contract.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#ifdef __x86_64__
#include <xmmintrin.h>
#endif

#define AWAKE_NANOSECONDS 20000

typedef struct {
    Run *run;
    void *context;
    size_t tasks;
    int threads;
    uint64_t float_mode; /* of the caller: rounding, and whether subnormal numbers count as zeros */
} Job;

/* A thread of the pool, by its number; 0 is the caller. */
typedef struct {
    _Alignas(64) atomic_uint jobs; /* that it was told of */
    pthread_cond_t told;
} Worker;

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; /* held by the call that has the pool */

static struct {
    pthread_mutex_t lock; /* of those who sleep, and who wake them */
    pthread_cond_t finished;
    Job job;              /* stays what it is until all threads that were told of it are done */
    atomic_size_t next;   /* task */
    atomic_int working;   /* threads that have not finished it */
    int started;          /* threads; their workers are 1 to `started` */
    Worker workers[THREADS_MAX];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .finished = PTHREAD_COND_INITIALIZER};

static void pause_a_little(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#else
    sched_yield();
#endif
}

static int64_t nanoseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static uint64_t float_mode(void) {
    uint64_t mode = 0;
#if defined(__x86_64__)
    mode = _mm_getcsr();
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
#endif
    return mode;
}

static void set_float_mode(uint64_t mode) {
#if defined(__x86_64__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"(mode));
#else
    (void)mode;
#endif
}

static void work(int worker) {
    const Job *job = &pool.job;
    for (size_t task; (task = atomic_fetch_add(&pool.next, 1)) < job->tasks;)
        job->run(job->context, task, worker);
}

/* Until the worker was told of another job than the first `seen`. */
static void wait_for_job(Worker *worker, unsigned seen) {
    for (int64_t until = nanoseconds() + AWAKE_NANOSECONDS; nanoseconds() < until;)
        for (int i = 0; i < 32; i++, pause_a_little())
            if (atomic_load(&worker->jobs) != seen)
                return;
    pthread_mutex_lock(&pool.lock);
    while (atomic_load(&worker->jobs) == seen)
        pthread_cond_wait(&worker->told, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

static void *serve(void *argument) {
    const int worker = (int)(intptr_t)argument;
    for (unsigned seen = 0;; seen++) {
        wait_for_job(&pool.workers[worker], seen);
        set_float_mode(pool.job.float_mode);
        work(worker);
        if (atomic_fetch_sub(&pool.working, 1) == 1) {
            pthread_mutex_lock(&pool.lock);
            pthread_cond_signal(&pool.finished);
            pthread_mutex_unlock(&pool.lock);
        }
    }
    return NULL;
}

/* How many of `threads` threads there are, the caller's among them, after those that lack were started: all, unless the
 * system gives no more. Called with `busy`. */
static int start(int threads) {
    while (pool.started + 1 < threads) {
        pthread_t thread;
        Worker *worker = &pool.workers[pool.started + 1];
        atomic_store(&worker->jobs, 0);
        pthread_cond_init(&worker->told, NULL);
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)(pool.started + 1)))
            break;
        pthread_detach(thread);
        pool.started++;
    }
    return pool.started + 1 < threads ? pool.started + 1 : threads;
}

static void post(Job job) {
    pool.job = job;
    atomic_store(&pool.next, 0);
    atomic_store(&pool.working, job.threads - 1);
    pthread_mutex_lock(&pool.lock);
    for (int worker = 1; worker < job.threads; worker++)
        atomic_fetch_add(&pool.workers[worker].jobs, 1);
    pthread_mutex_unlock(&pool.lock);
    for (int worker = 1; worker < job.threads; worker++)
        pthread_cond_signal(&pool.workers[worker].told);
}

static void wait_until_finished(void) {
    for (int64_t until = nanoseconds() + AWAKE_NANOSECONDS; nanoseconds() < until;)
        for (int i = 0; i < 32; i++, pause_a_little())
            if (atomic_load(&pool.working) == 0)
                return;
    pthread_mutex_lock(&pool.lock);
    while (atomic_load(&pool.working))
        pthread_cond_wait(&pool.finished, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

static void forget(void) {
    pthread_mutex_init(&busy, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.finished, NULL);
    pool.started = 0;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget); }

void pool_run(int threads, size_t tasks, Run *run, void *context) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    if (threads > 1 && tasks > 1 && pthread_mutex_trylock(&busy) == 0) {
        post((Job){run, context, tasks, start((size_t)threads < tasks ? threads : (int)tasks), float_mode()});
        work(0);
        wait_until_finished();
        pthread_mutex_unlock(&busy);
        return;
    }
    for (size_t task = 0; task < tasks; task++)
        run(context, task, 0);
}
