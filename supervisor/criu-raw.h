// SPDX-License-Identifier: Apache-2.0
//
// Bare system calls: the result, or a negative errno. A process that shares its memory with another one shares errno and
// everything else of libc's with it, so it must not use them.
#pragma once

#include "bare-call.h"

#include <sys/types.h>
#include <time.h>

// In the kernel a peek stores the word, in libc it returns it.
static inline long trace(long request, pid_t tid, const void *address, const void *data)
{
	return call(__NR_ptrace, request, tid, (long)address, (long)data, 0);
}

static inline long wait_for(pid_t tid, int *status, int options, void *usage)
{
	return call(__NR_wait4, tid, (long)status, options, (long)usage, 0);
}

static inline void pause_for(long nanoseconds)
{
	struct timespec t = { 0, nanoseconds };

	call(__NR_nanosleep, (long)&t, 0, 0, 0, 0);
}
