// SPDX-License-Identifier: Apache-2.0
//
// Stands in front of libc's functions that open files, so that criu does not open in a container what it would believe or
// execute: its cache of kernel features (a fifo there would hang it, a forged one is believed) and its plug-ins.

#define _GNU_SOURCE
#include "criu-doors.h"
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KDAT "/run/criu.kdat" // RUNDIR of criu's build; also the prefix of the file it writes before renaming

static const char *kdat; // the cache's bytes, so that no descriptor of the host is kept for it
static size_t kdat_size;

void doors_close(const char *bytes, size_t size)
{
	kdat_size = size;
	kdat = bytes;
}

// A file of its own for each open: a shared description would share its offset between workers.
static int open_kdat(void)
{
	int fd = memfd_create("criu.kdat", MFD_CLOEXEC);

	if (fd < 0)
		return -1;
	if (write(fd, kdat, kdat_size) != (ssize_t)kdat_size || lseek(fd, 0, SEEK_SET) < 0) {
		close(fd);
		errno = EIO;
		return -1;
	}
	return fd;
}

static int is_kdat(const char *path)
{
	return kdat && !strncmp(path, KDAT, sizeof KDAT - 1);
}

static int refuse(void)
{
	errno = EROFS;
	return -1;
}

static int open_instead(int dir, const char *path, int flags, mode_t mode)
{
	if (!is_kdat(path))
		return (int)syscall(SYS_openat, dir, path, flags, mode);
	if (path[sizeof KDAT - 1] || (flags & O_ACCMODE) != O_RDONLY)
		return refuse();
	return open_kdat();
}

static FILE *fopen_instead(const char *name, const char *path, const char *mode)
{
	FILE *(*real)(const char *, const char *);

	if (is_kdat(path)) {
		int fd = path[sizeof KDAT - 1] || mode[0] != 'r' || strchr(mode, '+') ? refuse() : open_kdat();

		return fd < 0 ? NULL : fdopen(fd, mode);
	}
	*(void **)&real = dlsym(RTLD_NEXT, name);
	return real(path, mode);
}

// The system calls directly: libc's own functions of these names are what we stand in front of. 64-bit only, so O_LARGEFILE
// changes nothing.
#define EXPORT __attribute__((visibility("default")))
#define MODE(flags, last)                                                        \
	({                                                                       \
		mode_t mode_ = 0;                                                \
		if (flags & (O_CREAT | __O_TMPFILE)) {                           \
			va_list list_;                                           \
			va_start(list_, last);                                   \
			mode_ = va_arg(list_, mode_t);                           \
			va_end(list_);                                           \
		}                                                                \
		mode_;                                                           \
	})

#define OPEN(name)                                                               \
	EXPORT int name(const char *path, int flags, ...);                       \
	EXPORT int name(const char *path, int flags, ...)                        \
	{                                                                        \
		return open_instead(AT_FDCWD, path, flags, MODE(flags, flags));  \
	}
#define OPENAT(name)                                                             \
	EXPORT int name(int dir, const char *path, int flags, ...);              \
	EXPORT int name(int dir, const char *path, int flags, ...)               \
	{                                                                        \
		return open_instead(dir, path, flags, MODE(flags, flags));       \
	}
#define OPEN_2(name)                                                             \
	EXPORT int name(const char *path, int flags);                            \
	EXPORT int name(const char *path, int flags)                             \
	{                                                                        \
		return open_instead(AT_FDCWD, path, flags, 0);                   \
	}
#define OPENAT_2(name)                                                           \
	EXPORT int name(int dir, const char *path, int flags);                   \
	EXPORT int name(int dir, const char *path, int flags)                    \
	{                                                                        \
		return open_instead(dir, path, flags, 0);                        \
	}
#define CREAT(name)                                                              \
	EXPORT int name(const char *path, mode_t mode);                          \
	EXPORT int name(const char *path, mode_t mode)                           \
	{                                                                        \
		return open_instead(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); \
	}
#define FOPEN(name)                                                              \
	EXPORT FILE *name(const char *path, const char *mode);                   \
	EXPORT FILE *name(const char *path, const char *mode)                    \
	{                                                                        \
		return fopen_instead(#name, path, mode);                         \
	}

// clang-format off
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)
OPEN_2(__open_2) OPEN_2(__open64_2) OPENAT_2(__openat_2) OPENAT_2(__openat64_2)
CREAT(creat) CREAT(creat64) FOPEN(fopen) FOPEN(fopen64)
// clang-format on

// A cache that criu does not believe it unlinks, and one that it made it renames into place.
EXPORT int unlink(const char *path)
{
	return is_kdat(path) ? refuse() : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

EXPORT int unlinkat(int dir, const char *path, int flags)
{
	return is_kdat(path) ? refuse() : (int)syscall(SYS_unlinkat, dir, path, flags);
}

EXPORT int remove(const char *path)
{
	if (is_kdat(path))
		return refuse();
	if (syscall(SYS_unlinkat, AT_FDCWD, path, 0) == 0)
		return 0;
	return errno == EISDIR ? (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR) : -1;
}

EXPORT int rename(const char *from, const char *to)
{
	return is_kdat(from) || is_kdat(to) ? refuse() : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

// Plug-ins are looked for when criu starts, in the container then, and would be executed: there are none. Nor anything else
// to link: what criu needs it has. (criu asks with access(), as CRIU_LIBS_DIR is not set, whether it should look at all.)
#define PLUGINS "/usr/lib/criu"

static int is_plugin(const char *path)
{
	return kdat && !strncmp(path, PLUGINS, sizeof PLUGINS - 1);
}

EXPORT int access(const char *path, int mode)
{
	if (is_plugin(path) || is_kdat(path)) {
		errno = ENOENT;
		return -1;
	}
	return (int)syscall(SYS_faccessat, AT_FDCWD, path, mode);
}

EXPORT DIR *opendir(const char *path)
{
	DIR *(*real)(const char *);

	if (is_plugin(path) || is_kdat(path)) {
		errno = ENOENT;
		return NULL;
	}
	*(void **)&real = dlsym(RTLD_NEXT, "opendir");
	return real(path);
}

EXPORT void *dlopen(const char *path, int flags)
{
	void *(*real)(const char *, int);

	if (kdat)
		return NULL;
	*(void **)&real = dlsym(RTLD_NEXT, "dlopen");
	return real(path, flags);
}

// --- self-test: is every way to open a file really ours? ---

enum shape { PLAIN, AT, STREAM, CREATE, UNLINK, UNLINK_AT, RENAME, ACCESS, DIRECTORY, LIBRARY, FOREIGN };

static const struct {
	const char *name;
	enum shape shape;
} doors[] = {
	{ "open", PLAIN },	 { "open64", PLAIN },	  { "__open_2", PLAIN },    { "__open64_2", PLAIN },
	{ "openat", AT },	 { "openat64", AT },	  { "__openat_2", AT },	    { "__openat64_2", AT },
	{ "fopen", STREAM },	 { "fopen64", STREAM },	  { "creat", CREATE },	    { "creat64", CREATE },
	{ "unlink", UNLINK },	 { "remove", UNLINK },	  { "unlinkat", UNLINK_AT }, { "rename", RENAME },
	{ "access", ACCESS },	 { "opendir", DIRECTORY },  { "dlopen", LIBRARY },
	// Nobody in the bundle uses these. A later criu that does must not pass unnoticed.
	{ "freopen", FOREIGN },	 { "freopen64", FOREIGN },  { "openat2", FOREIGN }, { "renameat", FOREIGN },
	{ "renameat2", FOREIGN }, { "dlmopen", FOREIGN },
};

static const void *object_of(const void *address)
{
	Dl_info info;

	return dladdr(address, &info) ? info.dli_fbase : NULL;
}

static int same_bytes(int fd)
{
	char *copy = malloc(kdat_size + 1);
	int same = fd >= 0 && copy && read(fd, copy, kdat_size + 1) == (ssize_t)kdat_size && !memcmp(copy, kdat, kdat_size);

	free(copy);
	if (fd >= 0)
		close(fd);
	return same;
}

static int refused(long result)
{
	return result < 0 && errno == EROFS;
}

// Calls one function as criu would, with the two paths.
static int door_is_shut(enum shape shape, void *function)
{
	static const char other[] = KDAT ".tmp";
	union {
		void *address;
		int (*plain)(const char *, int, ...);
		int (*at)(int, const char *, int, ...);
		FILE *(*stream)(const char *, const char *);
		int (*create)(const char *, mode_t);
		int (*one)(const char *);
		int (*two)(const char *, const char *);
		DIR *(*directory)(const char *);
		void *(*library)(const char *, int);
	} call = { .address = function };
	FILE *stream;

	switch (shape) {
	case PLAIN:
		return same_bytes(call.plain(KDAT, O_RDONLY | O_NONBLOCK)) && refused(call.plain(other, O_WRONLY | O_NONBLOCK));
	case AT:
		return same_bytes(call.at(AT_FDCWD, KDAT, O_RDONLY | O_NONBLOCK)) && refused(call.at(3, other, O_WRONLY));
	case STREAM:
		stream = call.stream(KDAT, "r");
		if (!stream || !same_bytes(dup(fileno(stream))) || fclose(stream))
			return 0;
		return !call.stream(KDAT, "r+") && !call.stream(other, "w") && errno == EROFS;
	case CREATE:
		return refused(call.create(KDAT, 0600)) && refused(call.create(other, 0600));
	case UNLINK:
		return refused(call.one(KDAT)) && refused(call.one(other));
	case UNLINK_AT:
		return refused(call.at(AT_FDCWD, KDAT, 0)) && refused(call.at(AT_FDCWD, other, 0));
	case RENAME:
		return refused(call.two(other, KDAT)) && refused(call.two(KDAT, "/nowhere/else"));
	case ACCESS:
		return call.create(PLUGINS, F_OK) < 0 && errno == ENOENT && call.create("/", F_OK) == 0;
	case DIRECTORY:
		return !call.directory(PLUGINS) && errno == ENOENT;
	case LIBRARY:
		return !call.library(NULL, RTLD_LAZY);
	default:
		return 1;
	}
}

struct walk {
	const void *own;
	char fault[256];
};

// One reference of a linked object to a function by name: bound to us, or not bound yet (then the lookup that was tested
// for every name will bind it to us).
static void check_reference(struct walk *walk, const struct dl_phdr_info *object, const char *name, void *const *slot)
{
	for (size_t i = 0; i < sizeof doors / sizeof *doors; i++) {
		if (strcmp(name, doors[i].name))
			continue;
		const void *bound = object_of(*slot);
		int fine = bound == walk->own || bound == (const void *)object->dlpi_addr || bound == object_of((const void *)slot);
		if (doors[i].shape == FOREIGN || !fine)
			snprintf(walk->fault, sizeof walk->fault, "%s of %s", name, object->dlpi_name[0] ? object->dlpi_name : "criu");
	}
}

static int check_object(struct dl_phdr_info *object, size_t size, void *context)
{
	struct walk *walk = context;
	const ElfW(Dyn) *dynamic = NULL;
	const ElfW(Sym) *symbols = NULL;
	const char *strings = NULL;
	struct {
		const ElfW(Rela) *first;
		size_t bytes;
	} tables[2] = { { NULL, 0 }, { NULL, 0 } };

	(void)size;
	for (int i = 0; i < object->dlpi_phnum; i++)
		if (object->dlpi_phdr[i].p_type == PT_DYNAMIC)
			dynamic = (const void *)(object->dlpi_addr + object->dlpi_phdr[i].p_vaddr);
	for (const ElfW(Dyn) *d = dynamic; d && d->d_tag != DT_NULL; d++) {
		const void *address = (const void *)d->d_un.d_ptr; // relocated by glibc on our architectures

		if (d->d_tag == DT_SYMTAB)
			symbols = address;
		else if (d->d_tag == DT_STRTAB)
			strings = address;
		else if (d->d_tag == DT_RELA)
			tables[0].first = address;
		else if (d->d_tag == DT_RELASZ)
			tables[0].bytes = d->d_un.d_val;
		else if (d->d_tag == DT_JMPREL)
			tables[1].first = address;
		else if (d->d_tag == DT_PLTRELSZ)
			tables[1].bytes = d->d_un.d_val;
	}
	if ((const void *)object->dlpi_addr == walk->own || !symbols || !strings)
		return 0;
	for (int t = 0; t < 2; t++)
		for (size_t i = 0; tables[t].first && i < tables[t].bytes / sizeof(ElfW(Rela)); i++) {
			const ElfW(Rela) *r = tables[t].first + i;
			size_t symbol = ELF64_R_SYM(r->r_info);

			if (symbol)
				check_reference(walk, object, strings + symbols[symbol].st_name, (void **)(object->dlpi_addr + r->r_offset));
		}
	return 0;
}

void doors_test(void)
{
	struct walk walk = { .own = object_of((const void *)doors_test) };

	for (size_t i = 0; i < sizeof doors / sizeof *doors; i++) {
		void *function = dlsym(RTLD_DEFAULT, doors[i].name);

		if (doors[i].shape == FOREIGN)
			continue;
		if (object_of(function) != walk.own || !door_is_shut(doors[i].shape, function)) {
			dprintf(2, "zygote: self-test: %s is not ours\n", doors[i].name);
			_exit(DOORS_OPEN);
		}
	}
	dl_iterate_phdr(check_object, &walk);
	if (walk.fault[0]) {
		dprintf(2, "zygote: self-test: %s goes past us\n", walk.fault);
		_exit(DOORS_OPEN);
	}
}
