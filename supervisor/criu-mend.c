// SPDX-License-Identifier: Apache-2.0
//
// Undoing what the log of criu-undo.c says: every thread that was changed is brought to rest, wherever it may be by then, the
// processes drop what they did not have before (criu-belongings.c), and the rest is put back.
//
// No libc, see criu-raw.h.

#define _GNU_SOURCE
#include "criu-thread.h"
#include "criu-undo.h"

enum {
	PATIENCE = 30000, // milliseconds until a thread has stopped
};

// --- bringing a thread to rest ---

// Takes note of what has become of any thread: the first one of a process that has ended is told of only after all others.
// Returns whether there was something.
static int take_news(void)
{
	int status;
	long tid = wait_for(-1, &status, __WALL | WNOHANG, NULL);
	struct thread *t = tid > 0 ? undo_find((pid_t)tid) : NULL;

	if (t && WIFSTOPPED(status))
		t->status = status;
	else if (t)
		undo_lose(t);
	return tid > 0;
}

// Waits until a thread that runs stands. Returns whether it does.
static int wait_stop(const struct thread *t)
{
	for (long waited = 0; waited < PATIENCE * 1000000L;) {
		if (t->status || !t->seized)
			return t->seized;
		if (take_news())
			continue;
		pause_for(50000);
		waited += 50000;
	}
	return 0;
}

// Lets a thread go on, and waits for its next stop.
static int go_on(struct thread *t, long request)
{
	t->status = 0;
	return trace(request, t->tid, NULL, NULL) == 0 && wait_stop(t);
}

// Whether a breakpoint that the thread ran into waits to be reported: the kernel reports our interruption first, and would
// deliver the signal after we have let the thread go.
static int trapped(const struct thread *t)
{
	siginfo_t found[8];
	struct ptrace_peeksiginfo_args from = { 0, 0, 8 }; // of the thread's own queue
	long n;

	while ((n = trace(PTRACE_PEEKSIGINFO, t->tid, &from, found)) > 0) {
		for (long i = 0; i < n; i++)
			if (found[i].si_signo == SIGTRAP)
				return 1;
		from.off += (uint64_t)n;
	}
	return 0;
}

// Whether the signal that a thread is about to receive is of its own making: it executed criu's code, not its own.
static int is_fault(const struct thread *t)
{
	siginfo_t found;

	return trace(PTRACE_GETSIGINFO, t->tid, NULL, &found) == 0 && found.si_code > 0;
}

// Keeps a thread that stands at the entry of a system call from making it.
static void skip_call(const struct thread *t)
{
	struct ptrace_syscall_info about = { 0 };
	int none = -1;
	size_t size = sizeof none;

	if (trace(PTRACE_GET_SYSCALL_INFO, t->tid, (void *)sizeof about, &about) < 0 || about.op != PTRACE_SYSCALL_INFO_ENTRY)
		return;
#if defined(__x86_64__)
	(void)size;
	trace(PTRACE_POKEUSR, t->tid, (void *)offsetof(struct user_regs_struct, orig_rax), (void *)(long)none);
#else
	registers(PTRACE_SETREGSET, t, NT_ARM_SYSTEM_CALL, &none, &size);
#endif
}

// Whether a thread that ran freely has gone on with its own program: what criu executes in it, with signals blocked, goes back
// to that by itself when criu closes its socket, as it does after some errors.
static int has_left(const struct thread *t)
{
	uint64_t mask = 0;

	return t->process && trace(PTRACE_GETSIGMASK, t->tid, (void *)sizeof mask, &mask) == 0 && mask != t->criu_mask;
}

// Brings a thread to where the kernel stops it for us alone, with nothing of criu's on its way to it. Returns whether it is there.
static int settle(struct thread *t)
{
	if (!t->status)
		trace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
	if (!wait_stop(t))
		return 0;
	if (t->ran && WSTOPSIG(t->status) != SYSTEM_CALL && has_left(t)) {
		t->process->left = 1;
		t->changed = 0; // not what it was saved as any more
	}
	t->ran = 0;
	for (;;) {
		if (t->status >> 16 == PTRACE_EVENT_STOP) {
			if (!trapped(t))
				return 1;
			// Into the trap, uninterrupted.
		} else {
			if (WSTOPSIG(t->status) == SYSTEM_CALL)
				skip_call(t);
			else if (!is_fault(t))
				t->owed = WSTOPSIG(t->status);
			trace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
		}
		if (!go_on(t, PTRACE_CONT))
			return 0;
	}
}

// --- undoing ---

static void set_mask(const struct thread *t, uint64_t mask)
{
	trace(PTRACE_SETSIGMASK, t->tid, (void *)sizeof mask, &mask);
}

static unsigned long call_instruction(unsigned long word)
{
#if defined(__x86_64__)
	return (word & ~0xffffUL) | 0x050f; // syscall
#else
	return (word & ~0xffffffffUL) | 0xd4000001; // svc #0
#endif
}

// Lets a settled thread make a system call, with the instruction at an address.
static void make_call(struct thread *t, unsigned long at, const struct errand *e)
{
	struct user_regs_struct r = t->registers;
	size_t size = sizeof r;

#if defined(__x86_64__)
	r.rip = at;
	r.rax = (unsigned long)e->number;
	r.rdi = (unsigned long)e->arguments[0];
	r.rsi = (unsigned long)e->arguments[1];
	r.rdx = (unsigned long)e->arguments[2];
	r.orig_rax = (unsigned long)-1; // it is in no system call that might be restarted
#else
	r.pc = at;
	r.regs[8] = (unsigned long)e->number;
	for (int i = 0; i < 3; i++)
		r.regs[i] = (unsigned long)e->arguments[i];
#endif
	registers(PTRACE_SETREGSET, t, NT_PRSTATUS, &r, &size);
	for (int stops = 0; stops < 2; stops += WSTOPSIG(t->status) == SYSTEM_CALL)
		if (!go_on(t, PTRACE_SYSCALL))
			return;
}

// Lets a process drop what it did not have, by its first thread. Only while all of it stands still: what a part that criu has
// let go had opened since would go as well.
static void clean(struct process *p)
{
	struct thread *t = undo_find(p->pid);
	unsigned long door = p->pokes[0].address;
	const struct errand *errands;
	int n;

	if (p->left || !p->belongings || !p->n_pokes || !undo_is_seized(t) || !t->changed)
		return;
	n = belongings_errands(p->belongings, p->pid, &errands);
	if (!n || t->registers_size != sizeof t->registers)
		return;
	set_mask(t, ~0UL);
	trace(PTRACE_POKEDATA, t->tid, (void *)door, (void *)call_instruction(p->pokes[0].before));
	for (int i = 0; i < n && t->seized; i++)
		make_call(t, door, &errands[i]);
	if (t->seized)
		settle(t);
}

static void put_word(const struct thread *t, const struct word *w)
{
	trace(PTRACE_POKEDATA, t->tid, (void *)w->address, (void *)w->before);
}

static void put_back(struct thread *t)
{
	size_t size = t->registers_size, vectors = t->vectors_size;

	for (int i = 0; t->tid == t->process->pid && i < t->process->n_pokes; i++)
		put_word(t, &t->process->pokes[i]);
#if defined(__x86_64__)
	if (t->breakpoint)
		trace(PTRACE_POKEUSR, t->tid, (void *)offsetof(struct user, u_debugreg[7]), NULL);
#endif
	if (!t->changed)
		return;
	if (t->rseq.address)
		put_word(t, &t->rseq);
	if (vectors)
		registers(PTRACE_SETREGSET, t, NT_VECTORS, t->vectors, &vectors);
	if (size == sizeof t->registers)
		undo_sleep_on(t, &t->registers);
	registers(PTRACE_SETREGSET, t, NT_PRSTATUS, &t->registers, &size);
	set_mask(t, t->mask);
	t->lent = 0;
}

void undo_all(void)
{
	for (int i = 0; i < undo_n_threads; i++)
		undo_threads[i].ran = !undo_threads[i].status;
	for (int i = 0; i < undo_n_threads; i++)
		if (undo_threads[i].seized && undo_threads[i].process && !settle(&undo_threads[i]))
			undo_lose(&undo_threads[i]);
	for (int i = 0; i < undo_n_processes; i++)
		clean(&undo_processes[i]);
	for (int i = 0; i < undo_n_threads; i++)
		if (undo_threads[i].seized && undo_threads[i].process)
			put_back(&undo_threads[i]);
	for (int i = 0; i < undo_n_threads; i++)
		if (undo_threads[i].seized && undo_threads[i].process) {
			undo_lose(&undo_threads[i]);
			trace(PTRACE_DETACH, undo_threads[i].tid, NULL, (void *)(long)undo_threads[i].owed);
		}
}

// Seizes a thread again that the end of its tracer has let go. Returns whether it could.
static int seize_again(struct thread *t)
{
	if (trace(PTRACE_SEIZE, t->tid, NULL, (void *)PTRACE_O_TRACESYSGOOD) < 0)
		return 0;
	undo_seize(t);
	t->ran = 1;
	return 1;
}

// A thread with its own registers has gone on with its program: only what else is criu's is put back. What criu runs for longer
// in the first thread of a process returns to the program by itself, if no breakpoint is in its way.
void undo_after(void)
{
	for (int i = 0; i < undo_n_threads; i++) {
		struct thread *t = &undo_threads[i];
		int poked, daemon;
		uint64_t mask;

		if (!t->seized || !t->process)
			continue;
		t->process->left = 1;
		poked = t->tid == t->process->pid && undo_is_poked(t->process);
		daemon = t->tid == t->process->pid && t->lent && !poked;
		undo_lose(t);
		if (!t->breakpoint && (daemon || (!t->lent && !poked && t->criu_mask == t->mask)))
			continue;
		if (!seize_again(t) || !t->changed)
			continue;
		t->changed = !daemon;
		if (t->lent || !settle(t) || !t->changed)
			continue;
		mask = t->mask;
		t->changed = 0;
		undo_save(t); // as it is by now, but for the signals that it had blocked
		t->mask = mask;
	}
	undo_all();
}

void undo_kill(void)
{
	for (int i = 0; i < undo_n_threads; i++)
		if (undo_threads[i].seized)
			call(__NR_tkill, undo_threads[i].tid, SIGKILL, 0, 0, 0);
}
