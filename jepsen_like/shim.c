/* Faults of disk and clock for one process, preloaded: LD_PRELOAD=shim.so MR_SHIM_FILE=control.
 * With MR_SHIM_SOURCE=127.x.y.z it also connects within loopback from that address, so that who is called knows by whom.
 *
 * The control file is one page, mapped shared, written by jepsen_like/shim.py while the process runs. Every fault counts
 * how often it struck, so that a run can prove that it did. Faults of files strike only below `prefix`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control { /* jepsen_like/shim.py knows these offsets */
    uint64_t sync_delay_us;    /*  0: before every fsync, fdatasync and synchronous write */
    uint32_t sync_errno;       /*  8: of every fsync and fdatasync; 0 = none */
    uint32_t write_errno;      /* 12 */
    uint32_t read_errno;       /* 16 */
    uint32_t unused;
    int64_t clock_offset_ns;   /* 24: added to the wall clock; the monotonic clock is left alone */
    uint64_t syncs_delayed;    /* 32: counters, from here on */
    uint64_t syncs_failed;     /* 40 */
    uint64_t writes_failed;    /* 48 */
    uint64_t reads_failed;     /* 56 */
    uint64_t clocks_shifted;   /* 64 */
    char prefix[256];          /* 72 */
};

static struct control none;
static volatile struct control *control = &none;
static struct in_addr source; /* 0.0.0.0 = any */

__attribute__((constructor)) static void attach(void)
{
    const char *from = getenv("MR_SHIM_SOURCE");
    if (from && !inet_aton(from, &source))
        source.s_addr = INADDR_ANY;
    const char *path = getenv("MR_SHIM_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED)
        control = page;
    close(fd);
}

#define NEXT(name) \
    static __typeof__(name) *next; \
    if (!next) \
        next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define COUNT(field) __atomic_add_fetch(&control->field, 1, __ATOMIC_RELAXED)

static int ours(int fd)
{
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    size_t prefix = strnlen((const char *)control->prefix, sizeof control->prefix);
    return length > 0 && (size_t)length >= prefix && !memcmp(path, (const char *)control->prefix, prefix);
}

static void delay(int fd)
{
    uint64_t us = control->sync_delay_us;
    if (!us || !ours(fd))
        return;
    COUNT(syncs_delayed);
    struct timespec left = {us / 1000000, us % 1000000 * 1000};
    while (nanosleep(&left, &left) && errno == EINTR)
        ;
}

static int fails(int fd, uint32_t error, volatile uint64_t *counter)
{
    if (!error || !ours(fd))
        return 0;
    __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
    errno = (int)error;
    return 1;
}

#define SYNC(name) \
    int name(int fd) \
    { \
        NEXT(name); \
        delay(fd); \
        return fails(fd, control->sync_errno, &control->syncs_failed) ? -1 : next(fd); \
    }
SYNC(fsync)
SYNC(fdatasync)

#define WRITE(name, parameters, arguments) \
    ssize_t name parameters \
    { \
        NEXT(name); \
        if (control->sync_delay_us && fcntl(fd, F_GETFL) & O_DSYNC) \
            delay(fd); \
        return fails(fd, control->write_errno, &control->writes_failed) ? -1 : next arguments; \
    }
WRITE(write, (int fd, const void *data, size_t size), (fd, data, size))
WRITE(writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
WRITE(pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at))
WRITE(pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at))

#define READ(name, parameters, arguments) \
    ssize_t name parameters \
    { \
        NEXT(name); \
        return fails(fd, control->read_errno, &control->reads_failed) ? -1 : next arguments; \
    }
READ(read, (int fd, void *data, size_t size), (fd, data, size))
READ(pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
READ(pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))

int clock_gettime(clockid_t clock, struct timespec *now)
{
    NEXT(clock_gettime);
    int result = next(clock, now);
    int64_t offset = control->clock_offset_ns;
    if (!result && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        COUNT(clocks_shifted);
        int64_t ns = now->tv_nsec + offset % 1000000000;
        now->tv_sec += offset / 1000000000 + (ns >= 1000000000) - (ns < 0);
        now->tv_nsec = ns + (ns < 0 ? 1000000000 : 0) - (ns >= 1000000000 ? 1000000000 : 0);
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    (void)zone;
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}

static int in_loopback(struct in_addr address)
{
    return ntohl(address.s_addr) >> 24 == 127;
}

/* Failing to bind is no failure to connect: then it comes from wherever the kernel says. */
static void leave_from_source(int fd, const struct sockaddr *to)
{
    int later = 1; /* which port is found when it connects, so that many connections may share one */
    if (to->sa_family == AF_INET && in_loopback(((const struct sockaddr_in *)to)->sin_addr)) {
        struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = source};
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &later, sizeof later);
        bind(fd, (struct sockaddr *)&from, sizeof from);
    } else if (to->sa_family == AF_INET6) { /* gRPC: IPv4 within IPv6 */
        const struct in6_addr *mapped = &((const struct sockaddr_in6 *)to)->sin6_addr;
        struct in_addr inner;
        memcpy(&inner, &mapped->s6_addr[12], sizeof inner);
        if (!IN6_IS_ADDR_V4MAPPED(mapped) || !in_loopback(inner))
            return;
        struct sockaddr_in6 from = {.sin6_family = AF_INET6, .sin6_addr = *mapped};
        memcpy(&from.sin6_addr.s6_addr[12], &source, sizeof source);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &later, sizeof later);
        bind(fd, (struct sockaddr *)&from, sizeof from);
    }
}

int connect(int fd, const struct sockaddr *to, socklen_t length)
{
    NEXT(connect);
    if (source.s_addr != INADDR_ANY) {
        int before = errno;
        leave_from_source(fd, to);
        errno = before;
    }
    return next(fd, to, length);
}
