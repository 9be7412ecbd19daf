#pragma once

/*
 * Streams of a command that this worker carries: pipes for the modes stream and log, the master of a pty.
 *
 * Output is read into the command's log and passed on from there, so what is in memory is bounded by the
 * log. Who reads how far decides what is read from the command: with mode log always; with pty unless a
 * client that writes lags behind; with stream only while somebody is attached, too. What was not read waits
 * in the kernel, and the command with it.
 *
 * A loan: a client has the descriptors themselves (of a pty by Spawn() and Exec(), else by Attach()) and
 * uses them until its connection ends; meanwhile this worker keeps its hands off them.
 *
 * When the command has ended, what it has written is read, then whoever is attached gets the rest and the
 * exit. Streams outlive their process as long as somebody is attached.
 */

#include "daemon/api/output_log.h"
#include "daemon/api/session.h"

typedef enum StreamMode {
        STREAM_NULL = 0,
        STREAM_DESCRIPTOR,
        STREAM_PTY,
        STREAM_FRAMES, /* "stream" */
        STREAM_LOG,
        _STREAM_MODE_MAX,
} StreamMode;

/* A client's end. Its connection carries the stream until the exit was sent and read, or the client goes. */
struct Attachment {
        ListLink link;
        Client *client;
        Streams *streams; /* NULL: left */
        bool is_raw;
        bool is_read_only;
        bool hangs_up;
        bool has_input_end; /* of the connection */
        bool has_told_end;  /* the command knows of it */
        bool is_ended;      /* the exit is in the output, or of raw bytes the last one */
        bool is_shut;       /* and all of it was sent: until the client closes, what it says is dropped */
        bool has_been_sent; /* since the last look: no ping is needed */
        uint64_t position;  /* in the log: the next byte to send */
        uint64_t credit;
        size_t n_taken; /* input that the client has no credit for again yet */
        Buf input;
        Buf output;
        LoopIo *io;
        LoopTimer *timer;
};

/* One output. Of a pty it is the only one, and its descriptor is the master. */
typedef struct StreamOutput {
        Streams *streams;
        unsigned number; /* 1: standard output, 2: standard error */
        int fd;          /* -EBADF: none, or over */
        LoopIo *io;
        uint64_t n_after_exit; /* bytes */
        bool is_settled;       /* nothing of the command that has ended is left in it */
} StreamOutput;

struct Streams {
        Api *api;
        Process *process; /* NULL: forgotten */
        StreamMode modes[3];
        StreamOutput outputs[2];
        int input_fd; /* of a pipe; a pty has none of its own */
        LoopIo *input_io;
        Buf input; /* not yet taken by the command */
        bool has_input_end;
        OutputLog log;
        uint64_t delivered; /* as far as any client has read */
        uint64_t n_output;
        uint64_t output_max; /* 0: none */
        ListLink attachments;
        uint64_t loan; /* connection; 0: none */
        bool is_loan_exclusive;
        bool hangs_up_after_loan;
        bool was_lent;
        bool had_reader; /* somebody was attached, or said that he reads the descriptor */
        bool has_exited;
        bool is_settled;
        uint64_t settled_at;
        uint32_t exit_status;
        unsigned exit_flags; /* FRAME_EXIT_... */
};

/* ---- streams.c ---- */

/* With pipes where the modes want them; *ret_fds[i] >= 0: the command's ends, for the caller to close. NULL
 * for a command that needs none of it. -EDQUOT: the user has too many. */
int streams_new(Process *p, const StreamMode modes[3], int ret_fds[3], Streams **ret) _must_check_;
/* The process is gone: what nobody is attached to goes with it. */
Streams *streams_forget(Streams *st);
/* An attachment has left. */
void streams_on_leave(Streams *st);

/* The command runs. take_master: of its pty, else -EBADF. */
int streams_start(Streams *st, int take_master) _must_check_;
void streams_on_exit(Streams *st);

bool streams_have_pty(const Streams *st);
/* A stream or a terminal: what a client that writes must not lose. */
bool streams_have_lossless(const Streams *st);
size_t streams_n_attached(const Streams *st);

/* What changed decides anew what is read. */
void streams_update(Streams *st);

/* Input. -EAGAIN: no room for so much now. What a command does not want any more is dropped. */
int streams_put_input(Streams *st, const char *data, size_t size) _must_check_;
void streams_end_input(Streams *st);
int streams_resize(Streams *st, uint16_t columns, uint16_t rows) _must_check_;

/* Somebody may still come for what the session's commands have written. */
bool streams_are_awaited(const Session *s);

/* ---- loans ---- */

/* For one more client; a reader alone is less. */
bool streams_is_taken(const Streams *st, bool is_read_only);
void streams_lend(Streams *st, uint64_t connection, bool is_exclusive, bool hangs_up);
/* The connection is gone. */
void streams_client_gone(Api *api, uint64_t connection);

/* ---- attachment.c ---- */

typedef struct AttachOptions {
        bool is_raw;
        bool is_read_only;
        bool hangs_up;
        uint64_t from; /* position in the log */
} AttachOptions;

/* The client's connection carries the stream from now on; its reply was sent. */
int attachment_new(Client *c, Streams *st, const AttachOptions *options) _must_check_;
/* Off the streams, when the connection is being closed; freed later. */
void attachment_leave(Attachment *a);
Attachment *attachment_free(Attachment *a);
/* There is output, an exit, or room for input. */
void attachment_poke(Attachment *a);
/* Of the attachments of a command, which one reads last without being allowed to lose anything: its position
 * in the log; UINT64_MAX: none. */
uint64_t attachments_lossless_position(const Streams *st);
bool attachments_have_writer(const Streams *st);
/* Input was taken by the command: its client may send as much again. */
void attachments_give_credit(Streams *st, size_t size);
/* There is room for input that waits. */
void attachments_take_input(Streams *st);

/* ---- exec_streams.c ---- */

/* 1: sound; 0: the client is answered. */
int streams_check(Client *c, const Json *parameters, const Json *command) _must_check_;
/* What goes to init: p->fds, p->exec, p->streams. fds are borrowed. */
int streams_take(Process *p, const Json *parameters, const Json *command, const int *fds) _must_check_;
/* A limit on output that was asked for and could not be kept: false, and the client is answered. */
bool streams_check_limit(Session *s, Client *c, const Json *command);

/* ---- logs.c ---- */

LogsReader *logs_reader_free(LogsReader *q);
/* The client's output has drained. */
void logs_reader_resume(LogsReader *q);
bool logs_are_awaited(const Session *s);
/* There is more in some log, or a session has ended. */
void logs_changed(Api *api);
