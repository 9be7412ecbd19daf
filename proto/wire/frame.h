#pragma once

/*
 * sandboxd.stream1: what an upgraded Attach() carries. A frame is
 *
 *      type u8 | flags u8 | reserved u16 = 0 | length u32 | payload
 *
 * with numbers in network order and at most 64 KiB of payload. Only standard input, output and error count
 * against credit: each side starts with FRAME_CREDIT_START bytes that it may send, and the other side gives
 * more by a credit frame once it has passed some on.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/buf.h"

#define FRAMING_STREAM     "sandboxd.stream1"
#define FRAMING_RAW        "raw"
#define FRAME_HEADER_SIZE  8U
#define FRAME_PAYLOAD_MAX  (64U * 1024U)
#define FRAME_SIGNAL_MAX   32U
#define FRAME_CREDIT_START (256U * 1024U)

typedef enum FrameType {
        FRAME_STDIN = 1,   /* to the daemon; empty: end of input */
        FRAME_STDOUT = 2,  /* from the daemon; with a terminal the only output */
        FRAME_RESIZE = 3,  /* to the daemon: u16 columns, u16 rows */
        FRAME_SIGNAL = 4,  /* to the daemon: a name such as SIGINT, for the command's first process */
        FRAME_CREDIT = 5,  /* both ways: u32 bytes that may be sent in addition */
        FRAME_STDERR = 6,  /* from the daemon */
        FRAME_EXIT = 7,    /* from the daemon, the last one: u32 status, flags below */
        FRAME_DROPPED = 8, /* from the daemon: u64 bytes of output that are missing here */
        FRAME_PING = 9,    /* from the daemon, now and then; not answered */
} FrameType;

/* Flags of FRAME_EXIT: the status is the number of a signal; a core was dumped. */
#define FRAME_EXIT_SIGNAL 1U
#define FRAME_EXIT_CORE   2U

typedef struct Frame {
        FrameType type;
        unsigned flags;
        const char *payload; /* in the buffer, until frame_consume() */
        size_t size;
} Frame;

/* The frame at the front: 1; 0: not whole yet; -EBADMSG: not one that this side may get, close. A frame is
 * judged by its header, before its payload is there. */
int frame_next(Buf *input, bool is_daemon, Frame *ret) _must_check_;
void frame_consume(Buf *input, const Frame *f);

/* Numbers of a payload that frame_next() has checked for its size. */
uint32_t frame_number(const Frame *f);
uint64_t frame_long_number(const Frame *f);
void frame_terminal_size(const Frame *f, uint16_t *ret_columns, uint16_t *ret_rows);

/* -ENOBUFS: no room for the whole frame; then nothing was put. */
int frame_put(Buf *output, FrameType type, unsigned flags, const void *payload, size_t size) _must_check_;
int frame_put_number(Buf *output, FrameType type, unsigned flags, uint32_t number) _must_check_;
int frame_put_long_number(Buf *output, FrameType type, uint64_t number) _must_check_;
int frame_put_resize(Buf *output, uint16_t columns, uint16_t rows) _must_check_;
