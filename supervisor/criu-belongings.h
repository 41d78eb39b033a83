// SPDX-License-Identifier: Apache-2.0
//
// What a process has that criu's code inside it adds to or changes.
#pragma once
#include <sys/types.h>

struct belongings;

// A system call that a process would have to make itself.
struct errand {
	long number, arguments[3];
};

// Makes room for what follows; to be called while libc may still be used. Returns 0, or -1 with errno.
int belongings_begin(void);

// Looks at a process that stands still. Returns NULL if that cannot be done completely.
const struct belongings *belongings_of(pid_t pid);

// Finds out what brings a process back to what it had; it has stood still, but for criu's code, all the time. Returns the
// number of errands, which are valid until the next call of any of these.
int belongings_errands(const struct belongings *before, pid_t pid, const struct errand **errands);
