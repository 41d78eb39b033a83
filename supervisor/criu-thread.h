// SPDX-License-Identifier: Apache-2.0
//
// The undo log of criu-undo.c, which criu-mend.c acts upon.
#pragma once

#include "criu-belongings.h"
#include "criu-raw.h"
#include <elf.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif
#if defined(__x86_64__)
#define NT_VECTORS NT_X86_XSTATE
#else
#define NT_VECTORS NT_PRFPREG
#endif

enum {
	MOST_POKES = 16, // criu exchanges four words
	VECTORS = 4096, // AVX-512 needs 2696 bytes; with more (AMX) they are not kept
	SYSTEM_CALL = SIGTRAP | 0x80, // how a stop at the entry or the end of one is told
};

struct word {
	unsigned long address, before, now;
};

struct process {
	pid_t pid;
	int left; // criu has let a thread of it go, after having removed what it had put there
	const struct belongings *belongings;
	int n_pokes;
	struct word pokes[MOST_POKES]; // the first is where criu puts what it executes
};

struct thread {
	pid_t tid;
	int seized;
	int status; // of the stop it is in; 0: it runs
	int ran; // when undoing began
	int changed; // what follows was saved, and may be otherwise now
	int lent; // its registers are for criu's code
	unsigned long lent_at; // which begins there
	int calls; // stops that it still comes to until the system call which criu has it make is over
	int told; // whether `info` is what criu is to believe of the stop
	siginfo_t info;
	int breakpoint; // one is in the debug registers
	int owed; // a signal that it was about to receive
	struct process *process;
	struct word rseq; // the restartable sequence that it is in; address 0: none
	struct user_regs_struct registers;
	size_t registers_size; // smaller for a 32-bit program
	size_t vectors_size;
	uint64_t mask, criu_mask; // before, and what criu has set since
	char vectors[VECTORS];
};

extern struct thread *undo_threads; // in order of their seizure
extern struct process *undo_processes; // in order of their first change
extern int undo_n_threads, undo_n_processes;

// Reads or writes a set of a thread's registers.
static inline long registers(long request, const struct thread *t, long type, const void *bytes, size_t *size)
{
	struct iovec io = { (void *)bytes, *size };
	long result = trace(request, t->tid, (void *)type, &io);

	*size = io.iov_len;
	return result;
}

// Whether something of criu's is in the program of a process.
int undo_is_poked(const struct process *p);

// Saves what a thread, and its process, is before it is changed.
void undo_save(struct thread *t);

// Changes registers that were saved in a nanosleep so that it goes on.
void undo_sleep_on(const struct thread *t, struct user_regs_struct *r);

// Takes note that a thread is seized, runs, or is seized no more.
void undo_seize(struct thread *t);
void undo_let_run(struct thread *t);
void undo_lose(struct thread *t);
