// SPDX-License-Identifier: Apache-2.0
//
// What criu does to the processes that it dumps is undone when criu is killed in the middle of it.
#pragma once

// Called in a worker before criu begins: from here on another process traces for it. Returns 0, or -1 with errno.
int tracer_begin(void);

// The same for the first process that criu forks.
void tracer_begin_at_fork(void);
