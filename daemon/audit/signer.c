#include "daemon/audit/signer.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define KEY_FILE        "key"
#define KEY_FILE_NEW    "key.new"
#define PUBLIC_KEY_FILE "key.pub"
#define KEY_LINE_SIZE   (2 * KEY_SIZE + 2) /* hex, newline, NUL */

struct Signer {
        SigningKey *key;
        uint8_t public_key[KEY_SIZE];
        char key_id[KEY_ID_SIZE];
        int fd;       /* the file of checkpoints */
        off_t size;   /* of its whole lines */
        bool is_torn; /* there may be a part of a line behind them */
};

/* A file of that name that is there already is replaced as a whole or not at all. */
static int write_file(int directory_fd, const char *name, const void *data, size_t size, mode_t mode)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (unlinkat(directory_fd, KEY_FILE_NEW, 0) < 0 && errno != ENOENT)
                return neg_errno();
        fd = openat(directory_fd, KEY_FILE_NEW, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return neg_errno();
        r = fd_write_all(fd, data, size);
        if (r < 0)
                return r;
        if (fchmod(fd, mode) < 0 || fsync(fd) < 0 ||
            renameat(directory_fd, KEY_FILE_NEW, directory_fd, name) < 0 || fsync(directory_fd) < 0)
                return neg_errno();
        return 0;
}

static int make_secret(int directory_fd, uint8_t secret[KEY_SIZE])
{
        char line[KEY_LINE_SIZE];
        int r;

        if (getrandom(secret, KEY_SIZE, 0) != (ssize_t) KEY_SIZE)
                return -EIO;
        str_hex(line, secret, KEY_SIZE);
        line[2 * KEY_SIZE] = '\n';
        r = write_file(directory_fd, KEY_FILE, line, 2 * KEY_SIZE + 1, 0600);
        OPENSSL_cleanse(line, sizeof(line));
        if (r >= 0)
                log_info("A signing key was made for the audit");
        return r;
}

static int read_secret(int fd, uint8_t secret[KEY_SIZE])
{
        char line[KEY_LINE_SIZE + 1] = { 0 };
        struct stat st;
        ssize_t n;
        int r;

        if (fstat(fd, &st) < 0)
                return neg_errno();
        if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
                return -EBADMSG;
        if ((st.st_mode & 077) != 0) {
                (void) log_warning(-EPERM, "The audit's signing key could be read by others");
                if (fchmod(fd, 0600) < 0)
                        return neg_errno();
        }
        n = read(fd, line, sizeof(line) - 1);
        if (n < 0)
                return neg_errno();
        line[strcspn(line, "\n")] = '\0';
        r = parse_hex(line, secret, KEY_SIZE);
        OPENSSL_cleanse(line, sizeof(line));
        return r < 0 ? -EBADMSG : 0;
}

static int load_secret(int directory_fd, uint8_t secret[KEY_SIZE])
{
        _cleanup_close_ int fd = openat(directory_fd, KEY_FILE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

        if (fd >= 0)
                return read_secret(fd, secret);
        return errno == ENOENT ? make_secret(directory_fd, secret) : neg_errno();
}

static int load_key(Signer *s, int directory_fd)
{
        char line[KEY_LINE_SIZE];
        uint8_t secret[KEY_SIZE];
        int r;

        r = load_secret(directory_fd, secret);
        if (r >= 0)
                r = signing_key_new(secret, &s->key);
        OPENSSL_cleanse(secret, sizeof(secret));
        if (r >= 0)
                r = signing_key_public(s->key, s->public_key);
        if (r >= 0)
                r = key_id(s->public_key, s->key_id);
        if (r < 0)
                return r;
        str_hex(line, s->public_key, KEY_SIZE);
        line[2 * KEY_SIZE] = '\n';
        return write_file(directory_fd, PUBLIC_KEY_FILE, line, 2 * KEY_SIZE + 1, 0644);
}

/* Where the last whole line ends: what a crash left behind it was never told to anybody. */
static int find_end(Signer *s)
{
        char tail[CHECKPOINT_LINE_SIZE];
        struct stat st;
        ssize_t n;

        if (fstat(s->fd, &st) < 0)
                return neg_errno();
        if (!S_ISREG(st.st_mode))
                return -EBADMSG;
        s->size = st.st_size;
        n = pread(s->fd, tail, sizeof(tail), MAX_OF(st.st_size - (off_t) sizeof(tail), (off_t) 0));
        if (n < 0)
                return neg_errno();
        while (n > 0 && tail[n - 1] != '\n') {
                n--;
                s->size--;
                s->is_torn = true;
        }
        return 0;
}

int signer_open(const char *directory, Signer **ret)
{
        _cleanup_(signer_closep) Signer *s = calloc(1, sizeof(*s));
        _cleanup_close_ int directory_fd = -EBADF;
        int r;

        if (!s)
                return -ENOMEM;
        s->fd = -EBADF;
        directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (directory_fd < 0)
                return neg_errno();
        r = load_key(s, directory_fd);
        if (r < 0)
                return log_error(r, "The audit's signing key cannot be used"
                                    " (without STATE/audit/key the next start makes another)");
        s->fd = openat(directory_fd, CHECKPOINT_FILE, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC,
                       0600);
        if (s->fd < 0)
                return log_error(neg_errno(), "The file of checkpoints cannot be opened");
        r = find_end(s);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

Signer *signer_close(Signer *s)
{
        if (!s)
                return NULL;
        s->key = signing_key_free(s->key);
        s->fd = fd_close(s->fd);
        free(s);
        return NULL;
}

const uint8_t *signer_public_key(const Signer *s)
{
        return s->public_key;
}

const char *signer_key_id(const Signer *s)
{
        return s->key_id;
}

int signer_sign(const Signer *s, Checkpoint *c)
{
        return checkpoint_sign(s->key, c);
}

int signer_append(Signer *s, const Checkpoint *c)
{
        char line[CHECKPOINT_LINE_SIZE];
        int r;

        if (s->is_torn) {
                r = find_end(s);
                if (r < 0)
                        return r;
                if (ftruncate(s->fd, s->size) < 0)
                        return neg_errno();
        }
        checkpoint_format(c, line);
        s->is_torn = true;
        r = fd_write_all(s->fd, line, strlen(line));
        if (r < 0)
                return r;
        if (fdatasync(s->fd) < 0)
                return neg_errno();
        s->size += (off_t) strlen(line);
        s->is_torn = false;
        return 0;
}

int signer_last(const Signer *s, Checkpoint *ret)
{
        char tail[2 * CHECKPOINT_LINE_SIZE + 1];
        off_t from = MAX_OF(s->size - (off_t) sizeof(tail) + 1, (off_t) 0);
        ssize_t n = pread(s->fd, tail, (size_t) (s->size - from), from);
        const char *line;

        if (n < 0)
                return neg_errno();
        if (n == 0)
                return 0;
        tail[n - 1] = '\0'; /* the newline of the last line */
        line = strrchr(tail, '\n');
        return checkpoint_parse(line ? line + 1 : tail, ret) < 0 ? -EBADMSG : 1;
}
