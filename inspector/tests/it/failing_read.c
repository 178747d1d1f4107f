/* Loaded into a program (LD_PRELOAD): reads of the file FAILING_FILE fail with EIO, from the one with number FAILING_FIRST
 * on, counted from 0, FAILING_COUNT of them. Filling a mapping (MADV_POPULATE_READ) counts as a read of it: the kernel
 * refuses that with EFAULT where a look at the mapping would be SIGBUS. Behind the filling with number CUT_BEHIND, counted
 * from 0, the file is cut to CUT_TO bytes: a look at what it had is SIGBUS then. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static struct stat wanted;
static const char *file;
static long first, count, seen, filled, cut_behind = -1, cut_to;

__attribute__((constructor)) static void begin(void) {
    file = getenv("FAILING_FILE");
    first = atol(getenv("FAILING_FIRST"));
    count = atol(getenv("FAILING_COUNT"));
    if (getenv("CUT_BEHIND")) {
        cut_behind = atol(getenv("CUT_BEHIND"));
        cut_to = atol(getenv("CUT_TO"));
    }
    if (!file || stat(file, &wanted) != 0) abort();
}

static int strikes(void) {
    long number = __atomic_fetch_add(&seen, 1, __ATOMIC_SEQ_CST);
    return number >= first && number - first < count;
}

static int fails(int fd) {
    struct stat own;
    if (fstat(fd, &own) != 0 || own.st_dev != wanted.st_dev || own.st_ino != wanted.st_ino) return 0;
    if (!strikes()) return 0;
    errno = EIO;
    return 1;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t read(int fd, void *to, size_t bytes) { REAL(read); return fails(fd) ? -1 : real(fd, to, bytes); }
ssize_t readv(int fd, const struct iovec *to, int n) { REAL(readv); return fails(fd) ? -1 : real(fd, to, n); }
ssize_t pread(int fd, void *to, size_t bytes, off_t at) { REAL(pread); return fails(fd) ? -1 : real(fd, to, bytes, at); }
ssize_t pread64(int fd, void *to, size_t bytes, off64_t at) { REAL(pread64); return fails(fd) ? -1 : real(fd, to, bytes, at); }
ssize_t preadv(int fd, const struct iovec *to, int n, off_t at) { REAL(preadv); return fails(fd) ? -1 : real(fd, to, n, at); }

ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t bytes, unsigned flags) {
    REAL(copy_file_range);
    return fails(from) ? -1 : real(from, in, to, out, bytes, flags);
}

int madvise(void *at, size_t bytes, int advice) {
    REAL(madvise);
    if (advice == MADV_POPULATE_READ && strikes()) {
        errno = EFAULT;
        return -1;
    }
    int result = real(at, bytes, advice);
    if (advice == MADV_POPULATE_READ && result == 0 && filled++ == cut_behind && truncate(file, cut_to) != 0) abort();
    return result;
}
