/* Blocks that several sessions have: a memfd is its inode, whatever descriptor of it comes. */

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "daemon/policy/compiled.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"

typedef struct FileId {
        uint64_t device;
        uint64_t inode;
} FileId;

struct PolicyShare {
        FileId file;
        PolicyShelf *shelf;
        const PolicyBlock *block;
        unsigned n_refs;
        bool is_text_proven;
};

static int share_new(PolicyShelf *shelf, const FileId *file, int fd, PolicyShare **ret)
{
        PolicyShare *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        *s = (PolicyShare){ .file = *file, .shelf = shelf, .n_refs = 1 };
        r = policy_block_open(fd, &s->block);
        if (r >= 0)
                r = map_put(&shelf->shares, &s->file, sizeof(s->file), s);
        if (r < 0) {
                (void) policy_block_close(s->block);
                free(s);
                return r;
        }
        *ret = s;
        return 0;
}

int policy_shelf_open(PolicyShelf *shelf, int fd, PolicyShare **ret)
{
        PolicyShare *s;
        struct stat st;
        FileId file;

        /* What is mapped keeps its inode, and what is sealed its content; others have no place here. */
        if (!fd_is_sealed(fd))
                return -EPERM;
        if (fstat(fd, &st) < 0)
                return neg_errno();
        file = (FileId){ st.st_dev, st.st_ino };
        s = map_get(&shelf->shares, &file, sizeof(file));
        if (!s)
                return share_new(shelf, &file, fd, ret);
        s->n_refs++;
        *ret = s;
        return 0;
}

PolicyShare *policy_share_close(PolicyShare *s)
{
        if (!s || --s->n_refs > 0)
                return NULL;
        (void) map_remove(&s->shelf->shares, &s->file, sizeof(s->file));
        (void) policy_block_close(s->block);
        free(s);
        return NULL;
}

const PolicyBlock *policy_share_block(const PolicyShare *s)
{
        return s->block;
}

bool policy_share_is_text_proven(const PolicyShare *s)
{
        return s->is_text_proven;
}

void policy_share_prove_text(PolicyShare *s)
{
        s->is_text_proven = true;
}
