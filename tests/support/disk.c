/* Records what a process does to the files of one folder, in order, and makes some of it fail.
 *
 * CRASH_DISK_FOLDER  the folder
 * CRASH_DISK_RECORD  where to write the record (tests/support/disk.py reads it)
 * CRASH_DISK_FAULT   "write:3:5:4": of the writes to it, the 3rd fails with errno 5, and the 3
 *                   after it; the same with sync, truncate, create, unlink, punch;
 *                   "write:3:5:4:-wal": only those to files with that in their names count
 */
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
#include <unistd.h>

enum { CREATE = 1, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, FAILED_SYNC, PUNCH };

struct head {
    uint8_t kind, name_length;
    uint16_t unused;
    uint32_t unused_too;
    uint64_t offset, length;
};

#define FILES 1024
static char *names[FILES];
static const char *folder;
static size_t folder_length;
static int record = -1;
static int fault_kind, fault_first, fault_errno, fault_count, seen;
static char fault_part[32];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void) {
    const char *file = getenv("CRASH_DISK_RECORD"), *fault = getenv("CRASH_DISK_FAULT");
    char kind[16];
    folder = getenv("CRASH_DISK_FOLDER");
    if (!folder || !file) return;
    folder_length = strlen(folder);
    record = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fault && sscanf(fault, "%15[a-z]:%d:%d:%d:%31s", kind, &fault_first, &fault_errno,
                        &fault_count, fault_part) >= 4)
        fault_kind = !strcmp(kind, "create") ? CREATE : !strcmp(kind, "write") ? WRITE
                   : !strcmp(kind, "truncate") ? TRUNCATE : !strcmp(kind, "sync") ? SYNC
                   : !strcmp(kind, "punch") ? PUNCH : UNLINK;
}

/* The name of a path below the folder, "" for the folder itself, NULL for any other. */
static const char *name_of(const char *path) {
    if (record < 0 || strncmp(path, folder, folder_length)) return NULL;
    if (!path[folder_length]) return "";
    return path[folder_length] == '/' ? path + folder_length + 1 : NULL;
}

static const char *name_of_fd(int fd) {
    return record >= 0 && fd >= 0 && fd < FILES ? names[fd] : NULL;
}

static void put(const void *data, size_t length) {
    if (syscall(SYS_write, record, data, length) != (long)length) abort();
}

static void note(int kind, const char *name, uint64_t offset, uint64_t length, const void *data,
                 size_t size) {
    int kept = errno;
    struct head head = {kind, strlen(name), 0, 0, offset, length};
    put(&head, sizeof head);
    put(name, head.name_length);
    if (size) put(data, size);
    errno = kept;
}

/* The marks of the test never fail, and what shared memory has is lost anyway. */
static int is_to_fail(int kind, const char *name) {
    size_t length = strlen(name);
    if (kind != fault_kind || !strcmp(name, "marks") || !strstr(name, fault_part)) return 0;
    if (length > 4 && !strcmp(name + length - 4, "-shm")) return 0;
    seen++;
    if (seen < fault_first || seen >= fault_first + fault_count) return 0;
    errno = fault_errno;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define ENTER pthread_mutex_lock(&mutex)
#define LEAVE(result) do { int kept = errno; pthread_mutex_unlock(&mutex); errno = kept; \
                           return result; } while (0)

static int opened(int fd, const char *path, int is_new) {
    const char *name = name_of(path);
    if (fd >= 0 && fd < FILES && name) {
        names[fd] = strdup(name);
        if (is_new) note(CREATE, name, 0, 0, NULL, 0);
    }
    return fd;
}

#define OPEN(function, parameters, call)                                                   \
    int function parameters {                                                              \
        struct stat found;                                                                 \
        int mode = 0, is_new, fd;                                                          \
        if (flags & O_CREAT) {                                                             \
            va_list rest;                                                                  \
            va_start(rest, flags);                                                         \
            mode = va_arg(rest, int);                                                      \
            va_end(rest);                                                                  \
        }                                                                                  \
        if (!name_of(path)) return NEXT(function) call;                                    \
        ENTER;                                                                             \
        is_new = (flags & O_CREAT) && stat(path, &found);                                  \
        if (is_new && is_to_fail(CREATE, name_of(path))) LEAVE(-1);                        \
        fd = opened(NEXT(function) call, path, is_new);                                    \
        LEAVE(fd);                                                                         \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))

int close(int fd) {
    int result;
    if (!name_of_fd(fd)) return NEXT(close)(fd);
    ENTER;
    free(names[fd]);
    names[fd] = NULL;
    result = NEXT(close)(fd);
    LEAVE(result);
}

ssize_t write(int fd, const void *data, size_t length) {
    ssize_t result;
    if (!name_of_fd(fd)) return NEXT(write)(fd, data, length);
    ENTER;
    if (is_to_fail(WRITE, names[fd])) LEAVE(-1);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    result = NEXT(write)(fd, data, length);
    if (result > 0) note(WRITE, names[fd], offset, result, data, result);
    LEAVE(result);
}

#define PWRITE(function)                                                                   \
    ssize_t function(int fd, const void *data, size_t length, __off64_t offset) {          \
        ssize_t result;                                                                    \
        if (!name_of_fd(fd)) return NEXT(function)(fd, data, length, offset);              \
        ENTER;                                                                             \
        if (is_to_fail(WRITE, names[fd])) LEAVE(-1);                                       \
        result = NEXT(function)(fd, data, length, offset);                                 \
        if (result > 0) note(WRITE, names[fd], offset, result, data, result);              \
        LEAVE(result);                                                                     \
    }

PWRITE(pwrite)
PWRITE(pwrite64)

#define FTRUNCATE(function)                                                                \
    int function(int fd, __off64_t length) {                                               \
        int result;                                                                        \
        if (!name_of_fd(fd)) return NEXT(function)(fd, length);                            \
        ENTER;                                                                             \
        if (is_to_fail(TRUNCATE, names[fd])) LEAVE(-1);                                    \
        result = NEXT(function)(fd, length);                                               \
        if (!result) note(TRUNCATE, names[fd], 0, length, NULL, 0);                        \
        LEAVE(result);                                                                     \
    }

FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

/* Of what it can do only holes are recorded: nobody here asks for anything else. */
#define FALLOCATE(function)                                                                \
    int function(int fd, int mode, __off64_t offset, __off64_t length) {                   \
        int result;                                                                        \
        if (!name_of_fd(fd)) return NEXT(function)(fd, mode, offset, length);              \
        if (!(mode & FALLOC_FL_PUNCH_HOLE)) abort();                                       \
        ENTER;                                                                             \
        if (is_to_fail(PUNCH, names[fd])) LEAVE(-1);                                       \
        result = NEXT(function)(fd, mode, offset, length);                                 \
        if (!result) note(PUNCH, names[fd], offset, length, NULL, 0);                      \
        LEAVE(result);                                                                     \
    }

FALLOCATE(fallocate)
FALLOCATE(fallocate64)

#define SYNCHRONISE(function)                                                              \
    int function(int fd) {                                                                 \
        int result;                                                                        \
        if (!name_of_fd(fd)) return NEXT(function)(fd);                                    \
        ENTER;                                                                             \
        if (is_to_fail(SYNC, names[fd])) {                                                 \
            note(FAILED_SYNC, names[fd], 0, 0, NULL, 0);                                   \
            LEAVE(-1);                                                                     \
        }                                                                                  \
        result = NEXT(function)(fd);                                                       \
        if (!result) note(SYNC, names[fd], 0, 0, NULL, 0);                                 \
        LEAVE(result);                                                                     \
    }

SYNCHRONISE(fsync)
SYNCHRONISE(fdatasync)

int unlink(const char *path) {
    int result;
    if (!name_of(path)) return NEXT(unlink)(path);
    ENTER;
    if (is_to_fail(UNLINK, name_of(path))) LEAVE(-1);
    result = NEXT(unlink)(path);
    if (!result) note(UNLINK, name_of(path), 0, 0, NULL, 0);
    LEAVE(result);
}

int rename(const char *path, const char *target) {
    int result;
    if (!name_of(path) || !name_of(target)) return NEXT(rename)(path, target);
    ENTER;
    result = NEXT(rename)(path, target);
    if (!result) {
        const char *name = name_of(target);
        note(RENAME, name_of(path), 0, strlen(name), name, strlen(name));
    }
    LEAVE(result);
}
