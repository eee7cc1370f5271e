/* A pool of threads. They start with the first call that wants them and wait for the next: awake for as long as the
 * gap between two layers lasts, then asleep, so that they do not take cores from PyTorch's own threads. Tasks are
 * claimed from a counter. One call at a time has the pool; another that comes meanwhile works alone. A forked child
 * starts with a pool of its own.
 */
#define _POSIX_C_SOURCE 200809L
#include "contract.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#define AWAKE_NANOSECONDS 20000

typedef struct {
    Run *run;
    void *context;
    size_t tasks;
    int threads;
} Job;

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; /* held by the call that has the pool */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t posted, finished;
    Job job;
    atomic_size_t next;        /* task */
    atomic_uint generation;    /* of the job */
    atomic_int working;        /* threads that have not finished it */
    int started;               /* threads; their workers are 1 to `started` */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .posted = PTHREAD_COND_INITIALIZER, .finished = PTHREAD_COND_INITIALIZER};

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

static void work(const Job *job, int worker) {
    for (size_t task; (task = atomic_fetch_add(&pool.next, 1)) < job->tasks;)
        job->run(job->context, task, worker);
}

/* Wait for another job than the one of generation `seen`; returns its generation. */
static unsigned wait_for_job(unsigned seen) {
    for (int64_t until = nanoseconds() + AWAKE_NANOSECONDS; nanoseconds() < until;)
        for (int i = 0; i < 32; i++, pause_a_little())
            if (atomic_load(&pool.generation) != seen)
                return atomic_load(&pool.generation);
    pthread_mutex_lock(&pool.lock);
    while (atomic_load(&pool.generation) == seen)
        pthread_cond_wait(&pool.posted, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    return atomic_load(&pool.generation);
}

/* A job stays what it is until all its threads are done with it; those it does not want leave it alone: the next may
 * be posted while they look, so they copy it under the lock. */
static void *serve(void *argument) {
    int worker = (int)(intptr_t)argument;
    unsigned seen = 0;
    for (;;) {
        wait_for_job(seen);
        pthread_mutex_lock(&pool.lock);
        seen = atomic_load(&pool.generation);
        Job job = pool.job;
        pthread_mutex_unlock(&pool.lock);
        if (worker >= job.threads)
            continue;
        work(&job, worker);
        if (atomic_fetch_sub(&pool.working, 1) == 1) {
            pthread_mutex_lock(&pool.lock);
            pthread_cond_signal(&pool.finished);
            pthread_mutex_unlock(&pool.lock);
        }
    }
    return NULL;
}

/* At least `threads` threads, the caller's among them, or as many as the system gives. Called with `busy`. */
static int start(int threads) {
    while (pool.started + 1 < threads) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)(pool.started + 1)))
            break;
        pthread_detach(thread);
        pool.started++;
    }
    return pool.started + 1 < threads ? pool.started + 1 : threads;
}

static void post(Job job) {
    pthread_mutex_lock(&pool.lock);
    pool.job = job;
    atomic_store(&pool.next, 0);
    atomic_store(&pool.working, job.threads - 1);
    atomic_fetch_add(&pool.generation, 1);
    pthread_cond_broadcast(&pool.posted);
    pthread_mutex_unlock(&pool.lock);
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
    pthread_cond_init(&pool.posted, NULL);
    pthread_cond_init(&pool.finished, NULL);
    atomic_store(&pool.generation, 0);
    pool.started = 0;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget); }

void pool_run(int threads, size_t tasks, Run *run, void *context) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    if (threads > 1 && tasks > 1 && pthread_mutex_trylock(&busy) == 0) {
        Job job = {run, context, tasks, start((size_t)threads < tasks ? threads : (int)tasks)};
        post(job);
        work(&job, 0);
        wait_until_finished();
        pthread_mutex_unlock(&busy);
        return;
    }
    for (size_t task = 0; task < tasks; task++)
        run(context, task, 0);
}
