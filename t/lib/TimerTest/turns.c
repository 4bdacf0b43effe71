/* Preloaded into nginx by TimerTest::Turns: how much of the processor's time a turn of the event loop takes, from
 * where epoll_wait returns to where it is called again, as this thread's own clock has it; and how much is read from
 * files meanwhile. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* As TimerTest::Turns reads it: one for each process. */
struct turns {
    int32_t pid;
    uint32_t unused;
    uint64_t count;
    uint64_t longest;       /* nanoseconds */
    uint64_t most_read;     /* bytes */
};

#define PROCESSES 64

static struct turns *all;

static uint64_t bytes_read;

static uint64_t
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t) t.tv_sec * 1000000000 + (uint64_t) t.tv_nsec;
}

__attribute__((constructor)) static void
turns_init(void)
{
    const char *file = getenv("TIMER_TEST_TURNS");
    int fd = file ? open(file, O_RDWR | O_CLOEXEC) : -1;
    if (fd == -1) return;
    void *mapped = mmap(NULL, PROCESSES * sizeof(*all), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) all = mapped;
    close(fd);
}

static struct turns *
mine(void)
{
    static struct turns *found;
    int32_t pid = getpid();

    if (found != NULL && found->pid == pid) return found;
    for (int i = 0; all != NULL && i < PROCESSES; i++) {
        if (__sync_bool_compare_and_swap(&all[i].pid, 0, pid) || all[i].pid == pid) return found = &all[i];
    }
    return NULL;
}

int
epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
    static int (*real)(int, struct epoll_event *, int, int);
    static int32_t of;
    static uint64_t began;
    struct turns *turns = mine();

    if (real == NULL) real = (__typeof__(real)) dlsym(RTLD_NEXT, "epoll_wait");
    if (real == NULL) { errno = ENOSYS; return -1; }
    if (turns != NULL && of == turns->pid) {
        uint64_t took = now() - began;
        /* The first is none: nginx tries epoll before its modules begin (ngx_epoll_test_rdhup). */
        if (turns->count++ > 0 && took > turns->longest) turns->longest = took;
        if (bytes_read > turns->most_read) turns->most_read = bytes_read;
    }
    int n = real(epfd, events, maxevents, timeout);
    int error = errno;
    of = getpid();
    began = now();
    bytes_read = 0;
    errno = error;
    return n;
}

static ssize_t
counted(const char *name, int fd, void *to, size_t size, off_t from)
{
    ssize_t (*real)(int, void *, size_t, off_t) = (__typeof__(real)) dlsym(RTLD_NEXT, name);

    if (real == NULL) { errno = ENOSYS; return -1; }
    ssize_t n = real(fd, to, size, from);
    if (n > 0) __sync_fetch_and_add(&bytes_read, (uint64_t) n);
    return n;
}

ssize_t pread(int fd, void *to, size_t size, off_t from) { return counted("pread", fd, to, size, from); }
ssize_t pread64(int fd, void *to, size_t size, off_t from) { return counted("pread64", fd, to, size, from); }
