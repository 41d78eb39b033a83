// SPDX-License-Identifier: Apache-2.0
//
// What criu would find out anew in every worker is found out once.
#pragma once
#include <stddef.h>
#include <sys/types.h>

// Called in the zygote, before it serves.
void warm_up(void);

// Called in a worker.
void warm_worker(void);

// Answers a question for the restartable sequence of criu's own child. Returns the size of the answer, 0 if it is not ours to
// give.
long warm_rseq(pid_t pid, void *answer, size_t size);
