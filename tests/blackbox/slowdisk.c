// LD_PRELOAD: fsync and fdatasync that take longer, hang or fail, and that count themselves.
//   SLOWDISK_US       microseconds that each takes longer
//   SLOWDISK_CONTROL  a file: while it holds "hang" they do not return, while it holds "fail" they fail with EIO
//   SLOWDISK_COUNT    a file that gets one byte per call (its size is the count)
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int told(const char *word) {
    const char *path = getenv("SLOWDISK_CONTROL");
    char text[16] = "";
    if (!path) return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    return n > 0 && !strncmp(text, word, strlen(word));
}

static void count(void) {
    const char *path = getenv("SLOWDISK_COUNT");
    if (!path) return;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    if (write(fd, ".", 1) < 0) { /* the count is a measurement, not a promise */ }
    close(fd);
}

static int slow(const char *name, int fd) {
    const char *us = getenv("SLOWDISK_US");
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    count();
    if (us) usleep((useconds_t)atoi(us));
    while (told("hang")) usleep(20000);
    if (told("fail")) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
