// SPDX-License-Identifier: Apache-2.0
//
// A tracer that outlives criu.
//
// When a tracer dies the kernel lets its tracees go as they are, and an application whose criu was killed in the middle of a
// dump died of that in 2 to 4 of 100 cases. So criu does not trace. Its calls of ptrace and wait are interposed and carried out
// by another process, which shares its memory and its descriptors but not its fate, and undoes what was done (criu-undo.c) when
// criu ends. Calls cost some ten microseconds more.
//
// The descriptors are shared, so that criu's end closes none: what criu executes in the application returns to the application
// when its socket is closed, and whether it has done so could not be told afterwards.
//
// Before anybody goes on, TCP connections have to leave repair mode: in it recv fails with EPERM, also that of a thread which
// was blocked there all the time (tcp_recvmsg_locked). So the tracer keeps a duplicate of each socket of which criu changes an
// option. Not if criu has begun to kill: a connection of a process that dies must end silently, since it is in the image. Then
// what criu has not come to is killed as well, before it can do something that is not in the image.
//
// Sharing memory means sharing errno and everything else of libc's: the tracer makes bare system calls (criu-raw.h).

#define _GNU_SOURCE
#include "criu-tracer.h"
#include "criu-raw.h"
#include "criu-undo.h"
#include "criu-warm.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42
#endif

enum {
	STACK = 64 << 10, // of the tracer
	MOST_SOCKETS = 65536,
	FIRST_KEPT = 1024, // their duplicates are far from the numbers that criu uses
	ROOM = 4096, // for descriptors before the table has to grow
	REPAIR_OFF = -1, // TCP_REPAIR_OFF_NO_WP: a probe would be a frame that nobody expects
};

// --- criu's side ---

static struct {
	enum { TRACE, WAIT, KEEP } what;
	long request; // or the option that is about to be changed
	int fd; // of a socket to keep
	pid_t tid;
	void *address, *data; // of wait: status and usage
	int options;
	long result;
} job; // one at a time: criu has one thread

static int killing; // criu has begun to end the tree
static int done; // the tracer has nothing left to do
static int bell = -1; // criu's end: a byte for a job, a byte back when it is done
static int tracers_end = -1; // a pidfd

static long hand_over(void)
{
	struct pollfd events[] = { { bell, POLLIN, 0 }, { tracers_end, POLLIN, 0 } };
	char byte = 0;

	while (call(__NR_write, bell, (long)&byte, 1, 0, 0) != 1)
		;
	while (!events[0].revents && !events[1].revents)
		call(__NR_ppoll, (long)events, 2, 0, 0, 0);
	if (!events[0].revents)
		return -ESRCH; // without its tracer criu has no tracees either
	call(__NR_read, bell, (long)&byte, 1, 0, 0);
	return job.result;
}

static long answer(long result)
{
	if (result >= 0)
		return result;
	errno = (int)-result;
	return -1;
}

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
	if (request == PTRACE_GET_RSEQ_CONFIGURATION) {
		result = warm_rseq(tid, data, (size_t)address);
		if (result)
			return result;
	}
	if (bell >= 0)
		t = request == PTRACE_SEIZE ? undo_find_or_make(tid) : undo_find(tid);
	if (t && (undo_is_seized(t) || request == PTRACE_SEIZE)) {
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
	int repair = level == IPPROTO_TCP && name == TCP_REPAIR && size >= sizeof(int) && *(const int *)value == 1;

	if (bell >= 0 && (repair || (level == SOL_SOCKET && name == SO_PEEK_OFF))) {
		job.what = KEEP;
		job.request = name;
		job.fd = fd;
		hand_over();
	}
	return (int)answer(call(__NR_setsockopt, fd, level, name, (long)value, size));
}

// Without a tracer what is in the image has run on meanwhile, and must not end; criu is about to.
static void see_tracer(void)
{
	struct pollfd end = { tracers_end, POLLIN, 0 };
	struct timespec now = { 0, 0 };

	while (call(__NR_ppoll, (long)&end, 1, (long)&now, 0, 0) == 1)
		pause_for(999999999);
}

EXPORT int kill(pid_t pid, int number)
{
	if (number == SIGKILL && pid > 0 && undo_is_seized(undo_find(pid))) {
		if (!killing)
			see_tracer();
		killing = 1;
	}
	return (int)answer(call(__NR_kill, pid, number, 0, 0, 0));
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
	if (pid == -1 && bell >= 0 && undo_seized())
		return (pid_t)answer(wait_for_any(status, options, usage));
	if (pid > 0 && bell >= 0 && undo_is_seized(undo_find(pid)))
		return (pid_t)answer(wait_by_tracer(pid, status, options, usage));
	return (pid_t)answer(wait_for(pid, status, options, usage));
}

EXPORT pid_t waitpid(pid_t pid, int *status, int options)
{
	return wait4(pid, status, options, NULL);
}

// --- the tracer ---

static int tracer_bell, tracer_criu, tracer_events; // its end of the bell, a pidfd, SIGCHLD as a descriptor

struct socket {
	int fd; // a duplicate
	int peek; // whether SO_PEEK_OFF was about to be changed; else TCP_REPAIR, which also changes SO_REUSEADDR
	int before;
};

static struct socket sockets[MOST_SOCKETS];
static int n_sockets;

static void keep_socket(void)
{
	struct socket *s = &sockets[n_sockets];
	socklen_t size = sizeof s->before;

	job.result = 0;
	if (n_sockets == MOST_SOCKETS)
		return;
	s->fd = (int)call(__NR_fcntl, job.fd, F_DUPFD_CLOEXEC, FIRST_KEPT, 0, 0);
	s->peek = job.request == SO_PEEK_OFF;
	if (s->fd >= 0 && call(__NR_getsockopt, s->fd, SOL_SOCKET, s->peek ? SO_PEEK_OFF : SO_REUSEADDR, (long)&s->before,
			       (long)&size) == 0)
		n_sockets++;
}

static int in_repair(int fd)
{
	int on = 0;
	socklen_t size = sizeof on;

	return call(__NR_getsockopt, fd, IPPROTO_TCP, TCP_REPAIR, (long)&on, (long)&size) == 0 && on == 1;
}

static void set_option(int fd, int level, int name, int value)
{
	call(__NR_setsockopt, fd, level, name, (long)&value, sizeof value);
}

// What criu has put right itself is left alone. Backwards: the oldest value is the application's.
static void give_back_sockets(void)
{
	for (int i = n_sockets - 1; i >= 0; i--) {
		const struct socket *s = &sockets[i];

		if (s->peek && undo_seized())
			set_option(s->fd, SOL_SOCKET, SO_PEEK_OFF, s->before);
		if (!s->peek && in_repair(s->fd)) {
			set_option(s->fd, IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF);
			set_option(s->fd, SOL_SOCKET, SO_REUSEADDR, s->before);
		}
	}
}

// Waits as asked, but not longer than criu lives. Returns whether there is something to answer.
static int do_wait(void)
{
	struct pollfd events[] = { { tracer_events, POLLIN, 0 }, { tracer_criu, POLLIN, 0 } };
	char event[128]; // struct signalfd_siginfo
	int status = 0;

	for (;;) {
		job.result = wait_for(job.tid, &status, job.options | WNOHANG, job.data);
		if (job.result > 0 && !undo_waited((pid_t)job.result, &status))
			continue;
		if (job.result || job.options & WNOHANG)
			break;
		call(__NR_ppoll, (long)events, 2, 0, 0, 0);
		if (events[1].revents)
			return 0;
		call(__NR_read, tracer_events, (long)event, sizeof event, 0, 0);
	}
	if (job.result > 0 && job.address)
		*(int *)job.address = status;
	return 1;
}

// Does what criu asks for until criu has ended.
static void serve(void)
{
	struct pollfd events[] = { { tracer_bell, POLLIN, 0 }, { tracer_criu, POLLIN, 0 } };
	char byte;

	for (;;) {
		call(__NR_ppoll, (long)events, 2, 0, 0, 0);
		if (events[1].revents)
			return;
		if (!events[0].revents)
			continue;
		if (call(__NR_read, tracer_bell, (long)&byte, 1, 0, 0) != 1)
			return;
		if (job.what == TRACE)
			job.result = undo_trace(undo_find(job.tid), job.request, job.address, job.data);
		else if (job.what == KEEP)
			keep_socket();
		else if (!do_wait())
			return;
		call(__NR_write, tracer_bell, (long)&byte, 1, 0, 0);
	}
}

static int tracer(void *unused)
{
	(void)unused;
	serve();
	if (killing)
		undo_kill();
	else {
		give_back_sockets();
		undo_all();
	}
	done = 1;
	call(__NR_exit_group, 0, 0, 0, 0, 0);
	return 0;
}

static void wait_end(int pidfd)
{
	struct pollfd end = { pidfd, POLLIN, 0 };

	while (call(__NR_ppoll, (long)&end, 1, 0, 0, 0) != 1)
		;
}

// Does what can be done if the tracer is killed itself.
static int understudy(void *unused)
{
	(void)unused;
	wait_end(tracers_end);
	if (!done) {
		call(__NR_pidfd_send_signal, tracer_criu, SIGKILL, 0, 0, 0);
		if (killing)
			undo_kill();
		else {
			give_back_sockets();
			undo_after();
		}
		wait_end(tracer_criu);
	}
	call(__NR_exit_group, 0, 0, 0, 0, 0);
	return 0;
}

// The tracer may not have fewer files open than it shares with criu, which raises its own limit.
static void raise_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

// A table of descriptors that is shared grows after a grace period of RCU only (linux/fs/file.c, expand_fdtable), 10 to 20 ms
// for which the application would stand still. So it grows before.
static void make_room(int any)
{
	int fd = fcntl(any, F_DUPFD_CLOEXEC, ROOM - 1);

	if (fd >= 0)
		close(fd);
}

// Starts a process beside criu, whose memory and descriptors are the same. Returns its pid, or -1 with errno.
static pid_t start(int (*function)(void *), const char *name)
{
	char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigset_t all, before;
	pid_t pid;

	if (stack == MAP_FAILED)
		return -1;
	// What is sent to criu's process group is not for it; and handlers, which criu may set, are criu's.
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	// Whoever kills by the name of criu is not to hit it, so it has its name from birth.
	prctl(PR_SET_NAME, name);
	// criu's sibling: criu waits for all its children before it ends, and the zygote reaps its own.
	pid = clone(function, stack + STACK, CLONE_VM | CLONE_FILES | CLONE_PARENT | SIGCHLD, NULL);
	prctl(PR_SET_NAME, "criu");
	sigprocmask(SIG_SETMASK, &before, NULL);
	return pid;
}

int tracer_begin(void)
{
	int ends[2];
	sigset_t children;
	pid_t pid;

	if (undo_begin() < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return -1;
	raise_limit();
	make_room(ends[0]);
	tracer_bell = ends[1];
	tracer_criu = (int)call(__NR_pidfd_open, getpid(), 0, 0, 0, 0);
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	tracer_events = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
	if (tracer_criu < 0 || tracer_events < 0)
		return -1;
	pid = start(tracer, "zeropod:tracer");
	tracers_end = pid < 0 ? -1 : (int)call(__NR_pidfd_open, pid, 0, 0, 0, 0);
	if (tracers_end < 0 || start(understudy, "zeropod:second") < 0)
		return -1;
	bell = ends[0];
	return 0;
}

static int at_fork;

void tracer_begin_at_fork(void)
{
	at_fork = 1;
}

EXPORT pid_t fork(void)
{
	pid_t (*real)(void), pid;

	*(void **)&real = dlsym(RTLD_NEXT, "fork");
	pid = real();
	if (pid == 0 && at_fork) {
		at_fork = 0;
		if (tracer_begin() < 0)
			_exit(1);
	}
	return pid;
}
