// SPDX-License-Identifier: Apache-2.0
//
// While a process is dumped it has descriptors of criu's (its log, the memory and the socket of the code inside), a mapping
// with that code, pages made readable that were not, and for two instructions another umask. All of it would stay if criu
// ended in between; an open file of the host's, for one, makes every later dump fail.
//
// No libc but for the beginning, see criu-raw.h.

#include "criu-belongings.h"
#include "criu-raw.h"
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

enum {
	ROOM = 64 << 20, // for what is noted of all processes; what nobody touches costs nothing
	PIECE = 16 << 10, // read at once
	LINE = 256, // of a file in /proc: more than we want to know of it
};

struct area {
	unsigned long start, end;
	int protection;
};

struct belongings {
	int umask; // -1: not known
	int n_descriptors, n_areas;
	int *descriptors; // ascending
	struct area *areas; // that cannot be read, ascending
};

static char *room;
static size_t used;

int belongings_begin(void)
{
	room = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return room == MAP_FAILED ? -1 : 0;
}

// Room behind what was taken last, for so many bytes; `take` keeps a part of it.
static void *vacant(size_t *size)
{
	*size = ROOM - used;
	return room + used;
}

static void take(size_t size)
{
	used += (size + 15) & ~(size_t)15;
}

// --- reading /proc ---

struct text {
	int fd;
	long size, next;
	char bytes[PIECE], line[LINE];
};

static struct text text; // one file at a time

static char *put_number(char *to, unsigned long n)
{
	if (n > 9)
		to = put_number(to, n / 10);
	*to++ = (char)('0' + n % 10);
	return to;
}

static int open_of(pid_t pid, const char *name, int flags)
{
	char path[64] = "/proc/", *end = put_number(path + 6, (unsigned long)pid);

	while ((*end++ = *name++))
		;
	return (int)call(__NR_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC | flags, 0, 0);
}

// Reads the next line's first LINE - 1 bytes into text.line. Returns 1, 0 at the end, or a negative errno.
static int next_line(void)
{
	size_t n = 0;

	for (;;) {
		if (text.next == text.size) {
			text.next = 0;
			text.size = call(__NR_read, text.fd, (long)text.bytes, PIECE, 0, 0);
			if (text.size <= 0)
				return (int)text.size;
		}
		char c = text.bytes[text.next++];
		if (c == '\n')
			break;
		if (n < LINE - 1)
			text.line[n++] = c;
	}
	text.line[n] = 0;
	return 1;
}

static int open_text(pid_t pid, const char *name)
{
	text.size = text.next = 0;
	text.fd = open_of(pid, name, 0);
	return text.fd >= 0;
}

static void close_text(void)
{
	call(__NR_close, text.fd, 0, 0, 0, 0);
}

static int begins(const char *string, const char *with)
{
	while (*with && *string == *with)
		string++, with++;
	return !*with;
}

static unsigned long number(const char **from, int base)
{
	unsigned long n = 0;

	for (;; (*from)++) {
		int digit = **from >= '0' && **from <= '9' ? **from - '0' : **from >= 'a' && **from <= 'f' ? **from - 'a' + 10 : 99;
		if (digit >= base)
			return n;
		n = n * (unsigned long)base + (unsigned long)digit;
	}
}

static int umask_of(pid_t pid)
{
	int found = -1;

	if (!open_text(pid, "/status"))
		return -1;
	while (found < 0 && next_line() > 0)
		if (begins(text.line, "Umask:\t")) {
			const char *at = text.line + 7;
			found = (int)number(&at, 8);
		}
	close_text();
	return found;
}

// The area that text.line describes: "START-END rwxp OFFSET DEVICE INODE   PATH". Returns its path.
static const char *area_of_line(struct area *area)
{
	const char *at = text.line;

	area->start = number(&at, 16);
	at += *at == '-';
	area->end = number(&at, 16);
	at += *at == ' ';
	area->protection = (at[0] == 'r' ? PROT_READ : 0) | (at[1] == 'w' ? PROT_WRITE : 0) | (at[2] == 'x' ? PROT_EXEC : 0);
	while (*at && *at != '/' && *at != '[')
		at++;
	return at;
}

// Lists the descriptors of a process. Returns their number, or -1 if not all could be listed.
static int list_descriptors(pid_t pid, int *list, size_t most)
{
	struct entry {
		uint64_t inode;
		int64_t offset;
		unsigned short size;
		unsigned char type;
		char name[];
	};
	int directory = open_of(pid, "/fd", O_DIRECTORY);
	size_t n = 0;
	long size = directory;

	while (size >= 0 && (size = call(__NR_getdents64, directory, (long)text.bytes, PIECE, 0, 0)) > 0)
		for (long next = 0; next < size; next += ((struct entry *)(text.bytes + next))->size) {
			const char *name = ((struct entry *)(text.bytes + next))->name;
			if (*name == '.')
				continue;
			if (n == most) {
				size = -1;
				break;
			}
			list[n++] = (int)number(&name, 10);
		}
	if (directory >= 0)
		call(__NR_close, directory, 0, 0, 0, 0);
	return size < 0 ? -1 : (int)n;
}

// Lists the areas that cannot be read. Returns their number, or -1 if not all could be listed.
static int list_areas(pid_t pid, struct area *list, size_t most)
{
	size_t n = 0;
	int more;

	if (!open_text(pid, "/maps"))
		return -1;
	while ((more = next_line()) > 0) {
		if (n == most) {
			more = -1;
			break;
		}
		area_of_line(&list[n]);
		n += !(list[n].protection & PROT_READ);
	}
	close_text();
	return more < 0 ? -1 : (int)n;
}

const struct belongings *belongings_of(pid_t pid)
{
	size_t size;
	struct belongings *b = vacant(&size);

	if (size < sizeof *b)
		return NULL;
	take(sizeof *b);
	b->umask = umask_of(pid);
	b->descriptors = vacant(&size);
	b->n_descriptors = list_descriptors(pid, b->descriptors, size / sizeof *b->descriptors);
	if (b->n_descriptors < 0)
		return NULL;
	take((size_t)b->n_descriptors * sizeof *b->descriptors);
	b->areas = vacant(&size);
	b->n_areas = list_areas(pid, b->areas, size / sizeof *b->areas);
	if (b->n_areas < 0)
		return NULL;
	take((size_t)b->n_areas * sizeof *b->areas);
	return b;
}

// --- the difference ---

struct list {
	struct errand *errands;
	size_t most, n;
};

static void add(struct list *list, long name, unsigned long a, unsigned long b, unsigned long c)
{
	if (list->n < list->most)
		list->errands[list->n++] = (struct errand){ name, { (long)a, (long)b, (long)c } };
}

static void close_new(const struct belongings *before, const int *now, int n, struct list *list)
{
	for (int i = 0, j = 0; i < n; i++) {
		while (j < before->n_descriptors && before->descriptors[j] < now[i])
			j++;
		if (j == before->n_descriptors || before->descriptors[j] != now[i])
			add(list, __NR_close, (unsigned long)now[i], 0, 0);
	}
}

// What criu maps has a name. It makes readable what was not; a part of that may have grown together with its neighbour.
static void mend_areas(const struct belongings *before, pid_t pid, struct list *list)
{
	struct area now;
	int first = 0;

	if (!open_text(pid, "/maps"))
		return;
	while (next_line() > 0) {
		if (begins(area_of_line(&now), "/memfd:CRIUMFD")) {
			add(list, __NR_munmap, now.start, now.end - now.start, 0);
			continue;
		}
		while (first < before->n_areas && before->areas[first].end <= now.start)
			first++;
		if (!(now.protection & PROT_READ))
			continue;
		for (int i = first; i < before->n_areas && before->areas[i].start < now.end; i++) {
			const struct area *then = &before->areas[i];
			unsigned long start = then->start > now.start ? then->start : now.start;
			unsigned long end = then->end < now.end ? then->end : now.end;

			add(list, __NR_mprotect, start, end - start, (unsigned long)then->protection);
		}
	}
	close_text();
}

int belongings_errands(const struct belongings *before, pid_t pid, const struct errand **errands)
{
	struct list list = { .n = 0 };
	size_t size;
	int *now = vacant(&size), n = list_descriptors(pid, now, size / sizeof *now);

	if (n > 0)
		take((size_t)n * sizeof *now);
	list.errands = vacant(&size);
	list.most = size / sizeof *list.errands;
	close_new(before, now, n, &list);
	mend_areas(before, pid, &list);
	if (before->umask >= 0 && umask_of(pid) != before->umask)
		add(&list, __NR_umask, (unsigned long)before->umask, 0, 0);
	*errands = list.errands;
	return (int)list.n;
}
