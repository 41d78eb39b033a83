// SPDX-License-Identifier: Apache-2.0
//
// What criu does to the threads of an application, noted before it is done, so that it can be undone.
#pragma once
#include <sys/types.h>

struct thread;

// To be called first, while libc may still be used. Returns 0, or -1 with errno.
int undo_begin(void);

struct thread *undo_find(pid_t tid);
struct thread *undo_find_or_make(pid_t tid); // NULL: there are too many

int undo_is_seized(const struct thread *t);

// Carries out a request to ptrace. Returns the kernel's answer.
long undo_trace(struct thread *t, long request, void *address, void *data);

// Takes note of what wait has said about a thread, and makes of it what criu expects. Returns whether criu is to be told.
int undo_waited(pid_t tid, int *status);

// Number of seized threads.
int undo_seized(void);

// Makes everything as it was. What is seized goes on when its tracer ends.
void undo_all(void);

// The same after the end of another tracer: what it had stopped has gone on since.
void undo_after(void);

// Ends what is seized.
void undo_kill(void);
