#pragma once

/*
 * The server name in the first bytes of a TLS client. The ClientHello is put together over TCP segments and
 * over TLS records before it is read: what is looked at is what the server will look at.
 */

#include <stddef.h>

#include "proto/base/macro.h"

#define SNI_HELLO_MAX (64U * 1024U) /* bytes on the wire, record headers included */
#define SNI_NAME_SIZE 256U

/* 1: complete; ret_name holds *ret_size bytes as sent (0: the hello names no server). 0: more bytes are
 * needed. -EBADMSG: no sound ClientHello, too long, or not exactly one name. */
int sni_find(const char *data, size_t size, char ret_name[SNI_NAME_SIZE], size_t *ret_size) _must_check_;
