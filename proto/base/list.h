#pragma once

/* Intrusive doubly linked list: the head is a ListLink of its own; an unlinked link points to itself. */

#include <stdbool.h>

#include "proto/base/macro.h"

typedef struct ListLink {
        struct ListLink *prev;
        struct ListLink *next;
} ListLink;

static inline void list_init(ListLink *l)
{
        l->prev = l->next = l;
}

static inline bool list_is_empty(const ListLink *head)
{
        return head->next == head;
}

static inline void list_append(ListLink *head, ListLink *l)
{
        l->prev = head->prev;
        l->next = head;
        head->prev->next = l;
        head->prev = l;
}

static inline void list_unlink(ListLink *l)
{
        l->prev->next = l->next;
        l->next->prev = l->prev;
        list_init(l);
}

#define list_entry(link, type, member) container_of(link, type, member)

/* The body may unlink and free the current entry. */
#define LIST_FOREACH(pos, head, type, member)                                \
        for (type *pos = list_entry((head)->next, type, member),             \
                  *_next_##pos = list_entry(pos->member.next, type, member); \
             &pos->member != (head);                                         \
             pos = _next_##pos, _next_##pos = list_entry(pos->member.next, type, member))
