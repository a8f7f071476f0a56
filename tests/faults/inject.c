/* A disk that fails, for one program under test: preloaded, it refuses writes to, or syncs of, the files whose path contains a word.
 *
 *   INJECT_PATH   the word
 *   INJECT_OP     write | sync
 *   INJECT_ERRNO  a number: 28 (ENOSPC), 5 (EIO)
 *   INJECT_WHEN   a file: the disk fails as long as it exists
 *
 * Calls that do not go through the C library (an allocation ahead of need does not) are not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int fails(int fd, const char *op) {
    const char *wanted = getenv("INJECT_OP"), *word = getenv("INJECT_PATH"), *number = getenv("INJECT_ERRNO");
    char link[64], path[4096];
    const char *when = getenv("INJECT_WHEN");
    if (!wanted || !word || !number || !when || strcmp(wanted, op) != 0) return 0;
    int before = errno;
    int failing = access(when, F_OK) == 0;
    errno = before;
    if (!failing) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    errno = before;
    if (len < 0) return 0;
    path[len] = 0;
    if (!strstr(path, word)) return 0;
    errno = atoi(number);
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define REFUSE(fd, op) do { if (fails(fd, op)) return -1; } while (0)

ssize_t write(int fd, const void *data, size_t len) { REFUSE(fd, "write"); return NEXT(write)(fd, data, len); }
ssize_t writev(int fd, const struct iovec *parts, int count) { REFUSE(fd, "write"); return NEXT(writev)(fd, parts, count); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { REFUSE(fd, "write"); return NEXT(pwrite)(fd, data, len, at); }
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) { REFUSE(fd, "write"); return NEXT(pwrite64)(fd, data, len, at); }
int ftruncate(int fd, off_t len) { REFUSE(fd, "write"); return NEXT(ftruncate)(fd, len); }
int ftruncate64(int fd, off64_t len) { REFUSE(fd, "write"); return NEXT(ftruncate64)(fd, len); }
int fsync(int fd) { REFUSE(fd, "sync"); return NEXT(fsync)(fd); }
int fdatasync(int fd) { REFUSE(fd, "sync"); return NEXT(fdatasync)(fd); }
