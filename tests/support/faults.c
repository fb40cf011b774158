/* Lets what is done to the files of a folder fail, from the moment on when a test says so.
 *
 * FAULTS_FOLDER  the folder
 * FAULTS_FILE    from when it is there, it says what fails and with which errno: "sync 5",
 *                "write 28"
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Whether a call is to fail; errno is set then. Nothing here calls what stands below. */
static int fails(const char *kind, int fd) {
    const char *folder = getenv("FAULTS_FOLDER"), *file = getenv("FAULTS_FILE");
    char link[64], path[4096], text[64], found[16];
    int kept = errno, said, problem = 0;
    ssize_t length;

    if (!folder || !file) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length < 0) return 0;
    path[length] = 0;
    if (strncmp(path, folder, strlen(folder)) || path[strlen(folder)] != '/') return 0;
    said = syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC);
    errno = kept;
    if (said < 0) return 0;
    length = syscall(SYS_read, said, text, sizeof text - 1);
    syscall(SYS_close, said);
    text[length < 0 ? 0 : length] = 0;
    errno = kept;
    if (sscanf(text, "%15s %d", found, &problem) != 2 || strcmp(found, kind)) return 0;
    errno = problem;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t length) {
    return fails("write", fd) ? -1 : NEXT(write)(fd, data, length);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return fails("write", fd) ? -1 : NEXT(pwrite)(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, __off64_t offset) {
    return fails("write", fd) ? -1 : NEXT(pwrite64)(fd, data, length, offset);
}

int fsync(int fd) { return fails("sync", fd) ? -1 : NEXT(fsync)(fd); }

int fdatasync(int fd) { return fails("sync", fd) ? -1 : NEXT(fdatasync)(fd); }
