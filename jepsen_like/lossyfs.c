/* A file system that can lose power: LOSSYFS_BACKING=dir lossyfs -f mountpoint.
 *
 * Everything is done in the backing directory at once, and what would undo it is remembered until it is synced: the old
 * bytes and size of a file until fsync of the file, the old entry of a directory until fsync of the directory. Writing
 * "lose SEED" to the control file `.lossy` undoes, newest first, all that was not synced. This is the strict reading of
 * POSIX: a new file whose directory was not synced is gone, even if the file was.
 *
 * Nothing is cached in the kernel (direct_io, no timeouts), so that what processes see is what is here. An unlinked or
 * overwritten file waits in `.lossy.trash` until its directory is synced. */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum kind { DATA, MADE, MADE_DIR, GONE, GONE_DIR, MOVED };

/* How to undo one change. DATA: of the file `ino`. The others: of the directory `ino` (MOVED: also of
 * `other`; GONE_DIR: `other` was the directory itself). */
struct undo {
    struct undo *older, *newer;
    enum kind kind;
    ino_t ino, other;
    char *path, *was; /* backing paths: of the entry, and for MOVED, GONE: where it was, where it waits */
    int fd;           /* DATA: the file, kept open so that it is found whatever its name is now */
    off_t size, at;   /* DATA: the size before, and `length` bytes that stood at `at` */
    size_t length;
    char *bytes;
    mode_t mode;
};

static char root[PATH_MAX - 512];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct undo *newest;
static uint64_t lost_bytes, lost_names, lost_files, refused, trashed;
static int readonly_now;
static const char *CONTROL = "/.lossy";

struct path { char at[PATH_MAX]; };

static struct path real(const char *path)
{
    struct path full;
    snprintf(full.at, sizeof full.at, "%s%s", root, path);
    return full;
}

static struct path parent(const char *full)
{
    struct path folder;
    snprintf(folder.at, sizeof folder.at, "%s", full);
    char *slash = strrchr(folder.at, '/');
    if (slash)
        *slash = 0;
    return folder;
}

static ino_t inode(const char *full)
{
    struct stat st;
    return lstat(full, &st) ? 0 : st.st_ino;
}

/* The path of an open file that was unlinked is NULL. */
static int control(const char *path) { return path && !strcmp(path, CONTROL); }
static int hidden(const char *path) { return path && !strncmp(path, "/.lossy.trash", 13); }

static int refuse(void)
{
    if (!readonly_now)
        return 0;
    __atomic_add_fetch(&refused, 1, __ATOMIC_RELAXED);
    return 1;
}
#define CHANGES \
    if (refuse()) \
        return -EROFS

static struct undo *push(enum kind kind, ino_t ino)
{
    struct undo *u = calloc(1, sizeof *u);
    if (!u)
        abort();
    u->kind = kind;
    u->ino = ino;
    u->fd = -1;
    u->older = newest;
    if (newest)
        newest->newer = u;
    return newest = u;
}

static void drop(struct undo *u)
{
    if (u->newer)
        u->newer->older = u->older;
    else
        newest = u->older;
    if (u->older)
        u->older->newer = u->newer;
    if (u->fd >= 0)
        close(u->fd);
    free(u->path);
    free(u->was);
    free(u->bytes);
    free(u);
}

/* What stands at `at` is about to be overwritten by `length` bytes, or the file to be cut to `at` (length 0). */
static void remember_data(int fd, off_t at, size_t length, int cut)
{
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        return;
    off_t end = cut ? st.st_size : (off_t)(at + length) < st.st_size ? (off_t)(at + length) : st.st_size;
    size_t old = end > at ? (size_t)(end - at) : 0;
    if (!old) { /* it only grows: the first of such records says enough */
        for (struct undo *u = newest; u; u = u->older)
            if (u->kind == DATA && u->ino == st.st_ino) {
                if (!u->length)
                    return;
                break;
            }
    }
    struct undo *u = push(DATA, st.st_ino);
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    u->fd = open(name, O_RDWR | O_CLOEXEC);
    u->size = st.st_size;
    u->at = at;
    u->length = old;
    if (old && ((u->bytes = malloc(old)) == NULL || pread(u->fd, u->bytes, old, at) != (ssize_t)old))
        abort();
}

static void remember_name(enum kind kind, const char *full, const char *was, mode_t mode)
{
    struct path folder = parent(full);
    struct undo *u = push(kind, inode(folder.at));
    u->path = strdup(full);
    u->was = was ? strdup(was) : NULL;
    u->mode = mode;
    if (kind == MOVED) {
        folder = parent(was);
        u->other = inode(folder.at);
    }
}

static void synced_file(ino_t ino)
{
    for (struct undo *u = newest, *older; u; u = older) {
        older = u->older;
        if (u->kind == DATA && u->ino == ino)
            drop(u);
    }
}

/* The names of directory `ino` are durable, from the change `u` back. A directory that is durably gone takes what went out
 * of it before with it: that never comes back. */
static void settle_names(struct undo *u, ino_t ino)
{
    for (struct undo *older; u; u = older) {
        older = u->older;
        if (u->kind == DATA || !(u->ino == ino || (u->kind == MOVED && u->other == ino)))
            continue;
        if (u->kind == GONE)
            unlink(u->was);
        if (u->kind == GONE_DIR) {
            settle_names(older, u->other);
            older = u->older;
        }
        drop(u);
    }
}

static void undo_data(struct undo *u, unsigned *torn)
{
    struct stat st;
    if (fstat(u->fd, &st))
        return;
    if (st.st_nlink == 0)
        return;
    if (!u->length && st.st_size > u->size) {
        off_t grown = st.st_size - u->size, kept = *torn ? rand_r(torn) % (grown + 1) : 0;
        lost_bytes += (uint64_t)(grown - kept);
        lost_files++;
        if (ftruncate(u->fd, u->size + kept))
            abort();
        return;
    }
    lost_bytes += u->length;
    lost_files++;
    if ((u->length && pwrite(u->fd, u->bytes, u->length, u->at) != (ssize_t)u->length) || ftruncate(u->fd, u->size))
        abort();
}

static void remove_tree(const char *full)
{
    char command[PATH_MAX + 32];
    snprintf(command, sizeof command, "rm -rf -- '%s'", full);
    if (system(command) != 0)
        fprintf(stderr, "lossyfs: cannot remove %s\n", full);
}

/* One line on stderr for each loss: what a reader needs to see whether it was allowed. */
static void tell(const struct undo *u)
{
    static const char *const words[] = {"data", "made", "made directory", "gone", "gone directory", "moved"};
    char link[64], name[PATH_MAX] = "?";
    ssize_t length = 0;
    if (u->kind == DATA) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", u->fd);
        length = readlink(link, name, sizeof name - 1);
        name[length > 0 ? length : 0] = 0;
    }
    fprintf(stderr, "lost: %s %s%s%s\n", words[u->kind], u->kind == DATA ? name : u->path, u->was ? " from " : "",
            u->was ? u->was : "");
}

static void lose(unsigned torn)
{
    while (newest) {
        struct undo *u = newest;
        tell(u);
        if (u->kind != DATA)
            lost_names++;
        switch (u->kind) {
        case DATA: undo_data(u, &torn); break;
        case MADE: unlink(u->path); break;
        case MADE_DIR: remove_tree(u->path); break;
        case GONE_DIR: mkdir(u->path, u->mode); break;
        case GONE:
        case MOVED:
            if (rename(u->kind == MOVED ? u->path : u->was, u->kind == MOVED ? u->was : u->path))
                fprintf(stderr, "lossyfs: cannot undo a move of %s: %s\n", u->path, strerror(errno));
            break;
        }
        drop(u);
    }
}

static int report(char *text, size_t size)
{
    uint64_t pending = 0;
    for (struct undo *u = newest; u; u = u->older)
        pending++;
    return snprintf(text, size, "bytes %lu names %lu files %lu refused %lu pending %lu\n", lost_bytes, lost_names,
                    lost_files, refused, pending);
}

#define LOCKED(statement) \
    do { \
        pthread_mutex_lock(&lock); \
        statement; \
        pthread_mutex_unlock(&lock); \
    } while (0)

static int fs_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    if (control(path)) {
        memset(st, 0, sizeof *st);
        st->st_mode = S_IFREG | 0600;
        st->st_nlink = 1;
        st->st_uid = getuid();
        st->st_gid = getgid();
        return 0;
    }
    if (hidden(path))
        return -ENOENT;
    return (fi ? fstat((int)fi->fh, st) : lstat(real(path).at, st)) ? -errno : 0;
}

static int fs_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t at, struct fuse_file_info *fi,
                      enum fuse_readdir_flags flags)
{
    (void)at, (void)fi, (void)flags;
    struct path full = real(path);
    DIR *folder = opendir(full.at);
    if (!folder)
        return -errno;
    for (struct dirent *entry; (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".lossy.trash"))
            fill(buffer, entry->d_name, NULL, 0, 0);
    closedir(folder);
    return 0;
}

static int fs_open(const char *path, struct fuse_file_info *fi)
{
    fi->direct_io = 1;
    fi->fh = (uint64_t)-1;
    if (control(path))
        return 0;
    if ((fi->flags & O_ACCMODE) != O_RDONLY)
        CHANGES;
    struct path full = real(path);
    int flags = (fi->flags & O_ACCMODE) == O_WRONLY ? (fi->flags & ~O_ACCMODE) | O_RDWR : fi->flags;
    int fd = open(full.at, (flags & ~(O_TRUNC | O_APPEND | O_SYNC | O_DSYNC | O_DIRECT)) | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fi->flags & O_TRUNC) {
        LOCKED(remember_data(fd, 0, 0, 1));
        if (ftruncate(fd, 0)) {
            close(fd);
            return -EIO;
        }
    }
    fi->fh = (uint64_t)fd;
    return 0;
}

static int fs_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    CHANGES;
    fi->direct_io = 1;
    struct path full = real(path);
    int there = inode(full.at) != 0;
    int fd = open(full.at, O_RDWR | O_CREAT | O_CLOEXEC | (fi->flags & O_EXCL), mode);
    if (fd < 0)
        return -errno;
    if (!there)
        LOCKED(remember_name(MADE, full.at, NULL, 0));
    fi->fh = (uint64_t)fd;
    return 0;
}

static int fs_read(const char *path, char *data, size_t size, off_t at, struct fuse_file_info *fi)
{
    if (control(path)) {
        char text[256];
        int length;
        LOCKED(length = report(text, sizeof text));
        if (at >= length)
            return 0;
        size = size < (size_t)(length - at) ? size : (size_t)(length - at);
        memcpy(data, text + at, size);
        return (int)size;
    }
    ssize_t count = pread((int)fi->fh, data, size, at);
    return count < 0 ? -errno : (int)count;
}

static int fs_write(const char *path, const char *data, size_t size, off_t at, struct fuse_file_info *fi)
{
    if (control(path)) {
        char text[64] = {0};
        memcpy(text, data, size < sizeof text - 1 ? size : sizeof text - 1);
        if (!strncmp(text, "lose", 4))
            LOCKED(lose((unsigned)atoi(text + 4)));
        else
            readonly_now = !strncmp(text, "readonly", 8);
        return (int)size;
    }
    CHANGES;
    pthread_mutex_lock(&lock);
    remember_data((int)fi->fh, at, size, 0);
    ssize_t count = pwrite((int)fi->fh, data, size, at);
    int error = errno;
    struct stat st;
    if (fi->flags & (O_SYNC | O_DSYNC) && !fstat((int)fi->fh, &st))
        synced_file(st.st_ino);
    pthread_mutex_unlock(&lock);
    return count < 0 ? -error : (int)count;
}

static int fs_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
    if (control(path))
        return 0;
    CHANGES;
    int fd = fi ? (int)fi->fh : open(real(path).at, O_RDWR | O_CLOEXEC), result = 0;
    if (fd < 0)
        return -errno;
    LOCKED(remember_data(fd, size, 0, 1));
    if (ftruncate(fd, size))
        result = -errno;
    if (!fi)
        close(fd);
    return result;
}

static int fs_fsync(const char *path, int data_only, struct fuse_file_info *fi)
{
    (void)data_only;
    struct stat st;
    if (control(path))
        return 0;
    CHANGES;
    if (fstat((int)fi->fh, &st))
        return -errno;
    LOCKED(synced_file(st.st_ino));
    return 0;
}

static int fs_fsyncdir(const char *path, int data_only, struct fuse_file_info *fi)
{
    (void)data_only, (void)fi;
    CHANGES;
    if (path)
        LOCKED(settle_names(newest, inode(real(path).at)));
    return 0;
}

static int fs_release(const char *path, struct fuse_file_info *fi)
{
    if (!control(path))
        close((int)fi->fh);
    return 0;
}

/* Moves what is at `full` aside, so that it can come back. */
static int to_trash(const char *full)
{
    struct path trash;
    snprintf(trash.at, sizeof trash.at, "%s/.lossy.trash/%lu", root, ++trashed);
    if (rename(full, trash.at))
        return -errno;
    remember_name(GONE, full, trash.at, 0);
    return 0;
}

static int fs_unlink(const char *path)
{
    CHANGES;
    struct path full = real(path);
    int result;
    LOCKED(result = to_trash(full.at));
    return result;
}

static int fs_mkdir(const char *path, mode_t mode)
{
    CHANGES;
    struct path full = real(path);
    if (mkdir(full.at, mode))
        return -errno;
    LOCKED(remember_name(MADE_DIR, full.at, NULL, 0));
    return 0;
}

static int fs_rmdir(const char *path)
{
    CHANGES;
    struct path full = real(path);
    struct stat st;
    if (lstat(full.at, &st) || rmdir(full.at))
        return -errno;
    pthread_mutex_lock(&lock);
    remember_name(GONE_DIR, full.at, NULL, st.st_mode);
    newest->other = st.st_ino;
    pthread_mutex_unlock(&lock);
    return 0;
}

static int fs_rename(const char *from, const char *to, unsigned flags)
{
    CHANGES;
    if (flags & ~1U) /* RENAME_NOREPLACE is known, an exchange is not */
        return -EINVAL;
    struct path source = real(from), target = real(to);
    struct stat st;
    int there = !lstat(target.at, &st), result = 0;
    if (there && flags)
        return -EEXIST;
    pthread_mutex_lock(&lock);
    if (there && !S_ISDIR(st.st_mode) && strcmp(source.at, target.at))
        result = to_trash(target.at);
    if (!result && rename(source.at, target.at))
        result = -errno;
    if (!result)
        remember_name(MOVED, target.at, source.at, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

static int fs_link(const char *from, const char *to)
{
    CHANGES;
    struct path source = real(from), target = real(to);
    if (link(source.at, target.at))
        return -errno;
    LOCKED(remember_name(MADE, target.at, NULL, 0));
    return 0;
}

static int fs_symlink(const char *text, const char *path)
{
    CHANGES;
    struct path full = real(path);
    if (symlink(text, full.at))
        return -errno;
    LOCKED(remember_name(MADE, full.at, NULL, 0));
    return 0;
}

static int fs_readlink(const char *path, char *text, size_t size)
{
    struct path full = real(path);
    ssize_t length = readlink(full.at, text, size - 1);
    if (length < 0)
        return -errno;
    text[length] = 0;
    return 0;
}

static int fs_chmod(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    (void)fi;
    CHANGES;
    struct path full = real(path);
    return chmod(full.at, mode) ? -errno : 0;
}

static int fs_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *fi)
{
    (void)fi;
    CHANGES;
    struct path full = real(path);
    return utimensat(AT_FDCWD, full.at, times, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int fs_statfs(const char *path, struct statvfs *st)
{
    struct path full = real(path);
    return statvfs(full.at, st) ? -errno : 0;
}

static void *fs_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->kernel_cache = 0;
    config->entry_timeout = config->attr_timeout = config->negative_timeout = 0;
    config->hard_remove = 1; /* no .fuse_hidden files: the trash keeps what is open */
    config->nullpath_ok = 0;
    return NULL;
}

static const struct fuse_operations operations = {
    .getattr = fs_getattr, .readdir = fs_readdir, .open = fs_open,         .create = fs_create,
    .read = fs_read,       .write = fs_write,     .truncate = fs_truncate, .fsync = fs_fsync,
    .fsyncdir = fs_fsyncdir, .release = fs_release, .unlink = fs_unlink,   .mkdir = fs_mkdir,
    .rmdir = fs_rmdir,     .rename = fs_rename,   .link = fs_link,         .symlink = fs_symlink,
    .readlink = fs_readlink, .chmod = fs_chmod,   .utimens = fs_utimens,   .statfs = fs_statfs,
    .init = fs_init,
};

int main(int count, char *arguments[])
{
    const char *backing = getenv("LOSSYFS_BACKING");
    if (!backing || !realpath(backing, root)) {
        fprintf(stderr, "lossyfs: LOSSYFS_BACKING names no directory\n");
        return 2;
    }
    struct path trash;
    snprintf(trash.at, sizeof trash.at, "%s/.lossy.trash", root);
    mkdir(trash.at, 0700);
    umask(0);
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) { /* every overwrite that is not synced keeps its file open */
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    return fuse_main(count, arguments, &operations, NULL);
}
