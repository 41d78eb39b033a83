// SPDX-License-Identifier: Apache-2.0
//
// An undo log of what criu does to an application.
//
// To dump a process criu runs code inside it: through ptrace it changes registers, signal masks and a few bytes of the
// program, and puts them back afterwards. Ended in between, it leaves threads that execute its code or its breakpoints, with
// all signals blocked. So whoever traces for criu comes by here. Before a process or a thread is changed for the first time we
// note what it is, and criu-mend.c makes it so again.
//
// The log says where every thread is as well: a thread that has gone on with its program must not become what it was.
//
// No libc but for the beginning, see criu-raw.h.

#define _GNU_SOURCE
#include "criu-undo.h"
#include "criu-thread.h"
#include <sys/mman.h>

enum {
	MOST_THREADS = 32768, // with more, the later ones have no log
	BUCKETS = 65536,
};

struct thread *undo_threads;
struct process *undo_processes; // at most as many
int undo_n_threads, undo_n_processes;
static int n_seized;
static int buckets[BUCKETS]; // 1 + index of a thread, 0 for none; open addressing, never emptied

int undo_begin(void)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE; // what nobody touches costs nothing

	undo_threads = mmap(NULL, MOST_THREADS * sizeof *undo_threads, PROT_READ | PROT_WRITE, flags, -1, 0);
	undo_processes = mmap(NULL, MOST_THREADS * sizeof *undo_processes, PROT_READ | PROT_WRITE, flags, -1, 0);
	return undo_threads == MAP_FAILED || undo_processes == MAP_FAILED ? -1 : belongings_begin();
}

struct thread *undo_find(pid_t tid)
{
	for (unsigned i = (unsigned)tid % BUCKETS; buckets[i]; i = (i + 1) % BUCKETS)
		if (undo_threads[buckets[i] - 1].tid == tid)
			return &undo_threads[buckets[i] - 1];
	return NULL;
}

struct thread *undo_find_or_make(pid_t tid)
{
	struct thread *t = undo_find(tid);
	unsigned i = (unsigned)tid % BUCKETS;

	if (t || undo_n_threads == MOST_THREADS)
		return t;
	while (buckets[i])
		i = (i + 1) % BUCKETS;
	t = &undo_threads[undo_n_threads];
	t->tid = tid;
	buckets[i] = ++undo_n_threads;
	return t;
}

int undo_is_seized(const struct thread *t)
{
	return t && t->seized;
}

int undo_seized(void)
{
	return n_seized;
}

// --- what was there ---

// The process of a thread: criu enters one after the other, by its first thread.
static struct process *process_of(const struct thread *t)
{
	struct process *p;

	for (int i = undo_n_processes - 1; i >= 0; i--)
		if (call(__NR_tgkill, undo_processes[i].pid, t->tid, 0, 0, 0) == 0)
			return &undo_processes[i];
	p = &undo_processes[undo_n_processes++];
	p->pid = t->tid;
	p->belongings = belongings_of(t->tid);
	return p;
}

// A thread that was interrupted inside of a restartable sequence must not go on in it unnoticed: the kernel forgets about the
// sequence when the thread executes something else, and has to be reminded.
static void save_rseq(struct thread *t)
{
	struct ptrace_rseq_configuration c = { 0 };

	t->rseq.address = 0;
	if (trace(PTRACE_GET_RSEQ_CONFIGURATION, t->tid, (void *)sizeof c, &c) < 0 || !c.rseq_abi_pointer)
		return;
	if (trace(PTRACE_PEEKDATA, t->tid, (void *)(c.rseq_abi_pointer + 8), &t->rseq.before) == 0 && t->rseq.before)
		t->rseq.address = c.rseq_abi_pointer + 8; // rseq_cs of struct rseq
}

void undo_save(struct thread *t)
{
	if (t->changed)
		return;
	if (!t->process)
		t->process = process_of(t);
	t->vectors_size = VECTORS;
	if (registers(PTRACE_GETREGSET, t, NT_VECTORS, t->vectors, &t->vectors_size) < 0 || t->vectors_size == VECTORS)
		t->vectors_size = 0;
	save_rseq(t);
	t->registers_size = sizeof t->registers;
	if (trace(PTRACE_GETSIGMASK, t->tid, (void *)sizeof t->mask, &t->mask) == 0 &&
	    registers(PTRACE_GETREGSET, t, NT_PRSTATUS, &t->registers, &t->registers_size) == 0)
		t->changed = 1;
	t->criu_mask = t->mask;
}

static void save_word(const struct thread *t, unsigned long address, unsigned long now)
{
	struct process *p = t->process;
	int i = 0;

	while (i < p->n_pokes && p->pokes[i].address != address)
		i++;
	if (i == MOST_POKES)
		return;
	if (i == p->n_pokes) {
		if (trace(PTRACE_PEEKDATA, t->tid, (void *)address, &p->pokes[i].before) < 0)
			return;
		p->pokes[i].address = address;
		p->n_pokes++;
	}
	p->pokes[i].now = now;
}

static const struct word *word_at(const struct process *p, unsigned long address)
{
	for (int i = 0; i < p->n_pokes; i++)
		if (p->pokes[i].address == address && p->pokes[i].now != p->pokes[i].before)
			return &p->pokes[i];
	return NULL;
}

int undo_is_poked(const struct process *p)
{
	for (int i = 0; i < p->n_pokes; i++)
		if (word_at(p, p->pokes[i].address))
			return 1;
	return 0;
}

// --- where a thread is ---

void undo_let_run(struct thread *t)
{
	t->status = t->calls = t->told = t->owed = 0;
}

void undo_seize(struct thread *t)
{
	t->seized = 1;
	n_seized++;
	undo_let_run(t);
}

void undo_lose(struct thread *t)
{
	n_seized -= t->seized;
	t->seized = 0;
}

// Takes note of registers that criu is about to set: its own, or those that it found, perhaps as they are when a system call
// begins again.
static void lend(struct thread *t, const void *type, const struct iovec *io)
{
	const struct user_regs_struct *r = io->iov_base, *own = &t->registers;

	if ((long)type != NT_PRSTATUS || io->iov_len != sizeof *r)
		return;
#if defined(__x86_64__)
	t->lent = r->rsp != own->rsp || (r->rip != own->rip && r->rip != own->rip - 2);
	t->lent_at = r->rip;
#else
	t->lent = r->sp != own->sp || (r->pc != own->pc && r->pc != own->pc - 4);
	t->lent_at = r->pc;
#endif
}

// A system call followed by breakpoints. If the tracer is killed, the thread ends by the first one; so it waits instead, and is
// stopped by the end of the call.
static unsigned long without_trap(unsigned long word)
{
#if defined(__x86_64__)
	if ((word & 0xffffffff) == 0xcccc050f)
		return (word & ~0xffffffffUL) | 0xfeeb050f; // syscall; jmp to itself
#endif
	return word;
}

// criu catches its code on the way out with a breakpoint in the debug registers, which outlive their tracer.
static void note_breakpoint(struct thread *t, unsigned long address, unsigned long value)
{
#if defined(__x86_64__)
	if (address == offsetof(struct user, u_debugreg[7]))
		t->breakpoint = value != 0;
#else
	(void)t, (void)address, (void)value;
#endif
}

static int makes_call(const struct thread *t)
{
	const struct word *word = t->lent ? word_at(t->process, t->lent_at) : NULL;

	return word && word->now != without_trap(word->now);
}

#if defined(__x86_64__)
static int signal_waits(const struct thread *t)
{
	siginfo_t info;

	for (unsigned flags = 0; flags <= PTRACE_PEEKSIGINFO_SHARED; flags++) {
		struct ptrace_peeksiginfo_args first = { 0, flags, 1 };

		if (trace(PTRACE_PEEKSIGINFO, t->tid, &first, &info) == 1)
			return 1;
	}
	return 0;
}

// After a stop the kernel goes on with a nanosleep for the rest of its time. What it needs for that survives neither criu's
// daemon nor a checkpoint, so criu lets the call fail with EINTR (compel: "Will restore %d with interrupted system call"),
// which by the manual only a signal does. Not everybody expects it: busybox's "sleep infinity" ends. So criu is shown the
// thread before its call, which the kernel has told what is left: mostly it is the variable that said how much.
void undo_sleep_on(const struct thread *t, struct user_regs_struct *r)
{
	enum { ERESTART_RESTARTBLOCK = 516, INSTRUCTION = 2 }; // linux/errno.h, for the kernel only; bytes

	if ((long)r->rax != -ERESTART_RESTARTBLOCK || signal_waits(t))
		return;
	if (r->orig_rax == __NR_nanosleep)
		r->rdi = r->rsi ? r->rsi : r->rdi;
	else if (r->orig_rax == __NR_clock_nanosleep)
		r->rdx = r->r10 ? r->r10 : r->rdx;
	else
		return;
	r->rax = r->orig_rax;
	r->orig_rax = (unsigned long)-1;
	r->rip -= INSTRUCTION;
}
#else
// On arm64 the result is where the first argument was.
void undo_sleep_on(const struct thread *t, struct user_regs_struct *r)
{
	(void)t;
	(void)r;
}
#endif

// What is left to do after a request was carried out.
static void follow(struct thread *t, long request, const void *address, const struct iovec *io, int calls)
{
	switch (request) {
	case PTRACE_SEIZE:
		t->changed = t->lent = t->breakpoint = 0;
		t->process = NULL;
		undo_seize(t);
		break;
	case PTRACE_DETACH:
		if (t->process)
			t->process->left = 1;
		undo_lose(t);
		break;
	case PTRACE_CONT:
	case PTRACE_SYSCALL:
	case PTRACE_SINGLESTEP:
		undo_let_run(t);
		t->calls = calls;
		break;
	case PTRACE_SETSIGMASK:
		trace(PTRACE_GETSIGMASK, t->tid, (void *)sizeof t->criu_mask, &t->criu_mask);
		break;
	case PTRACE_GETREGSET:
		if (address == (void *)NT_PRSTATUS && io->iov_len == sizeof(struct user_regs_struct))
			undo_sleep_on(t, io->iov_base);
		break;
	default:
		break;
	}
}

long undo_trace(struct thread *t, long request, void *address, void *data)
{
	long result;
	int calls = 0;

	switch (request) {
	case PTRACE_SEIZE:
	case PTRACE_SETOPTIONS:
		// Else a stop at a system call would look like a breakpoint. criu asks for it, too, but later.
		data = (void *)((long)data | PTRACE_O_TRACESYSGOOD);
		break;
	case PTRACE_POKETEXT:
	case PTRACE_POKEDATA:
		undo_save(t);
		save_word(t, (unsigned long)address, (unsigned long)data);
		data = (void *)without_trap((unsigned long)data);
		break;
	case PTRACE_SETREGSET:
		undo_save(t);
		lend(t, address, data);
		break;
	case PTRACE_SETSIGMASK:
		undo_save(t);
		break;
	case PTRACE_POKEUSR:
		undo_save(t);
		note_breakpoint(t, (unsigned long)address, (unsigned long)data);
		break;
	case PTRACE_GETSIGINFO:
		if (!t->told)
			break;
		*(siginfo_t *)data = t->info;
		return 0;
	case PTRACE_CONT:
		if (t->changed && makes_call(t)) {
			request = PTRACE_SYSCALL;
			calls = 2;
		}
		break;
	default:
		break;
	}
	result = trace(request, t->tid, address, data);
	if (result >= 0)
		follow(t, request, address, data, calls);
	return result;
}

// The end of a system call that criu takes for a breakpoint. Returns whether the thread is there.
static int end_call(struct thread *t, int *status)
{
	if (!WIFSTOPPED(*status) || WSTOPSIG(*status) != SYSTEM_CALL)
		return 1;
	if (--t->calls)
		return trace(PTRACE_SYSCALL, t->tid, NULL, NULL) < 0;
	t->info = (siginfo_t){ .si_signo = SIGTRAP, .si_code = SI_KERNEL };
	t->told = 1;
	*status = SIGTRAP << 8 | 0x7f;
	return 1;
}

// A thread that stands where it ran into a breakpoint receives the signal, and ends of it, when its tracer is killed; where we
// interrupt it, it does not. So it is moved on to there, without executing anything.
static void take_off_trap(struct thread *t)
{
	if (trace(PTRACE_GETSIGINFO, t->tid, NULL, &t->info) < 0 || trace(PTRACE_INTERRUPT, t->tid, NULL, NULL) < 0 ||
	    trace(PTRACE_CONT, t->tid, NULL, NULL) < 0)
		return;
	if (wait_for(t->tid, &t->status, __WALL, NULL) == t->tid && WIFSTOPPED(t->status))
		t->told = 1;
	else
		undo_lose(t);
}

// What criu executes for longer ends by a system call that gives a thread its own registers back.
static void look_for_return(struct thread *t)
{
	struct user_regs_struct now;
	struct iovec io = { &now, sizeof now };

	if (!t->lent || t->told || registers(PTRACE_GETREGSET, t, NT_PRSTATUS, &now, &io.iov_len) < 0)
		return;
	lend(t, (void *)NT_PRSTATUS, &io);
	if (!t->lent)
		trace(PTRACE_GETSIGMASK, t->tid, (void *)sizeof t->criu_mask, &t->criu_mask);
}

int undo_waited(pid_t tid, int *status)
{
	struct thread *t = undo_find(tid);
	int was = *status;

	if (!t)
		return 1;
	if (t->calls && !end_call(t, status))
		return 0;
	t->status = was;
	if (WIFSTOPPED(was) && WSTOPSIG(was) == SYSTEM_CALL)
		look_for_return(t);
	if (!WIFSTOPPED(was))
		undo_lose(t);
	else if (t->changed && was >> 8 == SIGTRAP)
		take_off_trap(t);
	return 1;
}
