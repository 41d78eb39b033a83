// SPDX-License-Identifier: Apache-2.0
//
// zeropod-init: PID 1 of a managed container.
//
// A runtime reports a container as exited when its first process exits. This is that process, and it does not exit while
// the application is checkpointed: it starts the application, reaps, forwards signals and ends with the application's
// status. It has no libc and no heap, because every container pays for it: a few pages of private memory is all it has.
//
//   /.zeropod/init -- ARGV...
//
// States, published as the process name (/proc/PID/comm) so that `ps`, the daemon and a restarted daemon read one truth:
//
//   zeropod:run     the application runs
//   zeropod:armed   a checkpoint is being taken: a SIGKILL death of the application is expected, any other is its end
//   zeropod:asleep  the image is committed, there is no application
//   zeropod:ending  the application is being ended on purpose: its death, however it comes, does not end the container
//   zeropod:off     it has ended so; there is no application and no image, and START makes a new one
//   zeropod:frozen  the application is, or is about to be, frozen in its cgroup
//
// Orders are real-time signals. They are believed only from root outside the container's pid namespace (SI_USER with sender
// pid 0), which nothing inside can send: kill() from inside carries a pid and rt_sigqueueinfo() refuses SI_USER. (A tree
// that exhausts RLIMIT_SIGPENDING makes the kernel drop the sender, pid 0 again; all it can reach is its own end.) Two
// pending signals come lowest number first, not in order of sending, so a sender waits for the name to change in between.
//
//   57 FREEZE  run -> frozen
//   58 END     run -> ending; when ending, renews the lease. After the lease without a death: back to run
//   59 ARM     run -> armed; when armed, renews the lease. After the lease without another word: back to run
//   60 ASLEEP  armed -> asleep, as soon as the application's SIGKILL death has been seen; that status is forgotten
//   61 RESUME  armed, asleep, ending or frozen -> run, if the application's pid is a living child; else exit with the
//              status that it died with since, or 71 when there is none
//   62 FAIL    exit 71, so that whoever watches the container starts it again
//   63 START   asleep or off -> run with the application started afresh
//   64 HURRY   no change of state: from now on a stop signal ends the container with 0 when the application is away
//
// Every other signal goes to the application. With no application to take it, it is kept, and the wake file is opened: the
// daemon watches that file with a fanotify permission mark and refuses the open (EPERM) for "heard, you will be woken".
// An open that succeeds means that nobody listens: then a stop signal ends the container with 0. So it does in off, where
// nothing is left that could be shut down in order; what is no stop signal is meant for nobody then, and dropped.
// Stop signals are those that images name as StopSignal: TERM by default, INT (postgres), QUIT (nginx), WINCH (httpd).
//
// Exit statuses of our own: 64 usage, 71 FAIL or a broken RESUME, 126 and 127 cannot execute (as a shell has it).
//
// System calls, all in containerd's default seccomp profile: clone, clock_gettime, close, close_range, execve, exit_group,
// getpid, kill, openat, prctl, prlimit64, rt_sigaction, rt_sigprocmask, rt_sigqueueinfo, rt_sigtimedwait, setsid, wait4,
// writev. /proc is not needed.

#include "bare-call.h"

#include <asm/errno.h>
#include <asm/siginfo.h>
#include <asm/signal.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/time_types.h>
#include <linux/uio.h>
#include <linux/wait.h>

#ifndef LEASE_SECONDS
#define LEASE_SECONDS 30 // longer than any dump may freeze an application; the daemon renews it when a dump takes longer
#endif
#define WAKE_FILE "/.zeropod/wake"

enum { FREEZE = 57, END = 58, ARM = 59, ASLEEP = 60, RESUME = 61, FAIL = 62, START = 63, HURRY = 64, LAST_SIGNAL = 64 };
enum { USAGE = 64, FAILED = 71, CANNOT_EXECUTE = 126, NOT_FOUND = 127 };

typedef unsigned long sigset; // the kernel's 64 signals
#define BIT(signo) (1UL << ((signo) - 1))
#define EVERY (~0UL)
#define ORDERS (BIT(FREEZE) | BIT(END) | BIT(ARM) | BIT(ASLEEP) | BIT(RESUME) | BIT(FAIL) | BIT(START) | BIT(HURRY))
#define STOPS (BIT(SIGTERM) | BIT(SIGINT) | BIT(SIGQUIT) | BIT(SIGWINCH))

#define SECOND 1000000000LL
#define REAP_BATCH 128 // so that a storm of orphans cannot keep a signal waiting
#define ASK_FIRST SECOND // the daemon may have died after it heard us: ask again, ever more seldom
#define ASK_LAST (32 * SECOND)

// --- the kernel ---

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n\thlt\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tand sp, x0, #-16\n\tb begin\n");
#else
#error "unknown architecture"
#endif

#define CALL(n, a, b, c, d) call(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), 0)

// What the kernel takes as struct sigaction when no handler is set: SIG_DFL, no flags, no restorer, no mask.
static const struct {
	unsigned long handler, flags, restorer, mask;
} by_default;

static void leave(int status) __attribute__((noreturn));
static void leave(int status)
{
	for (;;)
		CALL(exit_group, status, 0, 0, 0);
}

static long long now(void)
{
	struct __kernel_timespec t = { 0, 0 };

	CALL(clock_gettime, 1 /* CLOCK_MONOTONIC */, &t, 0, 0);
	return t.tv_sec * SECOND + t.tv_nsec;
}

// Takes one pending signal of the set. A timeout below zero waits for ever. Returns its number, or a negative errno.
static long take(sigset set, siginfo_t *info, long long timeout)
{
	struct __kernel_timespec t = { timeout / SECOND, timeout % SECOND };

	return CALL(rt_sigtimedwait, &set, info, timeout < 0 ? 0 : &t, sizeof set);
}

static void mask(sigset set, sigset *old)
{
	CALL(rt_sigprocmask, SIG_SETMASK, &set, old, sizeof set);
}

static unsigned long length(const char *s)
{
	unsigned long n = 0;

	while (s[n])
		n++;
	return n;
}

static void say(const char *a, const char *b, const char *c)
{
	static const char name[] = "zeropod-init: ";
	const struct iovec parts[] = {
		{ (void *)name, sizeof name - 1 },
		{ (void *)a, length(a) },
		{ (void *)b, length(b) },
		{ (void *)c, length(c) },
		{ (void *)"\n", 1 },
	};

	CALL(writev, 2, parts, sizeof parts / sizeof *parts, 0);
}

// --- the application ---

static char **argv, **environment;
static sigset inherited; // the signal mask that the runtime gave us and the application gets
static int application; // its pid, also while it is checkpointed: it comes back under the same

static const char *why(long error)
{
	switch (error) {
	case ENOENT:
		return "not found";
	case EACCES:
	case EPERM:
		return "permission denied";
	case ENOEXEC:
		return "exec format error";
	case ENOTDIR:
		return "not a directory";
	case E2BIG:
		return "argument list too long";
	case ENOMEM:
		return "out of memory";
	default:
		return "cannot be executed";
	}
}

// The value of PATH; of several the last, as runc has it.
static const char *search_path(void)
{
	const char *found = 0;

	for (char **e = environment; *e; e++)
		if ((*e)[0] == 'P' && (*e)[1] == 'A' && (*e)[2] == 'T' && (*e)[3] == 'H' && (*e)[4] == '=')
			found = *e + 5;
	return found;
}

// Executes DIRECTORY/NAME. Returns the errno; a path that is too long cannot be there.
static long execute_in(const char *directory, unsigned long n, const char *name)
{
	char path[4096];
	unsigned long m = length(name);

	if (n + m + 2 > sizeof path)
		return ENOENT;
	for (unsigned long i = 0; i < n; i++)
		path[i] = directory[i];
	if (n)
		path[n++] = '/';
	for (unsigned long i = 0; i <= m; i++)
		path[n + i] = name[i];
	return -CALL(execve, path, argv, environment, 0);
}

// Executes the application as runc would have: a name without a slash is looked for in PATH. Returns the errno to report.
static long execute(void)
{
	const char *name = argv[0], *path = search_path();
	long error = ENOENT;

	for (const char *c = name; *c; c++)
		if (*c == '/')
			return -CALL(execve, name, argv, environment, 0);
	if (!*name || !path)
		return ENOENT;
	for (;;) {
		unsigned long n = 0;

		while (path[n] && path[n] != ':')
			n++;
		long e = execute_in(path, n, name);
		if (e != ENOENT && e != ENOTDIR)
			error = e; // found but refused: look on, and say this if nothing better comes
		if (!path[n])
			return error;
		path += n + 1;
	}
}

// What runs in the new process until the application's own program does.
static void become_application(void) __attribute__((noreturn));
static void become_application(void)
{
	for (int s = 1; s <= LAST_SIGNAL; s++)
		CALL(rt_sigaction, s, &by_default, 0, sizeof(sigset));
	CALL(setsid, 0, 0, 0, 0);
	// Daemonised children stay in the application's tree, where a checkpoint finds them. The attribute survives exec.
	CALL(prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0);
	mask(inherited, 0); // a signal that came early ends it here
	long error = execute();
	say(argv[0], ": ", why(error));
	leave(error == ENOENT ? NOT_FOUND : CANNOT_EXECUTE);
}

// Starts the application. CLONE_VFORK returns when it has executed or ended, so nobody ever sees a child of ours that is
// still a copy of us.
static void start(void)
{
	long pid = CALL(clone, CLONE_VFORK | SIGCHLD, 0, 0, 0);

	if (pid == 0)
		become_application();
	if (pid < 0) {
		say(argv[0], ": cannot fork: ", why(-pid));
		leave(CANNOT_EXECUTE);
	}
	application = (int)pid;
}

// What the runtime passed beyond stdio is the application's alone: held here too, a pipe would never see its end.
static void close_the_rest(void)
{
	struct rlimit64 limit = { 1024, 1024 };

	if (CALL(close_range, 3, ~0U, 0, 0) == 0)
		return;
	CALL(prlimit64, 0, RLIMIT_NOFILE, 0, &limit);
	for (unsigned long fd = 3; fd < limit.rlim_cur && fd < 65536; fd++)
		CALL(close, fd, 0, 0, 0);
}

// --- the state ---

// A daemon that is newer than this container's supervisor reads from it which orders it may give: any other signal would
// be the application's.
static const char orders[] __attribute__((used)) = "zeropod-init takes 57-64";

static enum state { RUNNING, ARMED, SLEEPING, ENDING, OFF, FROZEN } state;
static int dead; // the application died while its death does not end the container,
static int status; // with this wait status
static int sleep_ordered; // ASLEEP came before the death it tells about
static int hurried; // a stop signal without an application ends the container
static long long lease; // of armed and ending

static sigset kept; // signals that wait for the application, the first of each number here, the others in the kernel's queue
static siginfo_t kept_info[LAST_SIGNAL + 1];
static long long ask_at, ask_pause;

static void publish(const char *name)
{
	CALL(prctl, PR_SET_NAME, name, 0, 0);
}

static void leave_with(int wait_status) __attribute__((noreturn));
static void leave_with(int wait_status)
{
	leave(wait_status & 0x7f ? 128 + (wait_status & 0x7f) : (wait_status >> 8) & 0xff);
}

static void forward(int signo, const siginfo_t *info)
{
	// A queued signal keeps its value. The kernel refuses what only it or kill() may say; then the number has to do.
	if (info->si_code < 0 && CALL(rt_sigqueueinfo, application, signo, info, 0) == 0)
		return;
	CALL(kill, application, signo, 0, 0);
}

static void run(void)
{
	state = RUNNING;
	dead = 0;
	sleep_ordered = 0;
	publish("zeropod:run");
	for (int s = 1; kept; s++)
		if (kept & BIT(s)) {
			kept &= ~BIT(s);
			forward(s, &kept_info[s]);
		}
}

static void fall_asleep(void)
{
	state = SLEEPING;
	dead = 0;
	sleep_ordered = 0;
	publish("zeropod:asleep");
}

static void go_off(void)
{
	state = OFF;
	application = 0; // whoever gets its number is somebody else
	publish("zeropod:off");
}

static void died(int wait_status)
{
	if (state == RUNNING || state == FROZEN || (state == ARMED && (wait_status & 0x7f) != SIGKILL))
		leave_with(wait_status);
	if (state == ENDING) {
		go_off();
		return;
	}
	dead = 1;
	status = wait_status;
	if (sleep_ordered)
		fall_asleep();
}

// Collects dead children. Returns whether there may be more.
static int reap(void)
{
	for (int i = 0; i < REAP_BATCH; i++) {
		int wait_status = 0;
		long pid = CALL(wait4, -1, &wait_status, WNOHANG | __WALL, 0);

		if (pid <= 0)
			return 0;
		if (pid == application)
			died(wait_status);
	}
	return 1;
}

static void resume(void)
{
	int wait_status = 0;
	long pid = CALL(wait4, application, &wait_status, WNOHANG | __WALL, 0);

	if (pid > 0)
		leave_with(wait_status);
	if (pid == 0) {
		run();
		return;
	}
	if (dead)
		leave_with(status);
	say("the application did not come back", "", "");
	leave(FAILED);
}

// From run to a state that a lease bounds, or its renewal.
static void enter(enum state wanted, const char *name)
{
	if (state != RUNNING && state != wanted)
		return;
	lease = now() + LEASE_SECONDS * SECOND;
	if (state == wanted)
		return;
	state = wanted;
	publish(name);
}

static void obey(int order)
{
	switch (order) {
	case FREEZE:
		if (state != RUNNING)
			break;
		state = FROZEN;
		publish("zeropod:frozen");
		break;
	case END:
		enter(ENDING, "zeropod:ending");
		break;
	case ARM:
		enter(ARMED, "zeropod:armed");
		break;
	case ASLEEP:
		if (state != ARMED)
			break;
		// criu does not wait for the tree that it kills, so the order can be here first. It is obeyed when the death is.
		sleep_ordered = 1;
		if (dead)
			fall_asleep();
		break;
	case RESUME:
		if (state != RUNNING && state != OFF)
			resume();
		break;
	case START:
		if (state != SLEEPING && state != OFF)
			break;
		start();
		run();
		break;
	case HURRY:
		hurried = 1;
		if (kept & STOPS) // of two that are pending the lower number comes first
			leave(0);
		break;
	default:
		leave(FAILED);
	}
}

// For a signal that has no application to go to.
static void keep(int signo, const siginfo_t *info)
{
	if (BIT(signo) & STOPS && (hurried || state == OFF))
		leave(0);
	if (state == OFF)
		return;
	if (!(kept & BIT(signo))) {
		kept |= BIT(signo);
		__builtin_memcpy(&kept_info[signo], info, sizeof *info);
	}
	ask_at = 0;
	ask_pause = ASK_FIRST;
}

// Asks to be woken for the signals that are kept.
static void ask(void)
{
	long fd = CALL(openat, AT_FDCWD, WAKE_FILE, O_RDONLY | O_CLOEXEC, 0);

	if (fd >= 0)
		CALL(close, fd, 0, 0, 0);
	if (fd != -EPERM && kept & STOPS)
		leave(0);
	ask_at = now() + ask_pause;
	if (ask_pause < ASK_LAST)
		ask_pause *= 2;
}

// Does what has become due. Returns which signals to wait for, and for how long.
static sigset due(long long *timeout)
{
	long long t;

	*timeout = -1;
	if (state == RUNNING || state == OFF)
		return EVERY;
	t = now();
	if ((state == ARMED || state == ENDING) && t < lease) {
		// Signals stay in the kernel's queue: one sent now could fall between the image and the kill.
		*timeout = lease - t;
		return ORDERS | BIT(SIGCHLD);
	}
	if (state == ENDING || (state == ARMED && !dead)) {
		run();
		return EVERY;
	}
	if (kept) {
		if (t >= ask_at)
			ask();
		t = now();
		*timeout = ask_at > t ? ask_at - t : 0;
	}
	return (EVERY & ~kept) | ORDERS | BIT(SIGCHLD);
}

static int is_order(int signo, const siginfo_t *info)
{
	return ORDERS & BIT(signo) && info->si_code == SI_USER && info->si_pid == 0 && info->si_uid == 0;
}

static void watch(void) __attribute__((noreturn));
static void watch(void)
{
	for (;;) {
		int more = reap();
		long long timeout;
		sigset set = due(&timeout);
		siginfo_t info;
		// SIGCHLD last: in a storm it is always pending, and its number is low.
		long signo = take(set & ~BIT(SIGCHLD), &info, 0);

		if (signo <= 0)
			signo = take(set, &info, more ? 0 : timeout);
		if (signo <= 0 || (signo == SIGCHLD && info.si_code > 0))
			continue;
		if (is_order((int)signo, &info))
			obey((int)signo);
		else if (state == RUNNING)
			forward((int)signo, &info);
		else
			keep((int)signo, &info);
	}
}

void begin(long *stack) __attribute__((noreturn, used));
void begin(long *stack)
{
	long argc = stack[0];
	char **arguments = (char **)(stack + 1);

	mask(EVERY, &inherited); // first of all: PID 1 loses what comes before
	if (CALL(getpid, 0, 0, 0, 0) != 1) {
		say("must be process 1 of a container", "", "");
		leave(USAGE);
	}
	if (argc < 3 || arguments[1][0] != '-' || arguments[1][1] != '-' || arguments[1][2]) {
		say("usage: /.zeropod/init -- PROGRAM [ARGUMENT...]", "", "");
		leave(USAGE);
	}
	argv = arguments + 2;
	environment = arguments + argc + 1;
	// Inherited as ignored it would throw our children's statuses away.
	CALL(rt_sigaction, SIGCHLD, &by_default, 0, sizeof(sigset));
	start();
	close_the_rest();
	run();
	watch();
}

// The compiler may call these for assignments and loops, with or without a libc.
void *memcpy(void *restrict to, const void *restrict from, unsigned long n);
void *memcpy(void *restrict to, const void *restrict from, unsigned long n)
{
	char *t = to;
	const char *f = from;

	while (n--)
		*t++ = *f++;
	return to;
}

void *memset(void *to, int byte, unsigned long n);
void *memset(void *to, int byte, unsigned long n)
{
	char *t = to;

	while (n--)
		*t++ = (char)byte;
	return to;
}
