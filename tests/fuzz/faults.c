// Loaded before the C library: the n-th call that writes below a folder fails. arm() says which, and how.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX], first[PATH_MAX + 64];
static long target = -1, count;
static int code, stays;

// Fail the n-th call from now on with an errno, and with `stay` every later one; n = 0 only counts.
void arm(const char *under, long n, int number, int stay) {
    snprintf(folder, sizeof folder, "%s", under);
    first[0] = 0;
    target = n, code = number, stays = stay, count = 0;
}
long disarm(void) { target = -1; return count; }
const char *failed(void) { return first; }

static int fails(const char *call, const char *path) {
    if (target < 0 || strncmp(path, folder, strlen(folder))) return 0;
    long n = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (!target || (n != target && !(stays && n > target))) return 0;
    if (!first[0]) snprintf(first, sizeof first, "%s %s", call, path);
    errno = code;
    return 1;
}

static int fails_at(const char *call, int at, const char *path) {
    char whole[2 * PATH_MAX], link[64];
    if (target < 0) return 0;
    if (path && path[0] == '/') return fails(call, path);
    if (at == AT_FDCWD) {
        if (!getcwd(whole, PATH_MAX)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = readlink(link, whole, PATH_MAX - 1);
        if (n < 0) return 0;
        whole[n] = 0;
    }
    if (path) {
        strcat(whole, "/");
        strncat(whole, path, PATH_MAX - 1);
    }
    return fails(call, whole);
}

#define REAL(name, result, ...) static result (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(write, ssize_t, int, const void *, size_t);
    return fails_at("write", fd, NULL) ? -1 : real(fd, data, n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL(pwrite, ssize_t, int, const void *, size_t, off_t);
    return fails_at("pwrite", fd, NULL) ? -1 : real(fd, data, n, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    REAL(pwrite64, ssize_t, int, const void *, size_t, off64_t);
    return fails_at("pwrite64", fd, NULL) ? -1 : real(fd, data, n, at);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(writev, ssize_t, int, const struct iovec *, int);
    return fails_at("writev", fd, NULL) ? -1 : real(fd, parts, n);
}
int fsync(int fd) {
    REAL(fsync, int, int);
    return fails_at("fsync", fd, NULL) ? -1 : real(fd);
}
int ftruncate(int fd, off_t size) {
    REAL(ftruncate, int, int, off_t);
    return fails_at("ftruncate", fd, NULL) ? -1 : real(fd, size);
}
int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64, int, int, off64_t);
    return fails_at("ftruncate64", fd, NULL) ? -1 : real(fd, size);
}
size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(fwrite, size_t, const void *, size_t, size_t, FILE *);
    return fails_at("fwrite", fileno(file), NULL) ? 0 : real(data, size, n, file);
}
int rename(const char *old, const char *new) {
    REAL(rename, int, const char *, const char *);
    return fails_at("rename", AT_FDCWD, new) ? -1 : real(old, new);
}
int renameat(int from, const char *old, int to, const char *new) {
    REAL(renameat, int, int, const char *, int, const char *);
    return fails_at("renameat", to, new) ? -1 : real(from, old, to, new);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir, int, const char *, mode_t);
    return fails_at("mkdir", AT_FDCWD, path) ? -1 : real(path, mode);
}

#define OPENS(name)                                                                    \
    int name(const char *path, int flags, ...) {                                       \
        REAL(name, int, const char *, int, ...);                                       \
        va_list rest;                                                                  \
        va_start(rest, flags);                                                         \
        mode_t mode = va_arg(rest, mode_t);                                            \
        va_end(rest);                                                                  \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails_at(#name, AT_FDCWD, path)) return -1; \
        return real(path, flags, mode);                                                \
    }
#define OPENS_AT(name)                                                                 \
    int name(int at, const char *path, int flags, ...) {                               \
        REAL(name, int, int, const char *, int, ...);                                  \
        va_list rest;                                                                  \
        va_start(rest, flags);                                                         \
        mode_t mode = va_arg(rest, mode_t);                                            \
        va_end(rest);                                                                  \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails_at(#name, at, path)) return -1; \
        return real(at, path, flags, mode);                                            \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)
#define FOPENS(name)                                                                   \
    FILE *name(const char *path, const char *mode) {                                   \
        REAL(name, FILE *, const char *, const char *);                                \
        if (mode[0] != 'r' && fails_at(#name, AT_FDCWD, path)) return NULL;            \
        return real(path, mode);                                                       \
    }
FOPENS(fopen)
FOPENS(fopen64)
