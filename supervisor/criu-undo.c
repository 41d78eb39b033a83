// SPDX-License-Identifier: Apache-2.0
//
// A tracer that outlives criu, with an undo log.
//
// To dump a process criu runs code inside it: through ptrace it changes registers, signal masks and a few bytes of the
// program, and puts them back afterwards. Killed in between, it leaves threads that execute its breakpoint, or for which the
// kernel has a SIGTRAP ready, and the application dies (measured: 2 to 4 of 100 kills at random points of a dump).
//
// So criu does not trace. Its calls of ptrace and wait are interposed and carried out by another process, which shares its
// memory but not its fate. That one notes what is there before it is changed for the first time. When criu ends, it stops the
// threads that are not what they were, puts back what the log says and lets them go. A thread inside criu's daemon, whose
// socket is closed now, returns by itself, as criu's authors meant it to. Calls cost some ten microseconds more.
//
// Before anybody goes on, TCP connections have to leave repair mode: in it recv fails with EPERM, also that of a thread which
// was blocked there all the time (tcp_recvmsg_locked). So the tracer keeps a duplicate of each that criu puts into it. Not if
// criu has begun to kill: a connection of a process that dies must end silently, since it is in the image.
//
// Sharing memory means sharing errno and everything else of libc's: the tracer makes bare system calls.

#define _GNU_SOURCE
#include "criu-undo.h"
#include <asm/unistd.h>
#include <elf.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif
#if defined(__x86_64__)
#define NT_VECTORS NT_X86_XSTATE
#else
#define NT_VECTORS NT_PRFPREG
#endif

enum {
	STACK = 64 << 10, // of the tracer
	MOST_THREADS = 32768, // with more, the later ones have no log
	BUCKETS = 65536,
	MOST_POKES = 8, // criu exchanges two words at one address
	MOST_SOCKETS = 65536,
	VECTORS = 4096, // AVX-512 needs 2696 bytes; with more (AMX) they are not kept
	PATIENCE = 5000, // milliseconds until a thread has stopped
};

// --- bare system calls: the result, or a negative errno ---

#if defined(__x86_64__)
static long call(long n, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
static long call(long n, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}
#else
#error "unknown architecture"
#endif

static long trace(long request, pid_t tid, const void *address, const void *data)
{
	return call(__NR_ptrace, request, tid, (long)address, (long)data, 0);
}

static long wait_for(pid_t tid, int *status, int options, void *usage)
{
	return call(__NR_wait4, tid, (long)status, options, (long)usage, 0);
}

// --- the log ---

struct thread {
	pid_t tid;
	int seized;
	int changed; // what follows was saved, and may be otherwise now
	int running;
	int in_call; // stands at the entry or the end of a system call
	int breakpoint; // a debug register was set
	int inside; // was set going with its own program unchanged: it executes criu's code
	struct user_regs_struct registers;
	size_t vectors_size;
	uint64_t mask;
	int n_pokes;
	struct {
		unsigned long address, before, now;
	} pokes[MOST_POKES];
	char vectors[VECTORS];
};

static struct thread *threads; // in order of their seizure; what nobody touched costs nothing
static int n_threads, n_seized;
static int buckets[BUCKETS]; // 1 + index in threads, 0 for none; open addressing, never emptied

static struct thread *find(pid_t tid)
{
	for (unsigned i = (unsigned)tid % BUCKETS; buckets[i]; i = (i + 1) % BUCKETS)
		if (threads[buckets[i] - 1].tid == tid)
			return &threads[buckets[i] - 1];
	return NULL;
}

static struct thread *find_or_make(pid_t tid)
{
	struct thread *t = find(tid);
	unsigned i = (unsigned)tid % BUCKETS;

	if (t || n_threads == MOST_THREADS)
		return t;
	while (buckets[i])
		i = (i + 1) % BUCKETS;
	t = &threads[n_threads];
	t->tid = tid;
	buckets[i] = ++n_threads;
	return t;
}

static long registers(long request, const struct thread *t, long type, const void *bytes, size_t *size)
{
	struct iovec io = { (void *)bytes, *size };
	long result = trace(request, t->tid, (void *)type, &io);

	*size = io.iov_len;
	return result;
}

// Saves what a thread is before criu changes it.
static void save(struct thread *t)
{
	size_t size = sizeof t->registers;

	if (t->changed)
		return;
	t->vectors_size = VECTORS;
	if (registers(PTRACE_GETREGSET, t, NT_VECTORS, t->vectors, &t->vectors_size) < 0 || t->vectors_size == VECTORS)
		t->vectors_size = 0;
	if (trace(PTRACE_GETSIGMASK, t->tid, (void *)sizeof t->mask, &t->mask) == 0 &&
	    registers(PTRACE_GETREGSET, t, NT_PRSTATUS, &t->registers, &size) == 0)
		t->changed = 1;
}

static void save_word(struct thread *t, unsigned long address, unsigned long now)
{
	int i = 0;

	while (i < t->n_pokes && t->pokes[i].address != address)
		i++;
	if (i == MOST_POKES)
		return;
	if (i == t->n_pokes) {
		if (trace(PTRACE_PEEKDATA, t->tid, (void *)address, &t->pokes[i].before) < 0)
			return;
		t->pokes[i].address = address;
		t->n_pokes++;
	}
	t->pokes[i].now = now;
}

static int poked(const struct thread *t)
{
	for (int i = 0; i < t->n_pokes; i++)
		if (t->pokes[i].now != t->pokes[i].before)
			return 1;
	return 0;
}

// Notes what a request is about to do.
static void note(long request, struct thread *t, void *address, void *data)
{
	switch (request) {
	case PTRACE_SEIZE:
		t->changed = t->inside = t->breakpoint = t->n_pokes = 0;
		t->running = 1;
		break;
	case PTRACE_POKETEXT:
	case PTRACE_POKEDATA:
		save_word(t, (unsigned long)address, (unsigned long)data);
		break;
	case PTRACE_SETREGSET:
	case PTRACE_SETSIGMASK:
#if defined(__x86_64__)
	case PTRACE_SETREGS:
	case PTRACE_SETFPREGS:
#endif
		save(t);
		break;
	case PTRACE_POKEUSER:
		t->breakpoint = 1;
		break;
	case PTRACE_CONT:
	case PTRACE_SYSCALL:
	case PTRACE_SINGLESTEP:
		t->inside = t->changed && !poked(t);
		t->running = 1;
		break;
	default:
		break;
	}
}

// --- criu's side ---

static struct {
	enum { TRACE, WAIT, KEEP } what;
	long request; // or the descriptor of a socket to keep
	pid_t tid;
	void *address, *data; // of wait: status and usage
	int options;
	long result;
} job; // one at a time: criu has one thread

static int killing; // criu has begun to end the tree
static int bell = -1; // criu's end: a byte for a job, a byte back when it is done

static long hand_over(void)
{
	char byte = 0;
	long n;

	do
		n = call(__NR_write, bell, (long)&byte, 1, 0, 0);
	while (n == -EINTR);
	if (n == 1)
		do
			n = call(__NR_read, bell, (long)&byte, 1, 0, 0);
		while (n == -EINTR);
	return n == 1 ? job.result : -ESRCH; // without its tracer criu has no tracees either
}

static long answer(long result)
{
	if (result >= 0)
		return result;
	errno = (int)-result;
	return -1;
}

// In libc a peek returns the word, in the kernel it stores it.
EXPORT long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	struct thread *t = NULL;
	pid_t tid;
	void *address, *data;
	long word, result;
	int peek = request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER;

	va_start(arguments, request);
	tid = va_arg(arguments, pid_t);
	address = va_arg(arguments, void *);
	data = peek ? &word : va_arg(arguments, void *);
	va_end(arguments);
	if (request == PTRACE_KILL)
		killing = 1;
	if (bell >= 0)
		t = request == PTRACE_SEIZE ? find_or_make(tid) : find(tid);
	if (t && (t->seized || request == PTRACE_SEIZE)) {
		job.what = TRACE;
		job.request = request;
		job.tid = tid;
		job.address = address;
		job.data = data;
		result = hand_over();
	} else
		result = trace(request, tid, address, data);
	if (peek && result == 0) {
		errno = 0;
		return word;
	}
	return answer(result);
}

EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
	if (bell >= 0 && level == IPPROTO_TCP && name == TCP_REPAIR && size >= sizeof(int) && *(const int *)value == 1) {
		job.what = KEEP;
		job.request = fd;
		hand_over();
	}
	return (int)answer(call(__NR_setsockopt, fd, level, name, (long)value, size));
}

EXPORT int kill(pid_t pid, int number)
{
	struct thread *t = number == SIGKILL && pid > 0 ? find(pid) : NULL;

	if (t && t->seized)
		killing = 1;
	return (int)answer(call(__NR_kill, pid, number, 0, 0, 0));
}

static void pause_for(long nanoseconds)
{
	struct timespec t = { 0, nanoseconds };

	call(__NR_nanosleep, (long)&t, 0, 0, 0, 0);
}

static long wait_by_tracer(pid_t pid, int *status, int options, struct rusage *usage)
{
	job.what = WAIT;
	job.tid = pid;
	job.address = status;
	job.data = usage;
	job.options = options;
	return hand_over();
}

// Waits for any, our children and the tracer's tracees.
static long wait_for_any(int *status, int options, struct rusage *usage)
{
	for (;;) {
		long ours = wait_for(-1, status, options | WNOHANG, usage), theirs;

		if (ours > 0)
			return ours;
		theirs = wait_by_tracer(-1, status, options | WNOHANG, usage);
		if (theirs != -ECHILD && theirs)
			return theirs;
		if ((theirs < 0 && ours < 0) || options & WNOHANG)
			return ours;
		pause_for(50000);
	}
}

EXPORT pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage)
{
	struct thread *t = bell >= 0 && pid > 0 ? find(pid) : NULL;

	if (pid == -1 && bell >= 0 && n_seized)
		return (pid_t)answer(wait_for_any(status, options, usage));
	if (t && t->seized)
		return (pid_t)answer(wait_by_tracer(pid, status, options, usage));
	return (pid_t)answer(wait_for(pid, status, options, usage));
}

EXPORT pid_t waitpid(pid_t pid, int *status, int options)
{
	return wait4(pid, status, options, NULL);
}

// --- the tracer ---

#if defined(__x86_64__)
static int signal_waits(const struct thread *t)
{
	siginfo_t info;

	for (unsigned flags = 0; flags <= PTRACE_PEEKSIGINFO_SHARED; flags++) {
		struct __ptrace_peeksiginfo_args first = { 0, flags, 1 };

		if (trace(PTRACE_PEEKSIGINFO, t->tid, &first, &info) == 1)
			return 1;
	}
	return 0;
}

// After a stop the kernel goes on with a nanosleep for the rest of its time. What it needs for that survives neither criu's
// daemon nor a checkpoint, so criu lets the call fail with EINTR (compel: "Will restore %d with interrupted system call"),
// which by the manual only a signal does. Not everybody expects it: busybox's "sleep infinity" ends. So criu is shown the
// thread before its call, which the kernel has told what is left: mostly it is the variable that said how much.
static void sleep_on(const struct thread *t, struct user_regs_struct *r)
{
	enum { ERESTART_RESTARTBLOCK = 516, SYSCALL = 2 }; // linux/errno.h, for the kernel only; bytes of the instruction

	if ((long)r->rax != -ERESTART_RESTARTBLOCK || signal_waits(t))
		return;
	if (r->orig_rax == __NR_nanosleep)
		r->rdi = r->rsi ? r->rsi : r->rdi;
	else if (r->orig_rax == __NR_clock_nanosleep)
		r->rdx = r->r10 ? r->r10 : r->rdx;
	else
		return;
	r->rax = r->orig_rax;
	r->orig_rax = -1;
	r->rip -= SYSCALL;
}
#else
// On arm64 the result is where the first argument was.
static void sleep_on(const struct thread *t, struct user_regs_struct *r)
{
	(void)t;
	(void)r;
}
#endif

static void do_trace(struct thread *t)
{
	const struct iovec *io = job.data;

	note(job.request, t, job.address, job.data);
	job.result = trace(job.request, job.tid, job.address, job.data);
	if (job.result == 0 && job.request == PTRACE_GETREGSET && job.address == (void *)NT_PRSTATUS &&
	    io->iov_len == sizeof(struct user_regs_struct))
		sleep_on(t, io->iov_base);
	if (job.result < 0 || (job.request != PTRACE_SEIZE && job.request != PTRACE_DETACH))
		return;
	n_seized += (job.request == PTRACE_SEIZE) - t->seized;
	t->seized = job.request == PTRACE_SEIZE;
}

static int tracer_bell, tracer_criu, tracer_events; // the latter two: a pidfd, and SIGCHLD as a descriptor

static int sockets[MOST_SOCKETS], n_sockets; // the tracer's own duplicates

static void keep_socket(void)
{
	long fd = n_sockets < MOST_SOCKETS ? call(__NR_pidfd_getfd, tracer_criu, job.request, 0, 0, 0) : -EMFILE;

	if (fd >= 0)
		sockets[n_sockets++] = (int)fd;
	job.result = 0;
}

static void end_repair(void)
{
	int without_probe = -1; // TCP_REPAIR_OFF_NO_WP: the probe would be a frame that nobody expects

	for (int i = 0; i < n_sockets && !killing; i++)
		call(__NR_setsockopt, sockets[i], IPPROTO_TCP, TCP_REPAIR, (long)&without_probe, sizeof without_probe);
}

// Waits as asked, but not longer than criu lives. Returns whether there is something to answer.
static int do_wait(void)
{
	struct pollfd events[] = { { tracer_events, POLLIN, 0 }, { tracer_criu, POLLIN, 0 } };
	char event[128]; // struct signalfd_siginfo
	int status = 0;
	struct thread *t;

	while ((job.result = wait_for(job.tid, &status, job.options | WNOHANG, job.data)) == 0 && !(job.options & WNOHANG)) {
		call(__NR_ppoll, (long)events, 2, 0, 0, 0);
		if (events[1].revents)
			return 0;
		call(__NR_read, tracer_events, (long)event, sizeof event, 0, 0);
	}
	if (job.result <= 0)
		return 1;
	if (job.address)
		*(int *)job.address = status;
	t = find((pid_t)job.result);
	if (t) {
		t->running = 0;
		t->in_call = WIFSTOPPED(status) && WSTOPSIG(status) == (SIGTRAP | 0x80);
		if (!WIFSTOPPED(status)) { // dead
			n_seized -= t->seized;
			t->seized = 0;
		}
	}
	return 1;
}

// Whether a breakpoint that the thread ran into waits to be reported: the kernel reports our interruption before it, and
// would deliver it after we have let the thread go.
static int trapped(const struct thread *t)
{
	struct __ptrace_peeksiginfo_args first = { 0, 0, 1 }; // of the thread's own queue; one has to do, it has no other then
	siginfo_t info;

	return trace(PTRACE_PEEKSIGINFO, t->tid, &first, &info) == 1 && info.si_signo == SIGTRAP;
}

// Makes a thread stand still, not about to receive a SIGTRAP. Returns whether it does.
static int stop(struct thread *t)
{
	int status;

	if (t->running)
		trace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
	for (int i = 0; i < PATIENCE && t->running; i++) {
		long found = wait_for(t->tid, &status, __WALL | WNOHANG, NULL);

		if (found < 0 || (found == t->tid && !WIFSTOPPED(status)))
			return 0;
		if (found != t->tid)
			pause_for(1000000);
		else if (!trapped(t) || trace(PTRACE_CONT, t->tid, NULL, NULL) < 0)
			t->running = 0;
	}
	return !t->running;
}

// Whether criu's daemon runs in this thread: it does in the first one of a process only, and returns by itself.
static int by_itself(const struct thread *t)
{
	return t->inside && (t->running || t->in_call) && call(__NR_tgkill, t->tid, t->tid, 0, 0, 0) == 0;
}

static void put_back(struct thread *t)
{
	size_t size = sizeof t->registers;

	for (int i = 0; i < t->n_pokes; i++)
		trace(PTRACE_POKEDATA, t->tid, (void *)t->pokes[i].address, (void *)t->pokes[i].before);
	if (!t->changed)
		return;
	if (t->vectors_size)
		registers(PTRACE_SETREGSET, t, NT_VECTORS, t->vectors, &t->vectors_size);
	sleep_on(t, &t->registers);
	registers(PTRACE_SETREGSET, t, NT_PRSTATUS, &t->registers, &size);
	trace(PTRACE_SETSIGMASK, t->tid, (void *)sizeof t->mask, &t->mask);
}

// criu catches its daemon on the way out with a breakpoint in the debug registers, which outlive their tracer.
static void clear_breakpoint(struct thread *t)
{
#if defined(__x86_64__)
	if (t->breakpoint && stop(t))
		trace(PTRACE_POKEUSER, t->tid, (void *)offsetof(struct user, u_debugreg[7]), NULL);
#else
	(void)t;
#endif
}

// Those that were only seized, and those that come back by themselves, go on when we end.
static void undo(void)
{
	for (int i = 0; i < n_threads; i++) {
		struct thread *t = &threads[i];

		if (!t->seized || !(t->changed || poked(t)))
			continue;
		if (!by_itself(t)) {
			if (!stop(t))
				continue;
			put_back(t);
		}
		clear_breakpoint(t);
		trace(PTRACE_DETACH, t->tid, NULL, NULL);
	}
}

static int tracer(void *unused)
{
	struct pollfd events[] = { { tracer_bell, POLLIN, 0 }, { tracer_criu, POLLIN, 0 } };
	char byte;

	(void)unused;
	call(__NR_prctl, PR_SET_NAME, (long)"criu-tracer", 0, 0, 0);
	for (;;) {
		call(__NR_ppoll, (long)events, 2, 0, 0, 0);
		if (events[1].revents)
			break;
		if (!events[0].revents)
			continue;
		if (call(__NR_read, tracer_bell, (long)&byte, 1, 0, 0) != 1)
			break;
		if (job.what == TRACE)
			do_trace(find(job.tid));
		else if (job.what == KEEP)
			keep_socket();
		else if (!do_wait())
			break;
		call(__NR_write, tracer_bell, (long)&byte, 1, 0, 0);
	}
	end_repair();
	undo();
	call(__NR_exit_group, 0, 0, 0, 0, 0);
	return 0;
}

int undo_begin(void)
{
	int ends[2];
	char *stack;
	sigset_t children, all, before;
	pid_t pid;

	threads = mmap(NULL, MOST_THREADS * sizeof *threads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		       -1, 0);
	stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (threads == MAP_FAILED || stack == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return -1;
	tracer_bell = ends[1];
	tracer_criu = (int)call(__NR_pidfd_open, getpid(), 0, 0, 0, 0);
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	tracer_events = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
	if (tracer_criu < 0 || tracer_events < 0)
		return -1;
	// What is sent to criu's process group is not for the tracer; and handlers, which criu may set, are criu's.
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	// criu's sibling: criu waits for all its children before it ends, and the zygote reaps its own.
	pid = clone(tracer, stack + STACK, CLONE_VM | CLONE_PARENT | SIGCHLD, NULL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	close(tracer_bell);
	close(tracer_criu);
	close(tracer_events);
	if (pid < 0)
		return -1;
	bell = ends[0];
	return 0;
}
