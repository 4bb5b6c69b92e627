// A library that is preloaded into the daemon, for faults that no program around it can make:
// - RECORD_TO: every operation on the files below FAULT_ROOT is recorded in this file, in order; power/disk.rs reads it.
//   An entry is the operation, the file descriptor and a number, then three byte strings, each after its length.
// - FULL_AFTER, FULL_WHILE: below FAULT_ROOT the disk is full after so many writes, while the file FULL_WHILE exists.
// - CLOCK_SHIFT: this file has the seconds by which the wall clock is wrong.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 1, CLOSE, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, MKDIR, RMDIR, LINK };
#define N_FILES 4096

static const char *root, *full_while, *clock_shift;
static int out = -1;
static long n_left;
static char watched[N_FILES];
// Held over the call and its entry, so that both have one order.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void) {
    const char *to = getenv("RECORD_TO"), *after = getenv("FULL_AFTER");
    root = getenv("FAULT_ROOT");
    full_while = getenv("FULL_WHILE");
    clock_shift = getenv("CLOCK_SHIFT");
    n_left = after ? atol(after) : 0;
    if (!to) return;
    out = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (out < 0) abort();
}

// Whether the disk has no room for another write.
static int is_full(void) {
    if (!full_while || n_left-- > 0 || syscall(SYS_access, full_while, F_OK) != 0) return 0;
    errno = ENOSPC;
    return 1;
}

static void put(const void *bytes, size_t n) {
    while (n > 0) {
        long done = syscall(SYS_write, out, bytes, n);
        if (done < 0) abort();
        bytes = (const char *)bytes + done;
        n -= done;
    }
}

static void put_text(const char *text, size_t n) {
    uint64_t length = n;
    put(&length, sizeof length);
    put(text, n);
}

static void record(int operation, int fd, uint64_t number, const char *a, const char *b, const void *data, size_t n) {
    if (out < 0) return;
    struct { uint32_t operation, fd; uint64_t number; } head = {operation, fd, number};
    put(&head, sizeof head);
    put_text(a ? a : "", a ? strlen(a) : 0);
    put_text(b ? b : "", b ? strlen(b) : 0);
    put_text(data, n);
}

static int below(const char *path) {
    return root && strncmp(path, root, strlen(root)) == 0;
}

static int is_watched(int fd) {
    return fd >= 0 && fd < N_FILES && watched[fd];
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int opened(int fd, const char *path, int flags) {
    if (fd >= 0 && fd < N_FILES) {
        watched[fd] = below(path);
        if (watched[fd]) record(OPEN, fd, flags, path, NULL, NULL, 0);
    }
    return fd;
}

#define OPEN_LIKE(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        pthread_mutex_lock(&lock); \
        int fd = -1; \
        if (!((flags & O_CREAT) && below(path) && is_full())) fd = opened(real(path, flags, mode), path, flags); \
        pthread_mutex_unlock(&lock); \
        return fd; \
    }
OPEN_LIKE(open)
OPEN_LIKE(open64)

int close(int fd) {
    REAL(close);
    pthread_mutex_lock(&lock);
    if (is_watched(fd)) {
        record(CLOSE, fd, 0, NULL, NULL, NULL, 0);
        watched[fd] = 0;
    }
    int result = real(fd);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t write(int fd, const void *bytes, size_t n) {
    REAL(write);
    if (!is_watched(fd)) return real(fd, bytes, n);
    pthread_mutex_lock(&lock);
    struct stat stat;
    off_t at = lseek(fd, 0, SEEK_CUR);
    if ((fcntl(fd, F_GETFL) & O_APPEND) && fstat(fd, &stat) == 0) at = stat.st_size;
    ssize_t done = is_full() ? -1 : real(fd, bytes, n);
    if (done > 0) record(WRITE, fd, at, NULL, NULL, bytes, done);
    pthread_mutex_unlock(&lock);
    return done;
}

#define PWRITE_LIKE(name, offset) \
    ssize_t name(int fd, const void *bytes, size_t n, offset at) { \
        REAL(name); \
        if (!is_watched(fd)) return real(fd, bytes, n, at); \
        pthread_mutex_lock(&lock); \
        ssize_t done = is_full() ? -1 : real(fd, bytes, n, at); \
        if (done > 0) record(WRITE, fd, at, NULL, NULL, bytes, done); \
        pthread_mutex_unlock(&lock); \
        return done; \
    }
PWRITE_LIKE(pwrite, off_t)
PWRITE_LIKE(pwrite64, off64_t)

#define ON_FILE(name, operation, parameters, arguments, number, takes_room) \
    int name parameters { \
        REAL(name); \
        if (!is_watched(fd)) return real arguments; \
        pthread_mutex_lock(&lock); \
        int result = takes_room && is_full() ? -1 : real arguments; \
        if (result == 0) record(operation, fd, number, NULL, NULL, NULL, 0); \
        pthread_mutex_unlock(&lock); \
        return result; \
    }
ON_FILE(ftruncate, TRUNCATE, (int fd, off_t length), (fd, length), length, 1)
ON_FILE(ftruncate64, TRUNCATE, (int fd, off64_t length), (fd, length), length, 1)
ON_FILE(fsync, SYNC, (int fd), (fd), 0, 0)
ON_FILE(fdatasync, SYNC, (int fd), (fd), 0, 0)

#define ON_PATHS(name, operation, parameters, arguments, a, b) \
    int name parameters { \
        REAL(name); \
        pthread_mutex_lock(&lock); \
        int result = real arguments; \
        if (result == 0 && below(a)) record(operation, 0, 0, a, b, NULL, 0); \
        pthread_mutex_unlock(&lock); \
        return result; \
    }
ON_PATHS(rename, RENAME, (const char *from, const char *to), (from, to), from, to)
ON_PATHS(link, LINK, (const char *from, const char *to), (from, to), from, to)
ON_PATHS(unlink, UNLINK, (const char *path), (path), path, NULL)
ON_PATHS(rmdir, RMDIR, (const char *path), (path), path, NULL)
ON_PATHS(mkdir, MKDIR, (const char *path, mode_t mode), (path, mode), path, NULL)

int clock_gettime(clockid_t clock, struct timespec *time) {
    REAL(clock_gettime);
    int result = real(clock, time);
    if (result != 0 || clock != CLOCK_REALTIME || !clock_shift) return result;
    char text[32] = {0};
    int fd = syscall(SYS_openat, AT_FDCWD, clock_shift, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return result;
    syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    time->tv_sec += atoll(text);
    return result;
}

// Calls that are not recorded must not be used on these files.
#define FORBIDDEN(type, name, parameters, arguments) \
    type name parameters { \
        REAL(name); \
        if (is_watched(fd)) { \
            fprintf(stderr, "preload.c does not know " #name "\n"); \
            abort(); \
        } \
        return real arguments; \
    }
FORBIDDEN(ssize_t, writev, (int fd, const struct iovec *parts, int n), (fd, parts, n))
FORBIDDEN(ssize_t, pwritev, (int fd, const struct iovec *parts, int n, off_t at), (fd, parts, n, at))
FORBIDDEN(int, fallocate, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n))
