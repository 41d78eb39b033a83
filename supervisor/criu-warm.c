// SPDX-License-Identifier: Apache-2.0
//
// Every worker is a fresh criu that looks at the machine before it does anything; what it sees is the same each time. Most of
// it comes from the cache that criu-doors.c serves. These two it does not keep there, 1 to 2 of some 12 ms:
//
// - the CPU's features. Each of 20 looks is an exit of a virtual machine. criu remembers them in a variable, which forks inherit.
// - where libc has its restartable sequence, to end it in what is restored. For that it traces a child that does nothing but
//   sleep, a copy of itself. The copy shares its memory now, which saves making it and ending it, and is asked nothing: it has
//   no sequence of its own then, and ours is where the zygote's is.

#define _GNU_SOURCE
#include "criu-warm.h"
#include <dlfcn.h>
#include <errno.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	STACK = 16 << 10,
};

static int (*real_clone)(int (*)(void *), void *, int, void *, ...);
static struct ptrace_rseq_configuration rseq;
static int knows_rseq;
static pid_t worker, sleeper;
static _Alignas(64) char stack[STACK];

static long trace(long request, pid_t pid, long address, void *data)
{
	return syscall(SYS_ptrace, request, pid, address, data);
}

static void look_at_cpu(void)
{
	int (*has_feature)(unsigned);

	*(void **)&has_feature = dlsym(RTLD_DEFAULT, "compel_cpu_has_feature");
	if (has_feature)
		has_feature(0);
}

// As criu does it, once.
static void look_at_rseq(void)
{
	pid_t child = fork();

	if (child == 0)
		for (;;)
			pause();
	if (child < 0)
		return;
	if (trace(PTRACE_SEIZE, child, 0, NULL) == 0 && trace(PTRACE_INTERRUPT, child, 0, NULL) == 0 &&
	    waitpid(child, NULL, __WALL) == child)
		knows_rseq = trace(PTRACE_GET_RSEQ_CONFIGURATION, child, sizeof rseq, &rseq) == sizeof rseq;
	kill(child, SIGKILL);
	waitpid(child, NULL, __WALL);
}

void warm_up(void)
{
	look_at_cpu();
	*(void **)&real_clone = dlsym(RTLD_NEXT, "clone");
	if (real_clone)
		look_at_rseq();
}

void warm_worker(void)
{
	worker = getpid();
}

long warm_rseq(pid_t pid, void *answer, size_t size)
{
	if (sleeper <= 0 || pid != sleeper || size != sizeof rseq)
		return 0;
	sleeper = -1; // it is asked once; its number may be a thread's of the application later
	memcpy(answer, &rseq, sizeof rseq);
	return sizeof rseq;
}

__attribute__((visibility("default"))) int clone(int (*function)(void *), void *top, int flags, void *argument, ...)
{
	va_list list;
	void *parent_tid, *tls, *child_tid;
	int pid, sleeps = knows_rseq && !sleeper && flags == (CLONE_UNTRACED | SIGCHLD) && worker && getpid() == worker;

	if (!real_clone)
		*(void **)&real_clone = dlsym(RTLD_NEXT, "clone");
	va_start(list, argument);
	parent_tid = va_arg(list, void *);
	tls = va_arg(list, void *);
	child_tid = va_arg(list, void *);
	va_end(list);
	if (sleeps) {
		flags |= CLONE_VM;
		top = stack + STACK; // criu's is in a frame of its own, which a copy of its memory would not disturb
	}
	pid = real_clone(function, top, flags, argument, parent_tid, tls, child_tid);
	if (sleeps && pid > 0)
		sleeper = pid;
	return pid;
}
