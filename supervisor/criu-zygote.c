// SPDX-License-Identifier: Apache-2.0
//
// A fork server inside criu: linked once on the host, then one fork for each dump and restore.
//
// Preloaded (`ld.so --preload zygote.so criu ARGV...`), its constructor runs after everything has been linked and does not
// return in the process that was started, the zygote. It returns in a worker: a fork that has joined a container and goes on
// into criu's main with the zygote's ARGV. So nothing is ever linked or looked up inside a container, where a file such as
// /etc/ld.so.preload would be executed as the node's root.
//
// Environment (removed before criu sees it):
//   CRIU_ZYGOTE_FD        a listening unix socket, SOCK_SEQPACKET; without it the library does nothing
//   CRIU_KDAT             criu's cache of kernel features, made on the host; every worker reads it instead of /run/criu.kdat
//   CRIU_ZYGOTE_GUARD     if set, each worker (a page daemon) gets a guardian
//   CRIU_ZYGOTE_SELFTEST  if set, test the interposition and exit, 0 or 70
//
// A request is one connection and one message: a string of kinds, and one descriptor for each:
//   r  rpc socket, becomes descriptor 3            c  cgroup.procs (v1), joined by the worker before anything else
//   d  image directory, becomes descriptor 4       g  cgroup directory (v2), the worker is created in it
//   i  becomes descriptor 5, 6, ... in order       n  namespace      m  mount namespace, entered last
//   u  (any descriptor) what criu does to the processes that it dumps is undone if it is killed, see criu-tracer.c
//   f  (any descriptor) the same for what the first process does that criu forks, in a pre-dump
// The answer is 13 bytes, packed little-endian: u8 step, i32 errno, i32 pid, i32 guardian's pid, both as the host sees them.
// Step 0 is success and carries a pidfd of the worker; any other names what failed (enum step) and no worker exists. The end
// of the connection without an answer means that the worker was killed, with its container say, before it could give one.
//
// A guardian is its page daemon's parent and outlives ours. It keeps the connection and holds the descriptors that messages
// of kinds "hh..." bring (duplicates of userfaultfds: while one is open, an application whose page daemon died blocks
// instead of reading zeros), answering 'k'. When the page daemon ends, it writes the exit status to lazy.status in the image
// directory and makes that read-only after 0; then it exits, otherwise it holds on until it is killed.
//
// The process stays out of reach of the containers it enters: not dumpable from the start, so that /proc/PID/{root,fd} of a
// worker opens for nobody but the node's root.

#define _GNU_SOURCE
#include "criu-doors.h"
#include "criu-tracer.h"
#include "criu-warm.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	EXIT_SYSTEM = 71,
	EXIT_CONFIG = 78,
	MOST_FDS = 48, // in one message
	FIRST_INHERITED = 5,
	OURS = 64, // our own descriptors are from here on; those below are for criu (5 + MOST_FDS + 2 < 64)
	MOST_CLIENTS = 64,
};

enum step { // what failed; the value is part of the protocol
	STEP_NONE,
	STEP_REQUEST, // malformed, or a kind that is not known: ignored, it would restore outside a cgroup, say
	STEP_PID_NAMESPACE,
	STEP_CLONE, // EAGAIN: pids.max; EBUSY: cgroup is not a leaf; ENODEV: cgroup is gone; ENOMEM: pid namespace is dead
	STEP_CGROUP,
	STEP_NAMESPACE,
	STEP_MOUNT_NAMESPACE,
	STEP_DESCRIPTORS,
	STEP_PIDFD,
	STEP_UNDO,
	STEPS
};

static const char *const step_names[STEPS] = {
	"none",	   "request",	      "pid namespace", "clone", "cgroup",
	"namespace", "mount namespace", "descriptors",   "pidfd", "undo",
};

static void die(int status, const char *what, const char *which) __attribute__((noreturn));
static void die(int status, const char *what, const char *which)
{
	dprintf(2, "zygote: %s %s: %s\n", what, which, strerror(errno));
	_exit(status);
}

// --- requests ---

struct request {
	int n;
	char kinds[MOST_FDS + 1]; // one more than allowed, so that too many is seen
	int fds[MOST_FDS + 1];
	int pid_namespace, mount_namespace, cgroup; // of fds, or -1
};

static struct pollfd clients[1 + MOST_CLIENTS]; // the first is the listening socket
static int n_clients = 1;
static int most_clients = 1; // so that what a request brings finds room
static int own_pid_namespace = -1;
static int guarded;

static void close_all(struct request *r)
{
	for (int i = 0; i < r->n; i++)
		close(r->fds[i]);
	r->n = 0;
}

// Receives one message. Returns the number of its bytes, 0 at the end of the connection, -1 with errno. A message whose
// descriptors do not match its kinds is EBADMSG.
static ssize_t receive(int connection, struct request *r)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof r->fds)];
	} control;
	struct iovec io = { r->kinds, sizeof r->kinds };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	ssize_t n = recvmsg(connection, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	r->n = 0;
	if (n < 0)
		return -1;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		int more = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(r->fds + r->n, CMSG_DATA(c), more * sizeof(int));
		r->n += more;
	}
	if (n && (n != r->n || n > MOST_FDS || m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
		close_all(r);
		errno = EBADMSG;
		return -1;
	}
	return n;
}

// Sorts a request's descriptors. Returns 0 or an errno.
static int understand(struct request *r)
{
	int rpc = 0, directory = 0;

	r->pid_namespace = r->mount_namespace = r->cgroup = -1;
	for (int i = 0; i < r->n; i++) {
		int type = 0, *single = NULL;

		switch (r->kinds[i]) {
		case 'r':
			if (rpc++)
				return EINVAL;
			break;
		case 'd':
			if (directory++)
				return EINVAL;
			break;
		case 'i':
		case 'c':
		case 'u':
		case 'f':
			break;
		case 'g':
			single = &r->cgroup;
			break;
		case 'm':
		case 'n':
			type = ioctl(r->fds[i], NS_GET_NSTYPE);
			if (type < 0 || type == CLONE_NEWUSER || (type == CLONE_NEWNS) != (r->kinds[i] == 'm'))
				return EINVAL;
			if (type == CLONE_NEWNS)
				single = &r->mount_namespace;
			if (type == CLONE_NEWPID)
				single = &r->pid_namespace;
			break;
		default:
			return EINVAL;
		}
		if (single && *single >= 0)
			return EINVAL;
		if (single)
			*single = r->fds[i];
	}
	// A guardian writes into the directory, and must be the parent itself.
	return guarded && (!directory || r->cgroup >= 0) ? EINVAL : 0;
}

static void answer(int connection, enum step step, int error, int pid, int guardian, int pidfd)
{
	struct __attribute__((packed)) {
		uint8_t step;
		int32_t error, pid, guardian;
	} body = { step, error, pid, guardian };
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .header = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	struct iovec io = { &body, sizeof body };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1 };

	if (pidfd >= 0) {
		memcpy(CMSG_DATA(&control.header), &pidfd, sizeof pidfd);
		m.msg_control = &control;
		m.msg_controllen = sizeof control;
	}
	// A client that has gone does not want to know.
	sendmsg(connection, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (step)
		dprintf(2, "zygote: %s: %s\n", step_names[step], strerror(error));
}

// --- the worker ---

static void fail(int connection, enum step step) __attribute__((noreturn));
static void fail(int connection, enum step step)
{
	answer(connection, step, errno, 0, 0, -1);
	_exit(EXIT_SYSTEM);
}

// Our pid as the host sees it: its /proc tells, whatever pid namespace we were born in.
static int host_pid(void)
{
	char digits[16] = "";

	return readlink("/proc/self", digits, sizeof digits - 1) > 0 ? atoi(digits) : 0;
}

// Puts criu's descriptors in their places and closes everything else, the zygote's sockets and all its clients included.
// Only the connection and the pidfd remain, as the returned number and the next.
static int arrange(const struct request *r, int connection, int pidfd)
{
	int next = FIRST_INHERITED, has_rpc = 0, has_directory = 0;

	for (int i = 0; i < r->n; i++) {
		int to;

		if (r->kinds[i] == 'r')
			to = 3, has_rpc = 1;
		else if (r->kinds[i] == 'd')
			to = 4, has_directory = 1;
		else if (r->kinds[i] == 'i')
			to = next++;
		else
			continue;
		if (dup2(r->fds[i], to) < 0)
			fail(connection, STEP_DESCRIPTORS);
	}
	if (!has_rpc)
		close(3);
	if (!has_directory)
		close(4);
	if (dup2(connection, next) < 0 || dup2(pidfd, next + 1) < 0 || close_range(next + 2, ~0U, 0) < 0)
		fail(connection, STEP_DESCRIPTORS);
	return next;
}

// Joins the container, but for the pid namespace, which it was born in.
static void become_criu(const struct request *r, int connection, int guardian)
{
	int pid = host_pid(), pidfd;

	prctl(PR_SET_NAME, "criu");
	signal(SIGCHLD, SIG_DFL); // criu waits for its children
	signal(SIGPIPE, SIG_DFL);
	for (int i = 0; i < r->n; i++)
		if (r->kinds[i] == 'c' && write(r->fds[i], "0", 1) < 0)
			fail(connection, STEP_CGROUP);
	for (int i = 0; i < r->n; i++)
		if (r->kinds[i] == 'n' && r->fds[i] != r->pid_namespace && setns(r->fds[i], 0) < 0)
			fail(connection, STEP_NAMESPACE);
	if (r->mount_namespace >= 0 && (setns(r->mount_namespace, CLONE_NEWNS) < 0 || chdir("/") < 0))
		fail(connection, STEP_MOUNT_NAMESPACE);
	pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (pidfd < 0)
		fail(connection, STEP_PIDFD);
	connection = arrange(r, connection, pidfd);
	if (memchr(r->kinds, 'u', r->n) && tracer_begin() < 0)
		fail(connection, STEP_UNDO);
	if (memchr(r->kinds, 'f', r->n))
		tracer_begin_at_fork();
	answer(connection, STEP_NONE, 0, pid, guardian, connection + 1);
	close(connection);
	close(connection + 1);
}

// Creates the worker, born in the container's pid namespace: only children enter one, so we point ours there and back
// again. libc's fork, because libc keeps things of the process (the thread's id) that its fork puts right in the child and
// a bare clone does not. Returns its pid, 0 in the worker, or -1 after having answered.
static pid_t create_worker(const struct request *r, int connection, int guardian)
{
	pid_t pid;
	int error;

	if (r->pid_namespace >= 0 && setns(r->pid_namespace, CLONE_NEWPID) < 0) {
		answer(connection, STEP_PID_NAMESPACE, errno, 0, 0, -1);
		return -1;
	}
	pid = fork();
	error = errno;
	if (pid == 0) {
		become_criu(r, connection, guardian);
		return 0;
	}
	if (r->pid_namespace >= 0 && setns(own_pid_namespace, CLONE_NEWPID) < 0)
		die(EXIT_SYSTEM, "cannot return to", "our pid namespace"); // the next worker would land in a stranger's
	if (pid < 0)
		answer(connection, STEP_CLONE, error, 0, 0, -1);
	return pid;
}

// The same by way of a process that starts life in the cgroup: no migration, hence no wait for the kernel's
// cgroup_threadgroup_rwsem. What is stale of libc's in that process does not matter, it only forks and ends; the worker
// then comes to us, the subreaper.
static pid_t create_in_cgroup(const struct request *r, int connection)
{
	struct clone_args arguments = {
		.flags = CLONE_INTO_CGROUP,
		.cgroup = (unsigned)r->cgroup,
		.exit_signal = SIGCHLD,
	};
	pid_t pid = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);

	if (pid < 0)
		answer(connection, STEP_CLONE, errno, 0, 0, -1);
	if (pid)
		return pid;
	pid = create_worker(r, connection, 0);
	if (pid)
		_exit(0);
	return 0;
}

// --- the guardian ---

// The file's permissions tell the good end, since they can be changed on a full disk; the number is for people.
static void write_status(int directory, int status)
{
	char text[16];
	int n = snprintf(text, sizeof text, "%d\n", status);
	int fd = openat(directory, "lazy.status", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd >= 0 && status == 0)
		fchmod(fd, 0400);
	if (fd < 0 || write(fd, text, n) != n || fsync(fd) < 0 || fsync(directory) < 0)
		dprintf(2, "zygote: lazy.status (%d): %s\n", status, strerror(errno));
	if (fd >= 0)
		close(fd);
}

// Takes one message of descriptors to hold. Returns whether the connection goes on.
static int hold(int connection)
{
	struct request r;
	ssize_t n = receive(connection, &r);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR && errno != EBADMSG))
		return 0;
	if (n > 0 && (ssize_t)strspn(r.kinds, "h") < n) {
		close_all(&r);
		n = -1;
	}
	send(connection, n > 0 ? "k" : "?", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	return 1;
}

static void guard(pid_t page_daemon, int connection, int directory) __attribute__((noreturn));
static void guard(pid_t page_daemon, int connection, int directory)
{
	struct pollfd events[2] = {
		{ (int)syscall(SYS_pidfd_open, page_daemon, 0), POLLIN, 0 },
		{ connection, POLLIN, 0 },
	};

	for (;;) {
		int status;

		if (poll(events, 2, -1) < 0)
			continue;
		if (events[1].revents && !hold(connection)) {
			close(connection); // the daemon has gone; its successor reads lazy.status
			events[1].fd = -1;
		}
		if (!events[0].revents || waitpid(page_daemon, &status, 0) < 0)
			continue;
		status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		write_status(directory, status);
		if (status == 0)
			_exit(0);
		events[0].fd = -1;
	}
}

// Forks a guardian, which forks the worker. Returns 0 in the worker and not at all in the guardian.
static pid_t create_guarded(const struct request *r, int connection)
{
	pid_t pid = fork();

	if (pid < 0)
		answer(connection, STEP_CLONE, errno, 0, 0, -1);
	if (pid)
		return pid;
	signal(SIGCHLD, SIG_DFL); // it has somebody to wait for
	prctl(PR_SET_NAME, "criu-guardian");
	pid = create_worker(r, connection, getpid());
	if (pid == 0)
		return 0;
	if (pid < 0)
		_exit(EXIT_SYSTEM);
	dup2(r->fds[strcspn(r->kinds, "d")], 3);
	dup2(connection, 4);
	close_range(5, ~0U, 0);
	guard(pid, 4, 3);
}

// --- the zygote ---

static void drop_client(int i)
{
	close(clients[i].fd);
	clients[i] = clients[--n_clients];
}

// There are no more descriptors: the oldest client that says nothing gives its own. Without one we wait for others' to go.
static void make_room(void)
{
	if (n_clients > 1)
		drop_client(1);
	else
		poll(NULL, 0, 20);
}

static void accept_client(void)
{
	struct ucred peer;
	socklen_t size = sizeof peer;
	int fd = accept4(clients[0].fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0) {
		if (errno == EBADF || errno == EINVAL || errno == ENOTSOCK || errno == EOPNOTSUPP)
			die(EXIT_SYSTEM, "cannot accept on", "CRIU_ZYGOTE_FD");
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			make_room(); // it is still there for poll
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != 0) {
		close(fd);
		return;
	}
	while (n_clients > most_clients)
		drop_client(1); // the oldest ones that say nothing make room
	clients[n_clients++] = (struct pollfd){ fd, POLLIN, 0 };
}

// Handles what a client sent. Returns whether we are the worker now. Nothing here waits for a client or for a worker.
static int serve_client(int i)
{
	struct request r;
	int connection = clients[i].fd;
	ssize_t n = receive(connection, &r);
	int error = n < 0 ? errno : understand(&r);
	pid_t pid;

	if (n < 0 && (error == EAGAIN || error == EINTR))
		return 0;
	if (n > 0 && !error) {
		if (guarded)
			pid = create_guarded(&r, connection);
		else if (r.cgroup >= 0)
			pid = create_in_cgroup(&r, connection);
		else
			pid = create_worker(&r, connection, 0);
		if (pid == 0)
			return 1;
	} else if (n > 0 || error == EBADMSG)
		answer(connection, STEP_REQUEST, error, 0, 0, -1);
	close_all(&r);
	drop_client(i);
	return 0;
}

// Serves until we are a worker.
static void serve(void)
{
	for (;;) {
		if (poll(clients, n_clients, -1) < 0)
			continue;
		if (clients[0].revents)
			accept_client();
		// Also those just accepted: the request is usually there already. Backwards, because dropping moves the last.
		for (int i = n_clients - 1; i > 0; i--)
			if (serve_client(i))
				return;
	}
}

static int above(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, OURS);

	if (copy < 0)
		die(EXIT_SYSTEM, "cannot keep", "a descriptor");
	close(fd);
	return copy;
}

static void count_descriptors(void)
{
	struct rlimit files;
	long left = getrlimit(RLIMIT_NOFILE, &files) == 0 ? (long)files.rlim_cur - OURS - MOST_FDS - 4 : 0;

	if (left > 1)
		most_clients = left < MOST_CLIENTS ? (int)left : MOST_CLIENTS;
}

static void read_kdat(const char *path)
{
	struct stat file;
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	char *bytes;

	if (!path)
		errno = EINVAL;
	if (fd < 0 || fstat(fd, &file) < 0 || !(bytes = malloc(file.st_size + 1)))
		die(EXIT_CONFIG, "CRIU_KDAT", path ? path : "is not set");
	if (!file.st_size || read(fd, bytes, file.st_size + 1) != file.st_size)
		die(EXIT_CONFIG, "CRIU_KDAT is not whole:", path);
	close(fd);
	doors_close(bytes, (size_t)file.st_size);
}

// --- criu ---

static pid_t worker; // in the pid namespace that it works in

// A daemon's session is led by a process that has ended. criu forks one in its place, which forks the daemon and ends, so
// that the daemon becomes a child of the root of the tree, the nearest subreaper. But the root gets that attribute back only
// at the end of the restore (criu 4.2 pie/restorer.c), and the daemon would be the container's PID 1's child for ever: missed
// by our checks, and by the next dump. The root leads its session, so it comes by here before it forks.
__attribute__((visibility("default"))) pid_t setsid(void)
{
	if (worker && getppid() == worker)
		prctl(PR_SET_CHILD_SUBREAPER, 1);
	return (pid_t)syscall(SYS_setsid);
}

__attribute__((constructor)) static void zygote(void)
{
	const char *listening = getenv("CRIU_ZYGOTE_FD");
	int only_test = getenv("CRIU_ZYGOTE_SELFTEST") != NULL;

	if (!listening && !only_test)
		return;
	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_NAME, "criu-zygote");
	read_kdat(getenv("CRIU_KDAT"));
	doors_test();
	if (only_test)
		_exit(0);
	warm_up();
	guarded = getenv("CRIU_ZYGOTE_GUARD") != NULL;
	count_descriptors();
	clients[0] = (struct pollfd){ above(atoi(listening)), POLLIN, 0 };
	fcntl(clients[0].fd, F_SETFL, O_NONBLOCK); // a client may be gone again when we come to accept it
	own_pid_namespace = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (own_pid_namespace < 0)
		die(EXIT_SYSTEM, "cannot open", "/proc/self/ns/pid");
	own_pid_namespace = above(own_pid_namespace);
	for (int fd = 3; fd < OURS; fd++)
		if (dup2(2, fd) < 0) // taken, so that what we receive never lies where criu's descriptors go
			die(EXIT_SYSTEM, "cannot reserve", "descriptors");
	// An orphan of a worker must not stay a zombie in a container's pid namespace, which could never end then. They come to us,
	// and the kernel reaps them. Restored trees do not: they are of another pid level, and go to the container's PID 1.
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN); // whoever read our stderr may be gone
	unsetenv("CRIU_ZYGOTE_FD");
	unsetenv("CRIU_KDAT");
	unsetenv("CRIU_ZYGOTE_GUARD");
	unsetenv("CRIU_LIBS_DIR");
	unsetenv("LD_BIND_NOW");
	serve();
	worker = getpid();
	warm_worker();
}
