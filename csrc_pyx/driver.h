/* The thread driver: hands out the items of one call in chunks, to the caller and to workers. */
#ifndef FASTXENT_DRIVER_H
#define FASTXENT_DRIVER_H

#include <stdint.h>

#include "context.h"

/* Works on items start..stop; runs on several threads at once. */
typedef void (*Kernel)(const Context *context, int64_t start, int64_t stop);

/* Works on items start..stop in the calling thread. Every kernel is entered through it. */
void driver_work(Kernel kernel, const Context *context, int64_t start, int64_t stop);

/* Asked by the caller's thread every CHECK_INTERVAL; anything but 0 ends the call early. */
typedef int (*InterruptCheck)(void);

/* Runs kernel over items 0..n_items in chunks, on at most n_threads threads, the caller's among
 * them. Returns 0 once every item is done, or what `check` said when it ended the call early: then
 * no item is being worked on any more, but some were left out. `check` may be NULL. If it never
 * returns, workers may go on with the items: what the context points to must then stay. */
int driver_run(Kernel kernel, const Context *context, int64_t n_items, int64_t chunk, int n_threads,
               InterruptCheck check);

/* How many workers this process has started. */
int driver_worker_count(void);

#endif
