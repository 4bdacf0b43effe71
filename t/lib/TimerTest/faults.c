/* Preloaded into nginx by TimerTest::Faults: calls of libc that fail, fall short or wait, by rules in a file that
 * the test writes and every process of this nginx has mapped.
 *
 * A call is let through unless a rule is for it: the call is in the rule's set, its file's name contains the
 * rule's text, the process is the rule's. Of those calls a rule counts each, and changes the FIRST-th and the
 * TIMES - 1 that follow. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The order is @CALLS of TimerTest::Faults. */
enum call {
    PREAD, PWRITE, READ, WRITE, LOCK, UNLOCK, GETLOCK, OPEN, STAT, TRUNCATE, LINK, RENAME, UNLINK, SYNC, CHOWN, CHMOD,
    MEMFD, EVENTFD, RANDOM, OFD
};

/* As TimerTest::Faults packs it. */
struct rule {
    uint32_t active;
    uint32_t calls;         /* bits by enum call */
    int32_t error;          /* errno; 0: the call is made */
    int32_t at_most;        /* bytes that are read or written; -1: all */
    int32_t pid;            /* 0: any process; -N: any but N */
    uint32_t delay_ms;
    uint64_t first;
    uint64_t times;
    uint64_t seen;
    uint64_t hit;
    char name[192];
};

#define RULES 16
#define NAMES 4096

static struct rule *rules;

/* What descriptors were opened as, for where there is no /proc. */
static char opened[NAMES][64];

#define REAL(name, ...) \
    static __typeof__(name) *real; \
    if (real == NULL) real = (__typeof__(name) *) dlsym(RTLD_NEXT, #name); \
    if (real == NULL) { errno = ENOSYS; return -1; }

__attribute__((constructor)) static void
faults_init(void)
{
    const char *path = getenv("TIMER_TEST_FAULTS");
    if (path == NULL) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd == -1) return;
    void *at = mmap(NULL, RULES * sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (at != MAP_FAILED) rules = at;
}

static void
name_of(int fd, char *name, size_t size)
{
    char link[40];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, name, size - 1);
    if (n > 0) {
        name[n] = '\0';
    } else if (fd >= 0 && fd < NAMES) {
        memcpy(name, opened[fd], sizeof(opened[fd]));
    } else {
        name[0] = '\0';
    }
}

static void
remember(int fd, const char *path)
{
    if (fd < 0 || fd >= NAMES || rules == NULL) return;
    size_t length = strlen(path), room = sizeof(opened[fd]) - 1;
    strcpy(opened[fd], length > room ? path + length - room : path);
}

/* The rule that changes this call, NULL if none does. By descriptor, or by one or two names. */
static struct rule *
rule_for(enum call call, int fd, const char *one, const char *other)
{
    char name[4096];
    int named = 0, saved = errno;
    struct rule *found = NULL;

    /* A file that is opened again by its descriptor. */
    if (one != NULL && strncmp(one, "/proc/self/fd/", 14) == 0) {
        fd = atoi(one + 14);
        one = NULL;
    }

    for (int i = 0; rules != NULL && i < RULES; i++) {
        struct rule *r = &rules[i];
        if (!__atomic_load_n(&r->active, __ATOMIC_ACQUIRE) || !(r->calls & (1u << call))) continue;
        if (r->pid > 0 && getpid() != r->pid) continue;
        if (r->pid < 0 && getpid() == -r->pid) continue;
        if (r->name[0] != '\0' && (one != NULL || fd != -1)) {
            if (one == NULL && !named) {
                name_of(fd, name, sizeof(name));
                named = 1;
            }
            if (strstr(one == NULL ? name : one, r->name) == NULL && (other == NULL || strstr(other, r->name) == NULL))
                continue;
        }
        uint64_t n = __atomic_add_fetch(&r->seen, 1, __ATOMIC_ACQ_REL);
        if (n < r->first || n - r->first >= r->times || found != NULL) continue;
        __atomic_add_fetch(&r->hit, 1, __ATOMIC_ACQ_REL);
        found = r;
    }
    if (found != NULL && found->delay_ms != 0) {
        struct timespec pause = { found->delay_ms / 1000, (found->delay_ms % 1000) * 1000000L };
        nanosleep(&pause, NULL);
    }
    errno = saved;
    return found;
}

/* Fails the call if a rule says so; else how many bytes it is to be about. */
#define FAIL(call, fd, one, other) \
    struct rule *rule = rule_for(call, fd, one, other); \
    if (rule != NULL && rule->error != 0) { errno = rule->error; return -1; }

#define SHORTEN(n) \
    if (rule != NULL && rule->at_most >= 0 && (n) > (size_t) rule->at_most) n = rule->at_most;

#define TRANSFER(name, call, buffer) \
    ssize_t name(int fd, buffer data, size_t n, off_t offset) \
    { REAL(name) FAIL(call, fd, NULL, NULL) SHORTEN(n) return real(fd, data, n, offset); }

TRANSFER(pread, PREAD, void *)
TRANSFER(pread64, PREAD, void *)
TRANSFER(pwrite, PWRITE, const void *)
TRANSFER(pwrite64, PWRITE, const void *)

ssize_t read(int fd, void *data, size_t n)
{ REAL(read) FAIL(READ, fd, NULL, NULL) SHORTEN(n) return real(fd, data, n); }

ssize_t write(int fd, const void *data, size_t n)
{ REAL(write) FAIL(WRITE, fd, NULL, NULL) SHORTEN(n) return real(fd, data, n); }

/* Of fcntl only what is about locks. */
#define CONTROL(name) \
    int name(int fd, int command, ...) \
    { \
        REAL(name) \
        va_list list; \
        va_start(list, command); \
        void *argument = va_arg(list, void *); \
        va_end(list); \
        if (command == F_OFD_SETLK || command == F_OFD_SETLKW || command == F_OFD_GETLK) { \
            FAIL(OFD, fd, NULL, NULL) \
        } \
        if (command == F_OFD_SETLK || command == F_OFD_SETLKW || command == F_SETLK || command == F_SETLKW) { \
            FAIL(((struct flock *) argument)->l_type == F_UNLCK ? UNLOCK : LOCK, fd, NULL, NULL) \
        } else if (command == F_OFD_GETLK || command == F_GETLK) { \
            FAIL(GETLOCK, fd, NULL, NULL) \
        } \
        return real(fd, command, argument); \
    }

CONTROL(fcntl)
CONTROL(fcntl64)

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list list; \
        va_start(list, flags); \
        mode = va_arg(list, mode_t); \
        va_end(list); \
    }

#define OPENS(name) \
    int name(const char *path, int flags, ...) \
    { MODE REAL(name) FAIL(OPEN, -1, path, NULL) int fd = real(path, flags, mode); remember(fd, path); return fd; }

#define OPENS_AT(name) \
    int name(int at, const char *path, int flags, ...) \
    { MODE REAL(name) FAIL(OPEN, -1, path, NULL) int fd = real(at, path, flags, mode); remember(fd, path); return fd; }

OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

int statx(int at, const char *path, int flags, unsigned int mask, struct statx *into)
{
    REAL(statx)
    /* Rust's standard library tries it with neither; the compiler believes that they are never NULL. */
    const char *volatile name = path;
    void *volatile answer = into;
    if (answer != NULL) {
        int by_fd = name == NULL || name[0] == '\0';
        FAIL(STAT, by_fd ? at : -1, by_fd ? NULL : name, NULL)
    }
    return real(at, path, flags, mask, into);
}

int fstat(int fd, struct stat *into) { REAL(fstat) FAIL(STAT, fd, NULL, NULL) return real(fd, into); }
int fstat64(int fd, struct stat64 *into) { REAL(fstat64) FAIL(STAT, fd, NULL, NULL) return real(fd, into); }
int stat(const char *path, struct stat *into) { REAL(stat) FAIL(STAT, -1, path, NULL) return real(path, into); }
int stat64(const char *path, struct stat64 *into) { REAL(stat64) FAIL(STAT, -1, path, NULL) return real(path, into); }
int lstat(const char *path, struct stat *into) { REAL(lstat) FAIL(STAT, -1, path, NULL) return real(path, into); }
int lstat64(const char *path, struct stat64 *into) { REAL(lstat64) FAIL(STAT, -1, path, NULL) return real(path, into); }

int ftruncate(int fd, off_t n) { REAL(ftruncate) FAIL(TRUNCATE, fd, NULL, NULL) return real(fd, n); }
int ftruncate64(int fd, off_t n) { REAL(ftruncate64) FAIL(TRUNCATE, fd, NULL, NULL) return real(fd, n); }

int link(const char *from, const char *to) { REAL(link) FAIL(LINK, -1, from, to) return real(from, to); }
int linkat(int at, const char *from, int under, const char *to, int flags)
{ REAL(linkat) FAIL(LINK, -1, from, to) return real(at, from, under, to, flags); }

int rename(const char *from, const char *to) { REAL(rename) FAIL(RENAME, -1, from, to) return real(from, to); }
int unlink(const char *path) { REAL(unlink) FAIL(UNLINK, -1, path, NULL) return real(path); }

int unlinkat(int at, const char *path, int flags)
{ REAL(unlinkat) FAIL(UNLINK, -1, path, NULL) return real(at, path, flags); }

int fsync(int fd) { REAL(fsync) FAIL(SYNC, fd, NULL, NULL) return real(fd); }
int fdatasync(int fd) { REAL(fdatasync) FAIL(SYNC, fd, NULL, NULL) return real(fd); }
int fchown(int fd, uid_t user, gid_t group) { REAL(fchown) FAIL(CHOWN, fd, NULL, NULL) return real(fd, user, group); }
int fchmod(int fd, mode_t mode) { REAL(fchmod) FAIL(CHMOD, fd, NULL, NULL) return real(fd, mode); }

int memfd_create(const char *name, unsigned int flags)
{ REAL(memfd_create) FAIL(MEMFD, -1, NULL, NULL) int fd = real(name, flags); remember(fd, name); return fd; }

int eventfd(unsigned int count, int flags) { REAL(eventfd) FAIL(EVENTFD, -1, NULL, NULL) return real(count, flags); }

ssize_t getrandom(void *data, size_t n, unsigned int flags)
{ REAL(getrandom) FAIL(RANDOM, -1, NULL, NULL) SHORTEN(n) return real(data, n, flags); }
