#pragma once

/*
 * The egress worker of one session: an explicit proxy and a door for every other connection, whose way out
 * is other people's decision. Each request goes to audit; a connection comes, if at all, as a descriptor
 * from the dialer.
 *
 * One Client per accepted connection, with at most one server connection, which serves one authority.
 * Callbacks never free a client: client_close() takes it off the loop and puts it on the dead list, swept
 * after the turn.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/egress/http.h"
#include "daemon/loop/link.h"
#include "daemon/loop/loop.h"
#include "proto/base/buf.h"
#include "proto/base/hash.h"
#include "proto/base/list.h"

#define DNS_PORT           53U
#define EGRESS_CLIENTS_MAX 12288U
#define EGRESS_UNDECIDED_MAX \
        64U /* further requests wait their turn: audit takes so many of a session at once */
#define EGRESS_SCRATCH_SIZE (256U * 1024U)
#define EGRESS_READ_MIN     (16U * 1024U)
/* What all connections of one direction may read at once, and so keep when the other side does not take it.
 */
#define EGRESS_BUFFERED_MAX (32U * 1024U * 1024U)

/* How a refusal inside a tunnel shows, in place of an HTTP status. */
#define REFUSE_TLS_ALERT 1U
#define REFUSE_CLOSE     2U
#define REFUSE_SOCKS     3U /* Client.socks_reply */

typedef struct Egress Egress;

typedef enum ClientState {
        CLIENT_HEAD = 0, /* a request head is awaited; an idle server connection may be kept */
        CLIENT_SOCKS,    /* the rest of a SOCKS request is awaited */
        CLIENT_NAMING, /* transparent: several names have the address, the first bytes say which is meant */
        CLIENT_DECIDING,   /* audit has been asked, or will be; nothing of the request has left */
        CLIENT_CONNECTING, /* allowed; the dialer's answer is awaited */
        CLIENT_EXCHANGE,   /* request to the server, response to the client */
        CLIENT_PEEK, /* CONNECT was answered; nothing goes to the server before its first bytes are known */
        CLIENT_TUNNEL,  /* bytes in both directions */
        CLIENT_REFUSED, /* transparent: the first bytes say which answer is understood; one for HTTP is ready
                         */
        CLIENT_ENDING,  /* the last answer is going out; what comes in is thrown away */
} ClientState;

/* Where a message body stands. */
typedef struct BodyState {
        HttpBody kind;
        uint64_t left; /* with HTTP_BODY_LENGTH */
        bool is_done;
} BodyState;

/* Bytes of one direction of a server connection. */
typedef struct Volume {
        uint64_t used;
        uint64_t max; /* 0: no limit */
        bool is_over; /* more would have come: what may go still goes, then the connection ends */
} Volume;

/* How many of n more bytes may go. */
static inline size_t volume_left(const Volume *v, size_t n)
{
        return v->max == 0 ? n : (size_t) MIN_OF(v->max - v->used, (uint64_t) n);
}

/* What the rules that allowed a request say about its connection; 0: nothing. */
typedef struct Bounds {
        uint64_t max_upload_bytes;
        uint64_t max_download_bytes;
        uint64_t idle_usec;
} Bounds;

typedef struct Server {
        int fd;
        LoopIo *io;
        uint64_t sequence;
        Authority authority;
        Buf in;             /* response bytes not yet understood */
        size_t scanned;     /* of `in`, for http_find_head() */
        uint64_t head_usec; /* when the head in it began */
        bool may_read;      /* as of Client */
        int error;          /* likewise */
        bool is_eof;
        bool is_shut; /* our direction has ended */
        bool is_last; /* serves no further request */
        unsigned n_parked;
        bool is_parked; /* the dialer has it: no descriptor here (park.h) */
        bool is_wanted;
        bool is_asked;
        Volume sent;
        Volume received;
        uint64_t idle_usec; /* 0: as for all */
} Server;

typedef struct Client {
        Egress *egress;
        ListLink link;    /* of Egress.clients or .dead */
        ListLink waiting; /* of Egress.waiting: asks audit when others were answered */
        ListLink wanting; /* of Egress.wanting: asks the dialer when there is room */
        int fd;
        LoopIo *io;
        LoopTimer *timer;
        uint64_t active_usec; /* CLOCK_MONOTONIC: when one of its sockets last had something for us */
        ClientState state;
        bool is_closed;
        int error;       /* of reading in a tunnel, until what was read before it has gone */
        bool may_read;   /* said to be readable, and not found empty since: all else would be in vain */
        CloseReason end; /* why an error of a step ends it, where that is not CLOSE_DONE */
        bool is_eof;     /* the client will send no more */
        bool is_shut;    /* we have ended our direction */
        Buf in;
        size_t scanned;
        Buf to_client;
        Buf to_server;

        /* the request in hand */
        uint64_t request; /* 0: none that audit or the dialer may still answer */
        Buf decide;       /* PrivDecide and its tail, for asking again */
        Authority authority;
        bool is_connect; /* CONNECT, the one request of SOCKS, or a transparent connection */
        bool allows_tls; /* of CONNECT and SOCKS: what the rules allow may be TLS */
        bool allows_tcp; /* likewise: anything */
        bool allows_any_tls;
        bool is_by_request; /* of a tunnel: it leads nowhere, each request in it asks for its connection */
        Bounds bounds;      /* of the request in hand, as audit said */
        bool is_head_method;
        bool wants_connection; /* as audit was asked */
        bool is_undecided;     /* counts in Egress.n_undecided */
        bool is_last;          /* no further request on this connection */
        bool is_old_client;    /* HTTP/1.0: knows no chunks */
        bool has_answer_begun;
        bool has_sent;          /* something of the request went to the server */
        bool has_failed;        /* the dialer's answer came before the verdict */
        uint32_t fail_reason;   /* CloseReason */
        uint32_t refuse_status; /* HTTP status (or REFUSE_x) of what is only recorded; 0: decided by policy
                                 */
        HttpParser request_parser;
        HttpParser response_parser;
        BodyState request_body;
        BodyState response_body;
        bool has_response_head;

        bool is_inbound;       /* into the session */
        bool is_transparent;   /* authority is what the program connected to */
        uint8_t socks_version; /* 0: HTTP, as the first byte says */
        uint8_t socks_reply;   /* SocksReply of what is only recorded */
        bool has_begun;        /* a first byte was seen */
        bool has_greeted;      /* SOCKS 5 */
        bool is_tunneled;      /* HTTP inside a tunnel: requests in origin form for tunnel_authority */
        Authority tunnel_authority;
        Server server;
} Client;

typedef struct Refused Refused;

typedef struct Listener {
        Egress *egress;
        LoopIo *io;
        int fd;
        bool is_transparent;
        Authority authority; /* its own address */
} Listener;

struct Egress {
        Loop *loop;
        PrivLink *launcher;
        PrivLink *audit;
        PrivLink *dialer;
        Listener listeners[_EGRESS_SOCKET_MAX];
        Refused *refused; /* NULL: nobody tells of what is no connection */
        size_t n_listeners;
        bool is_offline;
        bool is_accepting;
        ListLink clients;
        ListLink dead;
        ListLink waiting;
        ListLink wanting;
        size_t n_clients;
        size_t clients_max; /* as descriptors allow */
        size_t n_servers;   /* descriptors of clients' servers */
        size_t n_asked;     /* that are to come back */
        Id back_token;      /* of the one that did so last */
        size_t files_max;   /* of all three together */
        bool is_all_busy;   /* all were looked at in this turn, and none rests */
        Map parked;         /* sequence -> Client */
        size_t n_undecided;
        Map requests; /* id -> Client, until nothing more is to come for it */
        uint64_t last_request;
        struct Dns *dns;           /* NULL: the session has none */
        struct Names *names;       /* likewise */
        struct Answered *answered; /* likewise */
        uint64_t idle_usec;        /* exchanges and tunnels without a byte for so long end */
        char *scratch;
};

/* The more connections, the less of each is kept in memory. */
static inline size_t egress_read_max(const Egress *e)
{
        size_t share = EGRESS_BUFFERED_MAX / MAX_OF(e->n_clients, (size_t) 1);

        return MAX_OF(MIN_OF(share, (size_t) EGRESS_SCRATCH_SIZE), (size_t) EGRESS_READ_MIN);
}

/* client.c */
/* `door`: what a transparent connection was made to; NULL: a client of the proxy. */
int client_new(Egress *e, int take_fd, const Authority *door) _must_check_;
/* Without a state yet. */
int client_add(Egress *e, int take_fd, Client **ret) _must_check_;
/* It is freed at the end of the turn; where a request of it is still to be recorded, after that. */
void client_close(Client *c, CloseReason reason);
/* Of one that is closed: nothing is to come of it any more. */
void client_bury(Client *c);
/* Does what can be done now, then waits for what it needs. May close the client. */
void client_pump(Client *c);
/* Takes what the client has sent, while less than a head's worth waits. 1: something came; 0: nothing, or
 * the end (is_eof). */
int client_fill(Client *c) _must_check_;
void client_set_timeout(Client *c, uint64_t timeout_usec);
/* Of the server's answer the first bytes are there, its head is not whole. */
void client_note_head(Client *c);
void client_set_state(Client *c, ClientState state);
static inline bool server_is_there(const Client *c)
{
        return c->server.fd >= 0 || c->server.is_parked;
}

/* Closes the server connection, if there is one, and tells the dialer why. */
void server_close(Client *c, CloseReason reason);
void egress_sweep(Egress *e);
void egress_update_listeners(Egress *e);

/* Sends what is in `buf`. 1: empty now; 0: the socket is full; -EPIPE …: the peer is gone. */
int buf_send(int fd, Buf *buf) _must_check_;
/* The same; more, or the end, follows at once: it need not be a packet of its own. */
int buf_send_more(int fd, Buf *buf) _must_check_;
/* What a socket holds, up to n bytes, into `to`. > 0: so many; 0: end; -EAGAIN: nothing now. */
int buf_receive(int fd, Buf *to, size_t n) _must_check_;
/* The same by way of the scratch space: `to` grows by what comes, not by what may. */
int egress_receive(const Egress *e, int fd, Buf *to, size_t n) _must_check_;

/* request.c: what one step did: 1: more may be possible; 0: wait; negative: the client must go */
int request_step_head(Client *c) _must_check_;
void request_on_verdict(Egress *e, const PrivVerdict *v);
int request_on_connected(Egress *e, const PrivConnected *m, int take_fd) _must_check_;
/* Of the server's socket; userdata is the client. */
void request_on_server_io(void *userdata, int fd, unsigned events);
void request_on_failed(Egress *e, const PrivConnectFailed *m);
void request_on_timeout(Client *c);
/* Forgets the request: what still comes for it is nobody's. */
void request_drop(Client *c);
/* Whether audit works on it, or it is a refusal that waits for its turn to be recorded: both go on without
 * the client, so that audit never has more to do than was agreed, and no refusal is without its row. */
bool request_outlives(const Client *c);
/* What breaks the rules is recorded like any other request, and answered as `status` says when its row is
 * there. */
int request_refuse(Client *c, unsigned status, const char *method, HttpSlice raw) _must_check_;

/* The one request of a connection that asks for a tunnel to an authority. */
int request_tunnel(Client *c, const Authority *a, HttpSlice raw) _must_check_;
/* Which door the request in hand came through. */
Entry request_entry(const Client *c);

/* socks_client.c */
bool socks_is_first_byte(char first);
int socks_step(Client *c) _must_check_;
/* Says in the words of SOCKS what an answer of HTTP would; a refusal ends the connection. */
int socks_answer(Client *c, unsigned reply) _must_check_;
/* The client speaks SOCKS, and has not got its answer yet. */
static inline bool socks_is_waiting(const Client *c)
{
        return c->socks_version != 0 && !c->is_tunneled && !c->has_answer_begun;
}

/* bounds.c */
/* Room for n bytes from fd to the other side. -EAGAIN: nothing there; -EDQUOT: there is more than may go; at
 * the end of what fd has it is at least 1. */
int bounds_room(const Volume *v, int fd, size_t n, size_t *ret) _must_check_;
/* For the request that begins: those of a new connection, or of the open one the narrower. */
void bounds_apply(Client *c);
/* Counts the request whose head is ready, with a body of known length. -EDQUOT: it may not go. */
int bounds_count_request(Client *c) _must_check_;
/* Counts what was put into to_server behind n bytes, and takes away what may not go. */
void bounds_count_sent(Client *c, size_t n);
/* Ends the client, with what is left to say. */
int bounds_refuse_upload(Client *c) _must_check_;
int bounds_refuse_download(Client *c) _must_check_;

/* transparent.c */
/* The address that a socket has on our side. */
int transparent_address(int fd, Authority *ret) _must_check_;
int transparent_begin(Client *c, const Authority *door) _must_check_;
/* A step of CLIENT_NAMING. */
int transparent_step_name(Client *c) _must_check_;
/* The client waits for the server to speak first. */
int transparent_on_silence(Client *c) _must_check_;
/* A step of CLIENT_REFUSED. */
int transparent_refuse(Client *c) _must_check_;
/* The client sees its connection refused, if late; negative, for the caller to return. */
int transparent_reset(Client *c);
/* Nothing has been said to the client yet, and it may not know what a proxy is. */
static inline bool transparent_is_waiting(const Client *c)
{
        return c->is_transparent && !c->is_tunneled && !c->has_answer_begun;
}

/* refused.c */
#define REFUSED_REQUEST (UINT64_C(1) << 63) /* of numbers of requests: those of refused datagrams */
/* which: EGRESS_LOG or EGRESS_RING. Takes the descriptor, also on error. */
int refused_new(Egress *e, PrivEgressSocket which, int take_fd, Refused **ret) _must_check_;
Refused *refused_free(Refused *f);
/* The session has ended: what waits gets its rows. */
void refused_finish(Refused *f);
/* False: the verdict is somebody else's. */
bool refused_on_verdict(Egress *e, uint64_t request);

/* inbound.c: a connection into the session, both of whose ends (inside, outside) are there; takes them */
int inbound_new(Egress *e, const PrivInbound *m, int take_fds[2]) _must_check_;

/* exchange.c */
int exchange_begin(Client *c) _must_check_;
int exchange_step(Client *c) _must_check_;
/* The server's head is not there in time. */
int exchange_on_slow_head(Client *c) _must_check_;

/* tunnel.c */
int tunnel_begin(Client *c) _must_check_;
int tunnel_step_peek(Client *c) _must_check_;
int tunnel_step(Client *c) _must_check_;
/* The client has begun something, and does not go on. */
int tunnel_on_silence(Client *c) _must_check_;
/* Ends a tunnel whose refusal was recorded. */
int tunnel_refuse(Client *c) _must_check_;

/* answer.c: an answer of ours in place of the server's. They end the connection where is_last says so. */
typedef struct Denial {
        const char *rule; /* "": none */
        const char *text; /* the rule's reason */
        uint32_t reason;  /* DecisionReason */
} Denial;
int answer_denied(Client *c, const Denial *d) _must_check_;
int answer_error(Client *c, unsigned status, const char *text) _must_check_;
