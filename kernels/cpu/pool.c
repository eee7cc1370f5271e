/* Threads, which claim tasks from a counter. One call at a time has them; another that comes meanwhile works alone.
 *
 * They are PyTorch's, where that has OpenMP: its threads are awake for milliseconds after an operator of PyTorch, and
 * others would share the cores with them. Else, and in a forked child, where OpenMP does not work any more, they are a
 * pool of our own: they start with the first call that wants them and wait for the next, awake for as long as the gap
 * between two layers lasts, then asleep. A call wakes those it wants, and no others.
 */
#define _GNU_SOURCE /* RTLD_DEFAULT */
#include "contract.h"

#include <dlfcn.h>
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

/* GNU's interface to a team of OpenMP's, which LLVM's and Intel's have, too: run(data) on each of its threads. */
static struct {
    void (*run)(void (*run)(void *), void *data, unsigned threads, unsigned flags);
    int (*thread_number)(void);
} team;

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

/* One thread of the team; those that the job does not want go on waiting. */
static void take_part(void *nothing) {
    const int worker = team.thread_number();
    const uint64_t before = float_mode();
    (void)nothing;
    if (worker >= pool.job.threads)
        return;
    set_float_mode(pool.job.float_mode);
    work(worker);
    set_float_mode(before);
}

static void run_in_team(Job job) {
    pool.job = job;
    atomic_store(&pool.next, 0);
    team.run(take_part, NULL, 0, 0); /* 0: as many threads as PyTorch's operators have */
}

static void run_in_pool(Job job) {
    job.threads = start(job.threads);
    post(job);
    work(0);
    wait_until_finished();
}

static bool forked;

static void forget(void) {
    pthread_mutex_init(&busy, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.finished, NULL);
    pool.started = 0;
    forked = true;
}

/* When this is loaded: PyTorch may have a team, which the child has not, before a call of ours wants it. */
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, forget); }

static void find_team(void) {
    *(void **)&team.run = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    *(void **)&team.thread_number = dlsym(RTLD_DEFAULT, "omp_get_thread_num");
}

void pool_run(int threads, size_t tasks, Run *run, void *context) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_team);
    if (threads > 1 && tasks > 1 && pthread_mutex_trylock(&busy) == 0) {
        const Job job = {run, context, tasks, (size_t)threads < tasks ? threads : (int)tasks, float_mode()};
        !forked && team.run && team.thread_number ? run_in_team(job) : run_in_pool(job);
        pthread_mutex_unlock(&busy);
        return;
    }
    for (size_t task = 0; task < tasks; task++)
        run(context, task, 0);
}
