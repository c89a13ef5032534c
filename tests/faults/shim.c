/* The fault injector: preloaded into every process of a run, it stands before each call that touches a file below one
 * folder, numbers the calls of all processes with one counter, and at one number does what it was told.
 *
 * It makes the system calls itself and never calls the library that it stands before, so it cannot meet itself.
 * tests/faults/shim.py holds the same Control in Python. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { KILL = 1, FAIL, SHORT, LOSE, SLEEP };
enum { OPEN_READ = 1, OPEN_WRITE = 2, WRITE = 4, SYNC = 8, RENAME = 16, REMOVE = 32, MKDIR = 64, TRUNCATE = 128, LINK = 256 };

typedef struct {
    _Atomic uint64_t calls; /* so many calls of the kinds asked for, over all processes */
    uint64_t at;            /* the call that the fault comes to, from 1; 0 only counts */
    uint32_t action;
    int32_t error;      /* for FAIL */
    uint32_t kinds;     /* which kinds count */
    uint32_t lasting;   /* for FAIL: every later call of these kinds fails as well */
    uint32_t sleep_us;  /* for SLEEP */
    _Atomic uint32_t fired;
    int32_t fired_pid;
    _Atomic uint32_t many;
    int32_t groups[32]; /* the process groups of the run: a child may have one of its own */
    char fired_call[28];
    char fired_path[512];
    char root[512];
    char log[512]; /* empty: no log */
} Control;

static Control *control;
static char preload_variable[600], control_variable[600];

/* Called by the fork server after a fork; the environment arms processes that are started with one. */
void shim_arm(const char *path) {
    control = NULL;
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, 0);
    syscall(SYS_close, fd);
    if (mapped == MAP_FAILED) return;
    Dl_info here;
    if (dladdr((void *)shim_arm, &here)) snprintf(preload_variable, sizeof preload_variable, "LD_PRELOAD=%s", here.dli_fname);
    snprintf(control_variable, sizeof control_variable, "GRISTMILL_SHIM=%s", path);
    control = mapped;
    uint32_t place = atomic_fetch_add(&control->many, 1);
    if (place < 32) control->groups[place] = (int32_t)getpgrp();
}

uint64_t shim_control_bytes(void) { return sizeof(Control); }

__attribute__((constructor)) static void arm_from_environment(void) {
    const char *path = getenv("GRISTMILL_SHIM");
    if (path && *path) shim_arm(path);
}

/* Where calls go. */

static int below_root(const char *path) {
    size_t length = strlen(control->root);
    return strncmp(path, control->root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int path_of_fd(int fd, char *into, size_t size) {
    char link[64];
    if (fd == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, into, size - 1);
    if (length < 0) return 0;
    into[length] = 0;
    return 1;
}

static int path_of_name(int folder, const char *name, char *into, size_t size) {
    if (name == NULL) return 0;
    if (name[0] == '/') {
        snprintf(into, size, "%s", name);
        return 1;
    }
    while (name[0] == '.' && name[1] == '/') name += 2;
    if (!path_of_fd(folder, into, size)) return 0;
    size_t length = strlen(into);
    snprintf(into + length, size - length, "/%s", name);
    return 1;
}

static void note(uint64_t ordinal, uint32_t kind, const char *call, const char *path) {
    char line[1200];
    int length =
        snprintf(line, sizeof line, "%lu %d %u %s %s\n", (unsigned long)ordinal, (int)getpid(), kind, call, path);
    long fd = syscall(SYS_openat, AT_FDCWD, control->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    syscall(SYS_write, fd, line, (size_t)length);
    syscall(SYS_close, fd);
}

static void kill_all(void) {
    uint32_t many = atomic_load(&control->many);
    for (uint32_t i = 0; i < many && i < 32; i++)
        if (control->groups[i] > 1 && control->groups[i] != getpgrp()) kill(-control->groups[i], SIGKILL);
    /* Only a group of our own: whoever started us without one would die with us. */
    if (getpgrp() == getsid(0)) kill(0, SIGKILL);
    kill(getpid(), SIGKILL);
}

/* Count a call that goes to `path`; returns what is to be done instead of it: 0 nothing, or FAIL, SHORT, LOSE. */
static int meet(uint32_t kind, const char *call, const char *path) {
    if (!below_root(path)) return 0;
    int counts = (control->kinds & kind) != 0;
    uint64_t ordinal = counts ? atomic_fetch_add(&control->calls, 1) + 1 : 0;
    if (control->log[0]) note(ordinal, kind, call, path);
    if (!counts || control->at == 0) return 0;
    int again = control->lasting && ordinal > control->at;
    if (ordinal != control->at && !again) return 0;
    if (!again) {
        control->fired_pid = (int32_t)getpid();
        snprintf(control->fired_call, sizeof control->fired_call, "%s", call);
        snprintf(control->fired_path, sizeof control->fired_path, "%.500s", path);
        atomic_store(&control->fired, 1);
    }
    if (control->action == KILL) kill_all();
    if (control->action == SLEEP) {
        struct timespec pause = {control->sleep_us / 1000000, (long)(control->sleep_us % 1000000) * 1000};
        syscall(SYS_nanosleep, &pause, NULL);
        return 0;
    }
    return (int)control->action;
}

static int meet_name(uint32_t kind, const char *call, int folder, const char *name) {
    char path[1100];
    return control && path_of_name(folder, name, path, sizeof path) ? meet(kind, call, path) : 0;
}

static int meet_fd(uint32_t kind, const char *call, int fd) {
    char path[1100];
    return control && path_of_fd(fd, path, sizeof path) ? meet(kind, call, path) : 0;
}

static int failed(void) {
    errno = control->error;
    return -1;
}

/* The calls. */

static int open_below(int folder, const char *name, int flags, mode_t mode, const char *call) {
    uint32_t kind = (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) ? OPEN_WRITE : OPEN_READ;
    if (meet_name(kind, call, folder, name) == FAIL) return failed();
    return (int)syscall(SYS_openat, folder, name, flags, mode);
}

#define MODE_OF(flags)                                   \
    mode_t mode = 0;                                     \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list rest;                                    \
        va_start(rest, flags);                           \
        mode = (mode_t)va_arg(rest, int);                \
        va_end(rest);                                    \
    }

int open(const char *name, int flags, ...) { MODE_OF(flags) return open_below(AT_FDCWD, name, flags, mode, "open"); }
int open64(const char *name, int flags, ...) { MODE_OF(flags) return open_below(AT_FDCWD, name, flags, mode, "open"); }
int openat(int at, const char *name, int flags, ...) { MODE_OF(flags) return open_below(at, name, flags, mode, "openat"); }
int openat64(int at, const char *name, int flags, ...) { MODE_OF(flags) return open_below(at, name, flags, mode, "openat"); }
int __open_2(const char *name, int flags) { return open_below(AT_FDCWD, name, flags, 0, "open"); }
int __open64_2(const char *name, int flags) { return open_below(AT_FDCWD, name, flags, 0, "open"); }
int __openat_2(int at, const char *name, int flags) { return open_below(at, name, flags, 0, "openat"); }
int __openat64_2(int at, const char *name, int flags) { return open_below(at, name, flags, 0, "openat"); }
int creat(const char *name, mode_t mode) { return open_below(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode, "creat"); }
int creat64(const char *name, mode_t mode) { return open_below(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode, "creat"); }

static int written_bytes(int done, size_t *size) {
    if (done == SHORT && *size > 1) *size /= 2;
    return done;
}

ssize_t write(int fd, const void *from, size_t size) {
    switch (written_bytes(meet_fd(WRITE, "write", fd), &size)) {
    case FAIL: return failed();
    case LOSE: return (ssize_t)size;
    }
    return syscall(SYS_write, fd, from, size);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t place) {
    switch (written_bytes(meet_fd(WRITE, "pwrite", fd), &size)) {
    case FAIL: return failed();
    case LOSE: return (ssize_t)size;
    }
    return syscall(SYS_pwrite64, fd, from, size, place);
}
ssize_t pwrite(int fd, const void *from, size_t size, off_t place) { return pwrite64(fd, from, size, place); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    size_t size = 0;
    for (int i = 0; i < count; i++) size += parts[i].iov_len;
    switch (meet_fd(WRITE, "writev", fd)) {
    case FAIL: return failed();
    case LOSE: return (ssize_t)size;
    case SHORT:
        if (count > 0 && parts[0].iov_len > 1) return syscall(SYS_write, fd, parts[0].iov_base, parts[0].iov_len / 2);
    }
    return syscall(SYS_writev, fd, parts, count);
}

int fsync(int fd) { return meet_fd(SYNC, "fsync", fd) == FAIL ? failed() : (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return meet_fd(SYNC, "fdatasync", fd) == FAIL ? failed() : (int)syscall(SYS_fdatasync, fd); }
int sync_file_range(int fd, off64_t from, off64_t size, unsigned flags) {
    if (meet_fd(SYNC, "sync_file_range", fd) == FAIL) return failed();
    return (int)syscall(SYS_sync_file_range, fd, from, size, flags);
}

static int rename_below(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    if (meet_name(RENAME, "rename", to_at, to) == FAIL) return failed();
    return (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
}
int rename(const char *from, const char *to) { return rename_below(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_at, const char *from, int to_at, const char *to) { return rename_below(from_at, from, to_at, to, 0); }
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    return rename_below(from_at, from, to_at, to, flags);
}

static int remove_below(int at, const char *name, int flags, const char *call) {
    if (meet_name(REMOVE, call, at, name) == FAIL) return failed();
    return (int)syscall(SYS_unlinkat, at, name, flags);
}
int unlink(const char *name) { return remove_below(AT_FDCWD, name, 0, "unlink"); }
int unlinkat(int at, const char *name, int flags) { return remove_below(at, name, flags, "unlinkat"); }
int rmdir(const char *name) { return remove_below(AT_FDCWD, name, AT_REMOVEDIR, "rmdir"); }

int mkdirat(int at, const char *name, mode_t mode) {
    if (meet_name(MKDIR, "mkdir", at, name) == FAIL) return failed();
    return (int)syscall(SYS_mkdirat, at, name, mode);
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int ftruncate64(int fd, off64_t size) {
    return meet_fd(TRUNCATE, "ftruncate", fd) == FAIL ? failed() : (int)syscall(SYS_ftruncate, fd, size);
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
int truncate64(const char *name, off64_t size) {
    if (meet_name(TRUNCATE, "truncate", AT_FDCWD, name) == FAIL) return failed();
    return (int)syscall(SYS_truncate, name, size);
}
int truncate(const char *name, off_t size) { return truncate64(name, size); }

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    if (meet_name(LINK, "link", to_at, to) == FAIL) return failed();
    return (int)syscall(SYS_linkat, from_at, from, to_at, to, flags);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
int symlinkat(const char *from, int to_at, const char *to) {
    if (meet_name(LINK, "symlink", to_at, to) == FAIL) return failed();
    return (int)syscall(SYS_symlinkat, from, to_at, to);
}
int symlink(const char *from, const char *to) { return symlinkat(from, AT_FDCWD, to); }

/* A child that is started with an environment of its own keeps the shim. It may be a vfork: nothing is allocated. */

extern char **environ;

static int same_variable(const char *left, const char *right) {
    size_t length = (size_t)(strchr(right, '=') - right) + 1;
    return strncmp(left, right, length) == 0;
}

#define WITH_SHIM(from, into)                                                                       \
    size_t many = 0;                                                                                \
    while (from && from[many]) many++;                                                              \
    char *into[many + 3];                                                                           \
    size_t kept = 0;                                                                                \
    for (size_t i = 0; i < many; i++)                                                               \
        if (!same_variable(from[i], preload_variable) && !same_variable(from[i], control_variable)) \
            into[kept++] = from[i];                                                                 \
    into[kept++] = preload_variable;                                                                \
    into[kept++] = control_variable;                                                                \
    into[kept] = NULL;

int execve(const char *file, char *const arguments[], char *const variables[]) {
    if (!control) return (int)syscall(SYS_execve, file, arguments, variables);
    WITH_SHIM(variables, with_shim)
    return (int)syscall(SYS_execve, file, arguments, with_shim);
}
int execv(const char *file, char *const arguments[]) { return execve(file, arguments, environ); }

typedef int Spawn(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[], char *const[]);

static int spawn_with_shim(const char *name, pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                           const posix_spawnattr_t *attributes, char *const arguments[], char *const variables[]) {
    Spawn *real = (Spawn *)dlsym(RTLD_NEXT, name);
    if (!control) return real(pid, file, actions, attributes, arguments, variables);
    WITH_SHIM(variables, with_shim)
    return real(pid, file, actions, attributes, arguments, with_shim);
}
int posix_spawn(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const arguments[], char *const variables[]) {
    return spawn_with_shim("posix_spawn", pid, file, actions, attributes, arguments, variables);
}
int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const arguments[], char *const variables[]) {
    return spawn_with_shim("posix_spawnp", pid, file, actions, attributes, arguments, variables);
}
