/* A preload layer between a program and its file system: it records what happens below one directory, and makes single
 * calls fail.
 *
 *   POWERCUT_DIR    the directory, absolute and without symbolic links; nothing else is looked at
 *   POWERCUT_TRACE  the file that the record is appended to; without it nothing is recorded
 *   POWERCUT_SLOW   microseconds: every other sync takes up to so much longer, so that whoever does not wait for it is seen
 *   POWERCUT_FAIL   rules "CALL:ERROR:NTH:PART", separated by ';': the NTH (from 1) CALL ("write", "sync", "open", "rename",
 *                   "length") on a path that contains PART fails with ERROR ("EIO", "ENOSPC"); "NTH+" also all later ones
 *
 * Every call gives two records: one before it, with everything that it is about to do, and one behind it, with its result.
 * A call that is killed in between has only the first. Each record is one append, so that threads and successive processes
 * can share a file. Times are CLOCK_MONOTONIC, which all processes of a machine share. sync_file_range is recorded, and it is
 * for the reader to know that it makes nothing durable.
 *
 * Calls that bypass libc (fallocate and flock of the Rust program under test) are not seen. That is why a sync records the
 * file's length. What else was missed shows when the replayed record is compared with the directory itself.
 *
 * The records, little-endian as the machine: struct record, then `path_len`, `other_len` and `data_len` bytes. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { OPEN = 1, WRITE, LENGTH, RENAME, UNLINK, MKDIR, RMDIR, LINK, SYNC, SYNC_RANGE, SYNC_ALL, UNSUPPORTED, DONE = 255 };

struct record {
    uint32_t magic; /* "PCUT" */
    uint32_t kind;
    uint64_t pid;
    uint64_t number; /* of the call in its process; a DONE has the number of its call */
    uint64_t time;
    uint64_t inode;  /* OPEN and MKDIR give it in their DONE */
    int64_t a;       /* OPEN: flags; WRITE: offset; LENGTH: length; SYNC: the file's length; DONE: result, or -errno */
    int64_t b;       /* OPEN: 1 if the file was there; UNLINK: 1 for a directory */
    uint32_t path_len;
    uint32_t other_len;
    uint64_t data_len;
};

#define FILES 65536
static struct {
    dev_t device;
    ino_t inode;
    char *path;
    int append;
} files[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char directory[PATH_MAX];
static size_t directory_len;
static int trace = -1;
static uint64_t calls;
static uint64_t slow;

#define RULES 16
static struct {
    enum kind kind;
    int error, later;
    uint64_t nth, seen;
    char part[256];
} rules[RULES];
static int rule_count;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        fprintf(stderr, "powercut: libc has no %s\n", name);
        abort();
    }
    return found;
}

static void add_rule(char *text) {
    char *save, *call = strtok_r(text, ":", &save), *error = strtok_r(NULL, ":", &save);
    char *nth = strtok_r(NULL, ":", &save), *part = strtok_r(NULL, "", &save);
    if (!call || !error || !nth || rule_count == RULES) {
        fprintf(stderr, "powercut: POWERCUT_FAIL is no list of CALL:ERROR:NTH:PART\n");
        abort();
    }
    char *end;
    rules[rule_count].kind = !strcmp(call, "write")    ? WRITE
                             : !strcmp(call, "sync")   ? SYNC
                             : !strcmp(call, "open")   ? OPEN
                             : !strcmp(call, "rename") ? RENAME
                             : !strcmp(call, "length") ? LENGTH
                                                       : UNSUPPORTED;
    rules[rule_count].error = !strcmp(error, "EIO") ? EIO : !strcmp(error, "ENOSPC") ? ENOSPC : 0;
    rules[rule_count].nth = strtoull(nth, &end, 10);
    rules[rule_count].later = *end == '+';
    snprintf(rules[rule_count].part, sizeof rules[rule_count].part, "%s", part ? part : "");
    if (rules[rule_count].kind == UNSUPPORTED || !rules[rule_count].error || !rules[rule_count].nth) {
        fprintf(stderr, "powercut: POWERCUT_FAIL names a call, an error or a number that it does not know\n");
        abort();
    }
    rule_count++;
}

__attribute__((constructor)) static void begin(void) {
    const char *dir = getenv("POWERCUT_DIR"), *file = getenv("POWERCUT_TRACE"), *fail = getenv("POWERCUT_FAIL");
    const char *slower = getenv("POWERCUT_SLOW");
    slow = slower ? strtoull(slower, NULL, 10) : 0;
    if (!dir)
        return;
    directory_len = (size_t)snprintf(directory, sizeof directory, "%s", dir);
    if (file) {
        trace = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (trace < 0) {
            fprintf(stderr, "powercut: %s: %s\n", file, strerror(errno));
            abort();
        }
    }
    if (fail) {
        char *copy = strdup(fail), *save;
        for (char *text = strtok_r(copy, ";", &save); text; text = strtok_r(NULL, ";", &save))
            add_rule(text);
        free(copy);
    }
}

/* Whether this call is to fail; sets errno. */
static int fails(enum kind kind, const char *path) {
    for (int i = 0; i < rule_count; i++) {
        if (rules[i].kind != kind || !strstr(path, rules[i].part))
            continue;
        uint64_t seen = __atomic_add_fetch(&rules[i].seen, 1, __ATOMIC_SEQ_CST);
        if (seen == rules[i].nth || (rules[i].later && seen > rules[i].nth)) {
            errno = rules[i].error;
            return 1;
        }
    }
    return 0;
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void put(struct record *record, const char *path, const char *other, const struct iovec *data, int count) {
    int saved = errno;
    struct iovec all[3 + IOV_MAX > 1024 ? 1024 : 3 + IOV_MAX];
    record->magic = 0x54554350;
    record->pid = (uint64_t)getpid();
    record->path_len = path ? (uint32_t)strlen(path) : 0;
    record->other_len = other ? (uint32_t)strlen(other) : 0;
    size_t total = sizeof *record + record->path_len + record->other_len + record->data_len, left = record->data_len;
    int used = 0;
    all[used++] = (struct iovec){record, sizeof *record};
    all[used++] = (struct iovec){(void *)path, record->path_len};
    all[used++] = (struct iovec){(void *)other, record->other_len};
    for (int i = 0; i < count && left && used < 1024; i++) {
        size_t part = data[i].iov_len < left ? data[i].iov_len : left;
        all[used++] = (struct iovec){data[i].iov_base, part};
        left -= part;
    }
    if (left || syscall(SYS_writev, trace, all, used) != (long)total) {
        fprintf(stderr, "powercut: the record cannot be written: %s\n", strerror(errno));
        abort();
    }
    errno = saved;
}

/* Records what is about to happen; gives its number, 0 if nothing is recorded. */
static uint64_t before(enum kind kind, ino_t inode, int64_t a, int64_t b, const char *path, const char *other, const struct iovec *data,
                       int count) {
    if (trace < 0)
        return 0;
    uint64_t number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    struct record record = {.kind = kind, .number = number, .time = now(), .inode = inode, .a = a, .b = b};
    for (int i = 0; i < count; i++)
        record.data_len += data[i].iov_len;
    put(&record, path, other, data, count);
    return number;
}

static long after(uint64_t number, ino_t inode, long result) {
    if (number) {
        struct record record = {.kind = DONE, .number = number, .time = now(), .inode = inode, .a = result < 0 ? -errno : result};
        put(&record, NULL, NULL, NULL, 0);
    }
    return result;
}

/* The absolute path of `path` below `at`; 1 if it lies in the directory that is looked at. */
static int within(int at, const char *path, char *out) {
    if (!directory_len || !path)
        return 0;
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        char link[64], base[PATH_MAX];
        if (at == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0)
            return 0;
        base[length] = 0;
        if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX)
            return 0;
    }
    return !strncmp(out, directory, directory_len) && (out[directory_len] == '/' || !out[directory_len]);
}

/* The path of an open file that is looked at, and its inode; NULL for any other. The caller frees it. */
static char *watched(int fd, ino_t *inode) {
    if (!directory_len || fd < 0 || fd >= FILES || !files[fd].path)
        return NULL;
    struct stat found;
    char *path = NULL;
    pthread_mutex_lock(&lock);
    if (files[fd].path && !fstat(fd, &found) && found.st_ino == files[fd].inode && found.st_dev == files[fd].device) {
        path = strdup(files[fd].path);
        *inode = found.st_ino;
    }
    pthread_mutex_unlock(&lock);
    return path;
}

static void watch(int fd, const char *path, int append) {
    if (fd < 0 || fd >= FILES || fd == trace)
        return;
    struct stat found = {0};
    int good = path && !fstat(fd, &found);
    pthread_mutex_lock(&lock);
    free(files[fd].path);
    files[fd].path = good ? strdup(path) : NULL;
    files[fd].inode = found.st_ino;
    files[fd].device = found.st_dev;
    files[fd].append = append;
    pthread_mutex_unlock(&lock);
}

static int opened(int at, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    int fd, looked_at = within(at, path, full);
    if (!looked_at) {
        fd = (int)syscall(SYS_openat, at, path, flags, mode);
        if (directory_len)
            watch(fd, NULL, 0);
        return fd;
    }
    if (fails(OPEN, full))
        return -1;
    struct stat found;
    int was_there = !fstatat(at, path, &found, 0);
    /* Only what changes something is worth a record. */
    int changes = (flags & O_CREAT && !was_there) || flags & O_TRUNC;
    uint64_t number = changes ? before(OPEN, 0, flags, was_there, full, NULL, NULL, 0) : 0;
    fd = (int)syscall(SYS_openat, at, path, flags, mode);
    int good = fd >= 0 && !fstat(fd, &found);
    after(number, good ? found.st_ino : 0, fd);
    watch(fd, full, flags & O_APPEND);
    return fd;
}

#define MODE(flags)                                                                                                                        \
    mode_t mode = 0;                                                                                                                       \
    if ((flags) & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {                                                                                \
        va_list arguments;                                                                                                                 \
        va_start(arguments, flags);                                                                                                        \
        mode = va_arg(arguments, mode_t);                                                                                                  \
        va_end(arguments);                                                                                                                 \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return opened(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE(flags)
    return opened(AT_FDCWD, path, flags, mode);
}
int openat(int at, const char *path, int flags, ...) {
    MODE(flags)
    return opened(at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) {
    MODE(flags)
    return opened(at, path, flags, mode);
}
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    if (fd >= 0 && fd == trace)
        return 0;
    if (directory_len && fd >= 0 && fd < FILES && files[fd].path)
        watch(fd, NULL, 0);
    return (int)syscall(SYS_close, fd);
}

static int copied(int from, int to) {
    if (to >= 0 && from >= 0 && from < FILES && directory_len) {
        ino_t inode;
        char *path = watched(from, &inode);
        watch(to, path, path ? files[from].append : 0);
        free(path);
    }
    return to;
}
int dup(int fd) { return copied(fd, (int)syscall(SYS_dup, fd)); }
int dup2(int fd, int to) { return copied(fd, REAL(dup2)(fd, to)); }
int dup3(int fd, int to, int flags) { return copied(fd, REAL(dup3)(fd, to, flags)); }
static int controlled(int fd, int command, void *argument) {
    int result = REAL(fcntl)(fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? copied(fd, result) : result;
}
int fcntl(int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return controlled(fd, command, argument);
}
int fcntl64(int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return controlled(fd, command, argument);
}

/* A write at `offset`; -1 is the file's position, which only this thread is taken to move. */
static ssize_t written(int fd, const struct iovec *data, int count, off_t offset) {
    ino_t inode = 0;
    char *path = watched(fd, &inode);
    uint64_t number = 0;
    if (path) {
        if (fails(WRITE, path)) {
            free(path);
            return -1;
        }
        off_t at = offset;
        if (at < 0) {
            struct stat found;
            at = files[fd].append && !fstat(fd, &found) ? found.st_size : lseek(fd, 0, SEEK_CUR);
        }
        number = before(WRITE, inode, at, 0, path, NULL, data, count);
        free(path);
    }
    long result = offset < 0 ? syscall(SYS_writev, fd, data, count) : syscall(SYS_pwritev, fd, data, count, offset, 0);
    return after(number, inode, result);
}
ssize_t write(int fd, const void *bytes, size_t length) {
    if (!directory_len || fd < 0 || fd >= FILES || !files[fd].path)
        return syscall(SYS_write, fd, bytes, length);
    struct iovec data = {(void *)bytes, length};
    return written(fd, &data, 1, -1);
}
ssize_t writev(int fd, const struct iovec *data, int count) { return written(fd, data, count, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    struct iovec data = {(void *)bytes, length};
    return written(fd, &data, 1, offset);
}
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) { return pwrite(fd, bytes, length, offset); }
ssize_t pwritev(int fd, const struct iovec *data, int count, off_t offset) { return written(fd, data, count, offset); }
ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t offset) { return written(fd, data, count, offset); }

static int sized(int fd, off_t length, long (*call)(int, off_t, off_t), off_t from) {
    ino_t inode = 0;
    char *path = watched(fd, &inode);
    uint64_t number = 0;
    if (path) {
        if (fails(LENGTH, path)) {
            free(path);
            return -1;
        }
        number = before(LENGTH, inode, length, 0, path, NULL, NULL, 0);
        free(path);
    }
    return (int)after(number, inode, call(fd, from, length));
}
static long truncate_call(int fd, off_t from, off_t length) {
    (void)from;
    return syscall(SYS_ftruncate, fd, length);
}
int ftruncate(int fd, off_t length) { return sized(fd, length, truncate_call, 0); }
int ftruncate64(int fd, off64_t length) { return sized(fd, length, truncate_call, 0); }

/* Allocation lengthens a file or leaves it; a hole or a shift is not understood. */
static long allocate_call(int fd, off_t from, off_t length) {
    (void)from;
    return syscall(SYS_fallocate, fd, 0, 0, length);
}
int fallocate(int fd, int mode, off_t offset, off_t length) {
    ino_t inode = 0;
    char *path = watched(fd, &inode);
    if (!path)
        return (int)syscall(SYS_fallocate, fd, mode, offset, length);
    struct stat found;
    if (mode)
        before(UNSUPPORTED, inode, mode, 0, path, NULL, NULL, 0);
    free(path);
    off_t end = offset + length;
    if (!fstat(fd, &found) && found.st_size >= end)
        return (int)syscall(SYS_fallocate, fd, mode, offset, length);
    return sized(fd, end, allocate_call, 0);
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length) { return fallocate(fd, 0, offset, length) ? errno : 0; }
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }

static int named(enum kind kind, int at, const char *path, int64_t b, const char *other, int other_at, long (*call)(int, const char *, int, const char *, long),
                 long argument) {
    char full[PATH_MAX], full_other[PATH_MAX];
    int here = within(at, path, full), there = other && within(other_at, other, full_other);
    uint64_t number = 0;
    if (here || there) {
        if (fails(kind, here ? full : full_other))
            return -1;
        number = before(other && !(here && there) ? UNSUPPORTED : kind, 0, 0, b, here ? full : path, other ? (there ? full_other : other) : NULL, NULL, 0);
    }
    long result = call(at, path, other_at, other, argument);
    struct stat found;
    ino_t inode = 0;
    int saved = errno;
    if (number && kind == MKDIR && !result && !fstatat(at, path, &found, 0))
        inode = found.st_ino;
    errno = saved;
    return (int)after(number, inode, result);
}
static long rename_call(int at, const char *path, int other_at, const char *other, long flags) {
    return syscall(SYS_renameat2, at, path, other_at, other, flags);
}
static long link_call(int at, const char *path, int other_at, const char *other, long flags) {
    return syscall(SYS_linkat, at, path, other_at, other, flags);
}
static long unlink_call(int at, const char *path, int other_at, const char *other, long flags) {
    (void)other_at, (void)other;
    return syscall(SYS_unlinkat, at, path, flags);
}
static long mkdir_call(int at, const char *path, int other_at, const char *other, long mode) {
    (void)other_at, (void)other;
    return syscall(SYS_mkdirat, at, path, mode);
}
int rename(const char *from, const char *to) { return named(RENAME, AT_FDCWD, from, 0, to, AT_FDCWD, rename_call, 0); }
int renameat(int at, const char *from, int to_at, const char *to) { return named(RENAME, at, from, 0, to, to_at, rename_call, 0); }
int renameat2(int at, const char *from, int to_at, const char *to, unsigned flags) {
    return named(flags & ~1u ? UNSUPPORTED : RENAME, at, from, 0, to, to_at, rename_call, flags);
}
int link(const char *from, const char *to) { return named(LINK, AT_FDCWD, from, 0, to, AT_FDCWD, link_call, 0); }
int linkat(int at, const char *from, int to_at, const char *to, int flags) { return named(LINK, at, from, 0, to, to_at, link_call, flags); }
int unlink(const char *path) { return named(UNLINK, AT_FDCWD, path, 0, NULL, 0, unlink_call, 0); }
int unlinkat(int at, const char *path, int flags) { return named(UNLINK, at, path, !!(flags & AT_REMOVEDIR), NULL, 0, unlink_call, flags); }
int rmdir(const char *path) { return named(RMDIR, AT_FDCWD, path, 1, NULL, 0, unlink_call, AT_REMOVEDIR); }
int mkdir(const char *path, mode_t mode) { return named(MKDIR, AT_FDCWD, path, 0, NULL, 0, mkdir_call, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return named(MKDIR, at, path, 0, NULL, 0, mkdir_call, mode); }

static long synced(int fd, enum kind kind, long call) {
    ino_t inode = 0;
    char *path = watched(fd, &inode);
    uint64_t number = 0;
    if (path) {
        if (fails(SYNC, path)) {
            free(path);
            return -1;
        }
        struct stat found = {0};
        fstat(fd, &found);
        number = before(kind, inode, found.st_size, 0, path, NULL, NULL, 0);
        free(path);
    }
    uint64_t mixed = (now() ^ (uint64_t)getpid()) * 0x9e3779b97f4a7c15u >> 20;
    if (number && slow && mixed & 1)
        usleep((useconds_t)(mixed / 2 % slow));
    return after(number, inode, syscall(call, fd));
}
int fsync(int fd) { return (int)synced(fd, SYNC, SYS_fsync); }
int fdatasync(int fd) { return (int)synced(fd, SYNC, SYS_fdatasync); }
int syncfs(int fd) { return (int)synced(fd, SYNC_ALL, SYS_syncfs); }
void sync(void) {
    uint64_t number = directory_len ? before(SYNC_ALL, 0, 0, 0, directory, NULL, NULL, 0) : 0;
    syscall(SYS_sync);
    after(number, 0, 0);
}
int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags) {
    ino_t inode = 0;
    char *path = watched(fd, &inode);
    uint64_t number = path ? before(SYNC_RANGE, inode, offset, length, path, NULL, NULL, 0) : 0;
    free(path);
    return (int)after(number, inode, syscall(SYS_sync_file_range, fd, offset, length, flags));
}

/* What would change a file unseen. */
static void refuse(int fd) {
    ino_t inode = 0;
    char *path = watched(fd, &inode);
    if (path)
        before(UNSUPPORTED, inode, 0, 0, path, NULL, NULL, 0);
    free(path);
}
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t length, unsigned flags) {
    refuse(out);
    return syscall(SYS_copy_file_range, in, in_at, out, out_at, length, flags);
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t count) {
    refuse(out);
    return syscall(SYS_sendfile, out, in, offset, count);
}
