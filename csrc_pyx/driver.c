/* One pool of workers for the process, shared by all callers.
 *
 * A call becomes a job on a list. Its caller takes chunks of it like any worker and returns once
 * every chunk is finished; it waits only for chunks that a worker has taken. A fork-join barrier
 * would wait for every thread, and a thread that the operating system has put aside costs
 * milliseconds (8 ms measured for a 0.1 ms call beside one busy process).
 *
 * Waking a sleeping worker costs about 50 us, so workers look for more work for SPIN_NANOSECONDS
 * before they sleep.
 *
 * fork: before it, no worker is inside a chunk (`paused` and `in_flight`); after it, the child has
 * no workers and starts its own when it needs them. A call that forks from a signal handler goes
 * on in both processes.
 *
 * A job outlives its call while a worker still looks at it: `references` counts both, and jobs are
 * kept for reuse, never freed. Nothing that a worker reads lies on the caller's stack: a thread
 * that asks for Python's lock while the interpreter ends never comes back, and its stack goes.
 */
#include "driver.h"
#include "float_mode.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define SPIN_NANOSECONDS 100000
#define CHECK_INTERVAL_NANOSECONDS 50000000

typedef struct Job {
  Kernel kernel;
  Context context;
  int64_t n_items;
  int64_t chunk;
  _Atomic int64_t next;      /* first item that nobody has taken */
  _Atomic int64_t completed; /* items finished or given up */
  _Atomic int64_t n_scratch; /* threads that have scratch memory */
  _Atomic int caller_sleeps;
  /* the rest only under `lock` */
  int helpers_wanted;
  int references;
  struct Job *following;
} Job;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work_posted = PTHREAD_COND_INITIALIZER;
static pthread_cond_t work_finished = PTHREAD_COND_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static Job *jobs;         /* that want helpers */
static Job *spare_jobs;
static int n_workers;
static int n_sleeping;
static _Atomic unsigned posted;  /* changes with every job, for workers that spin */
static _Atomic int paused;       /* how many threads are about to fork */
static _Atomic int in_flight;    /* workers inside a chunk */

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

/* ---- fork ------------------------------------------------------------------------------------- */

static void before_fork(void) {
  atomic_fetch_add(&paused, 1);
  while (atomic_load(&in_flight) != 0) {
    const struct timespec moment = {0, 20000};
    nanosleep(&moment, NULL);
  }
  pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void) {
  atomic_fetch_sub(&paused, 1);
  pthread_cond_broadcast(&work_posted);
  pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void) {
  lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
  work_posted = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
  work_finished = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
  jobs = NULL;
  n_workers = 0;
  n_sleeping = 0;
  atomic_store(&in_flight, 0);
  atomic_store(&paused, 0);
}

static void prepare_for_fork(void) {
  pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- chunks ----------------------------------------------------------------------------------- */

/* `fastxent bench gate` counts the instructions between entering and leaving it, by its name; it
 * calls `driver_run` by that of its own. */
#define NAMED __attribute__((noinline, visibility("default")))

NAMED void driver_work(Kernel kernel, const Context *context, int64_t start, int64_t stop) {
  kernel(context, start, stop);
}

/* The context with scratch memory that is the calling thread's alone. */
static Context own_context(Job *job) {
  Context own = job->context;
  if (own.scratch) own.scratch += atomic_fetch_add(&job->n_scratch, 1) * own.scratch_stride;
  return own;
}

/* Works on one chunk; 0 where none was left. */
static int run_chunk(Job *job, const Context *own) {
  const int64_t start = atomic_fetch_add(&job->next, job->chunk);
  if (start >= job->n_items) return 0;
  const int64_t left = job->n_items - start;
  const int64_t n = left < job->chunk ? left : job->chunk;
  driver_work(job->kernel, own, start, start + n);
  if (atomic_fetch_add(&job->completed, n) + n == job->n_items &&
      atomic_load(&job->caller_sleeps)) {
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&work_finished);
    pthread_mutex_unlock(&lock);
  }
  return 1;
}

/* Takes all that is left of the job, without working on it. */
static void give_up(Job *job) {
  const int64_t start = atomic_exchange(&job->next, job->n_items);
  if (start < job->n_items) atomic_fetch_add(&job->completed, job->n_items - start);
}

/* ---- workers ---------------------------------------------------------------------------------- */

static void release(Job *job) {
  if (--job->references == 0) {
    job->following = spare_jobs;
    spare_jobs = job;
  }
}

static Job *find_job(void) {
  for (Job *job = jobs; job; job = job->following)
    if (job->helpers_wanted > 0 && atomic_load(&job->next) < job->n_items) return job;
  return NULL;
}

static void help(Job *job) {
  const Context own = own_context(job);
  int more = 1;
  while (more) {
    atomic_fetch_add(&in_flight, 1);
    if (!atomic_load(&paused)) {
      more = run_chunk(job, &own);
      atomic_fetch_sub(&in_flight, 1);
    } else {
      atomic_fetch_sub(&in_flight, 1);
      const struct timespec moment = {0, 100000};
      nanosleep(&moment, NULL);
    }
  }
}

static void *worker(void *unused) {
  (void)unused;
  int64_t spin_until = 0;
  enter_float_mode(); /* it has been given that of the thread that started it */
  pthread_mutex_lock(&lock);
  for (;;) {
    Job *job = find_job();
    if (job) {
      job->helpers_wanted--;
      job->references++;
      pthread_mutex_unlock(&lock);
      help(job);
      spin_until = now() + SPIN_NANOSECONDS;
      pthread_mutex_lock(&lock);
      release(job);
    } else if (now() < spin_until) {
      const unsigned seen = atomic_load(&posted);
      pthread_mutex_unlock(&lock);
      while (atomic_load(&posted) == seen && now() < spin_until)
        for (int k = 0; k < 16; k++) relax();
      pthread_mutex_lock(&lock);
    } else {
      n_sleeping++;
      pthread_cond_wait(&work_posted, &lock);
      n_sleeping--;
    }
  }
  return NULL;
}

/* Under `lock`. Where no thread can be had, the call goes on with those there are. */
static void start_workers(int wanted) {
  sigset_t all, before;
  pthread_attr_t detached;
  if (n_workers >= wanted || pthread_attr_init(&detached) != 0) return;
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (n_workers < wanted) {
    pthread_t thread;
    if (pthread_create(&thread, &detached, worker, NULL) != 0) break;
    n_workers++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&detached);
}

/* ---- calls ------------------------------------------------------------------------------------ */

/* Chunks of the job in the caller's thread until none is left. */
static int take_part(Job *job, InterruptCheck check) {
  const Context own = own_context(job);
  int64_t next_check = now() + CHECK_INTERVAL_NANOSECONDS;
  while (run_chunk(job, &own)) {
    if (check && now() >= next_check) {
      const int answer = check();
      if (answer != 0) {
        give_up(job);
        return answer;
      }
      next_check = now() + CHECK_INTERVAL_NANOSECONDS;
    }
  }
  return 0;
}

/* Until the chunks that workers have taken are finished. */
static void wait_for_helpers(Job *job) {
  const int64_t spin_until = now() + SPIN_NANOSECONDS;
  while (atomic_load(&job->completed) < job->n_items && now() < spin_until)
    for (int k = 0; k < 16; k++) relax();
  if (atomic_load(&job->completed) == job->n_items) return;
  pthread_mutex_lock(&lock);
  atomic_store(&job->caller_sleeps, 1);
  while (atomic_load(&job->completed) < job->n_items) pthread_cond_wait(&work_finished, &lock);
  pthread_mutex_unlock(&lock);
}

static Job *post(const Job *wanted) {
  pthread_mutex_lock(&lock);
  Job *job = spare_jobs;
  if (job)
    spare_jobs = job->following;
  else
    job = malloc(sizeof *job);
  if (job) {
    *job = *wanted;
    job->following = jobs;
    jobs = job;
    start_workers(job->helpers_wanted);
    atomic_fetch_add(&posted, 1);
    for (int k = 0; k < job->helpers_wanted && k < n_sleeping; k++)
      pthread_cond_signal(&work_posted);
  }
  pthread_mutex_unlock(&lock);
  return job;
}

static void retire(Job *job) {
  pthread_mutex_lock(&lock);
  Job **link = &jobs;
  while (*link && *link != job) link = &(*link)->following;
  if (*link) *link = job->following;
  release(job);
  pthread_mutex_unlock(&lock);
}

NAMED int driver_run(Kernel kernel, const Context *context, int64_t n_items, int64_t chunk,
                     int n_threads, InterruptCheck check) {
  const int64_t n_chunks = n_items / chunk + (n_items % chunk != 0);
  const int64_t helpers = n_threads - 1 < n_chunks - 1 ? n_threads - 1 : n_chunks - 1;
  Job mine = {.kernel = kernel, .context = *context, .n_items = n_items, .chunk = chunk,
              .helpers_wanted = (int)helpers, .references = 1};
  Job *job = NULL;
  if (helpers > 0) {
    pthread_once(&once, prepare_for_fork);
    job = post(&mine);
  }
  if (!job) return take_part(&mine, check);
  const int answer = take_part(job, check);
  wait_for_helpers(job);
  retire(job);
  return answer;
}

int driver_worker_count(void) {
  pthread_mutex_lock(&lock);
  const int count = n_workers;
  pthread_mutex_unlock(&lock);
  return count;
}
