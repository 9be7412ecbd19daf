#include "daemon/watch/request.h"

#include <errno.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/init/plan.h"

#define FIRST_NODE      2U
#define ROOT_VALID_SECS (365U * 24U * 3600U) /* nodes never change: nobody needs to look them up again */
#define MINOR_USED      31U                  /* what is said of INIT */
#define MINOR_MIN       23U
#define WRITE_MAX       4096U
#define BLOCK_SIZE      4096U

_Static_assert(sizeof(struct fuse_out_header) + sizeof(struct fuse_entry_out) <= REPLY_SIZE_MAX, "reply");

int request_mount_of(uint64_t node)
{
        uint64_t i = (node - FIRST_NODE) / 2;

        return node >= FIRST_NODE && i < PLAN_MOUNTS_MAX ? (int) i : -1;
}

static bool is_directory(uint64_t node)
{
        return node == FUSE_ROOT_ID || node % 2 == 1;
}

/* "d12", "f0": 0 where it is none. */
static uint64_t node_of_name(const char *name)
{
        uint64_t i = 0;

        if ((name[0] != 'd' && name[0] != 'f') || name[1] == '\0' || strlen(name) > 5)
                return 0;
        for (const char *c = name + 1; *c; c++) {
                if (*c < '0' || *c > '9')
                        return 0;
                i = 10 * i + (uint64_t) (*c - '0');
        }
        return i < PLAN_MOUNTS_MAX ? FIRST_NODE + 2 * i + (name[0] == 'd') : 0;
}

static RequestKind kind_of(uint32_t opcode, PrivFileOperation *ret_operation)
{
        *ret_operation = FILE_CHANGE;
        switch (opcode) {
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT: /* of what was answered in the turn that read it */
                return REQUEST_SILENT;
        case FUSE_INIT:
                return REQUEST_INIT;
        case FUSE_LOOKUP:
                *ret_operation = FILE_LOOKUP;
                return REQUEST_ATTEMPT;
        case FUSE_GETATTR:
                *ret_operation = FILE_STAT;
                return REQUEST_ATTEMPT;
        case FUSE_OPEN:
        case FUSE_READLINK:
                *ret_operation = FILE_OPEN;
                return REQUEST_ATTEMPT;
        case FUSE_OPENDIR:
                *ret_operation = FILE_LIST;
                return REQUEST_ATTEMPT;
        case FUSE_ACCESS:
                *ret_operation = FILE_ACCESS;
                return REQUEST_ATTEMPT;
        case FUSE_SETATTR:
        case FUSE_SYMLINK:
        case FUSE_MKNOD:
        case FUSE_MKDIR:
        case FUSE_UNLINK:
        case FUSE_RMDIR:
        case FUSE_RENAME:
        case FUSE_RENAME2:
        case FUSE_LINK:
        case FUSE_CREATE:
                return REQUEST_ATTEMPT;
        default:
                return REQUEST_HARMLESS;
        }
}

static int parse_init(const char *body, size_t size, Request *q)
{
        struct fuse_init_in in;

        if (size < offsetof(struct fuse_init_in, flags) + sizeof(in.flags))
                return -EPROTO;
        memset(&in, 0, sizeof(in));
        memcpy(&in, body, size < sizeof(in) ? size : sizeof(in));
        if (in.major != FUSE_KERNEL_VERSION || in.minor < MINOR_MIN)
                return -EPROTO;
        q->major = in.major;
        q->minor = in.minor;
        q->flags = in.flags;
        return 0;
}

static int parse_name(const char *body, size_t size, Request *q)
{
        const char *end = memchr(body, '\0', size);

        if (!end || end == body)
                return -EPROTO;
        q->name = body;
        q->n_name = (size_t) (end - body);
        return 0;
}

int request_parse(const void *data, size_t size, Request *ret)
{
        const char *body = (const char *) data + sizeof(struct fuse_in_header);
        struct fuse_in_header h;
        Request q;

        if (size < sizeof(h))
                return -EPROTO;
        memcpy(&h, data, sizeof(h));
        if (h.len != size)
                return -EPROTO;
        q = (Request){
                .unique = h.unique, .node = h.nodeid, .opcode = h.opcode, .uid = h.uid, .pid = h.pid
        };
        q.kind = kind_of(h.opcode, &q.operation);
        *ret = q;
        if (q.kind == REQUEST_INIT)
                return parse_init(body, size - sizeof(h), ret);
        if (q.opcode == FUSE_LOOKUP && parse_name(body, size - sizeof(h), ret) < 0)
                return -EPROTO;
        if (q.node == FUSE_ROOT_ID && q.opcode == FUSE_LOOKUP)
                ret->kind = REQUEST_ROOT_LOOKUP;
        return 0;
}

static size_t put(char to[REPLY_SIZE_MAX], const Request *q, int error, const void *body, size_t size)
{
        struct fuse_out_header h = { .unique = q->unique, .error = error };

        if (error < 0)
                size = 0;
        h.len = (uint32_t) (sizeof(h) + size);
        memcpy(to, &h, sizeof(h));
        if (size > 0)
                memcpy(to + sizeof(h), body, size);
        return h.len;
}

static size_t put_error(char to[REPLY_SIZE_MAX], const Request *q, int error)
{
        return put(to, q, error, NULL, 0);
}

static size_t put_init(char to[REPLY_SIZE_MAX], const Request *q)
{
        /* Without PARALLEL_DIROPS one look-up that waits blocks all others, and these cannot even be killed.
         */
        struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION,
                                     .minor = q->minor < MINOR_USED ? q->minor : MINOR_USED,
                                     .flags = q->flags & FUSE_PARALLEL_DIROPS,
                                     .max_write = WRITE_MAX,
                                     .time_gran = 1 };

        return put(to, q, 0, &out, sizeof(out));
}

/* Nobody's, and for nobody. */
static struct fuse_attr attributes_of(uint64_t node)
{
        return (struct fuse_attr){ .ino = node,
                                   .mode = is_directory(node) ? S_IFDIR : S_IFREG,
                                   .nlink = is_directory(node) ? 2 : 1,
                                   .blksize = BLOCK_SIZE };
}

static size_t put_attributes(char to[REPLY_SIZE_MAX], const Request *q)
{
        /* Valid for no time: each stat() comes here. */
        struct fuse_attr_out out = { .attr = attributes_of(q->node) };

        return put(to, q, 0, &out, sizeof(out));
}

static size_t put_node(char to[REPLY_SIZE_MAX], const Request *q)
{
        uint64_t node = node_of_name(q->name);
        struct fuse_entry_out out = { .nodeid = node,
                                      .entry_valid = ROOT_VALID_SECS,
                                      .attr = attributes_of(node) };

        return node == 0 ? put_error(to, q, -ENOENT) : put(to, q, 0, &out, sizeof(out));
}

static size_t put_harmless(char to[REPLY_SIZE_MAX], const Request *q)
{
        struct fuse_statfs_out out = { .st = { .bsize = BLOCK_SIZE, .namelen = 255, .frsize = BLOCK_SIZE } };

        /* Said of what opens something ENOSYS would mean that it need not be asked for again. */
        return q->opcode == FUSE_STATFS ? put(to, q, 0, &out, sizeof(out)) : put_error(to, q, -ENOSYS);
}

size_t request_answer(const Request *q, bool is_quiet, char to[REPLY_SIZE_MAX])
{
        switch (q->kind) {
        case REQUEST_SILENT:
                return 0;
        case REQUEST_INIT:
                return put_init(to, q);
        case REQUEST_HARMLESS:
                return put_harmless(to, q);
        case REQUEST_ROOT_LOOKUP:
                return put_node(to, q);
        case REQUEST_ATTEMPT:
                break;
        }
        if (is_quiet && q->operation == FILE_STAT)
                return put_attributes(to, q);
        return put_error(to, q, is_quiet && q->operation == FILE_LOOKUP ? -ENOENT : -EACCES);
}
