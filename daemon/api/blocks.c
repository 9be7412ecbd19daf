/* Compiled policies of the sessions that run: sessions with the same one share its memory, here and wherever
 * it goes. */

#include <fcntl.h>
#include <malloc.h>

#include "daemon/api/context.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/* Texts of this size leave so much free memory behind that it is given back. */
#define LARGE_BYTES (1024U * 1024U)

struct SharedBlock {
        ListLink link;
        uint8_t content[POLICY_CONTENT_SIZE];
        char digest[65];
        bool is_large;
        int fd;
        unsigned n_refs;
};

static SharedBlock *find_content(const Api *api, const uint8_t content[POLICY_CONTENT_SIZE])
{
        LIST_FOREACH (b, &api->blocks, SharedBlock, link)
                if (memcmp(b->content, content, sizeof(b->content)) == 0)
                        return b;
        return NULL;
}

static int find(void *userdata, const uint8_t content[POLICY_CONTENT_SIZE], int *ret_fd)
{
        const SharedBlock *b = find_content(userdata, content);
        int fd;

        if (!b)
                return -ENOENT;
        fd = fcntl(b->fd, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

static int add(Api *api, const uint8_t content[POLICY_CONTENT_SIZE], int fd, SharedBlock **ret)
{
        _cleanup_(policy_block_closep) const PolicyBlock *block = NULL;
        SharedBlock *b;
        int r;

        r = policy_block_open(fd, &block);
        if (r < 0)
                return r;
        b = calloc(1, sizeof(*b));
        if (!b)
                return -ENOMEM;
        b->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (b->fd < 0) {
                r = neg_errno();
                free(b);
                return r;
        }
        memcpy(b->content, content, sizeof(b->content));
        str_hex(b->digest, policy_block_digest(block), 32);
        b->is_large = strlen(policy_block_text(block)) >= LARGE_BYTES;
        list_append(&api->blocks, &b->link);
        *ret = b;
        return 0;
}

int block_compile(Session *s, const Policy *policy, const Policy *project, int *ret_fd)
{
        const PolicyParts parts = { policy, project, policy_ceiling(policy), s->api->loaded.generation };
        uint8_t content[POLICY_CONTENT_SIZE];
        _cleanup_close_ int fd = -EBADF;
        SharedBlock *b;
        int r;

        r = policy_compile_shared(&parts, find, s->api, content, &fd);
        if (r < 0)
                return r;
        b = find_content(s->api, content);
        if (!b)
                r = add(s->api, content, fd, &b);
        if (r < 0)
                return r;
        b->n_refs++;
        s->block = b;
        memcpy(s->digest, b->digest, sizeof(s->digest));
        *ret_fd = TAKE_FD(fd);
        return 0;
}

void block_trim(const SharedBlock *b)
{
        if (b && b->is_large)
                (void) malloc_trim(0);
}

SharedBlock *block_release(SharedBlock *b)
{
        if (!b || --b->n_refs > 0)
                return NULL;
        list_unlink(&b->link);
        (void) fd_close(b->fd);
        free(b);
        return NULL;
}
