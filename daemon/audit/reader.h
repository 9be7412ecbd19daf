#pragma once

#include "daemon/audit/readers.h"

/* In a process of its own: writes what the query asks for to the pipe, oldest first. On error it leaves the
 * stream within a record. One that follows looks for more whenever something comes on poke_fd, until either
 * end is closed. */
int reader_run(const char *directory, const ReaderRequest *request, int out_fd, int poke_fd) _must_check_;

/* Likewise: frames of AuditVerification, the last one the verdict. */
int verifier_run(const char *directory, const PrivVerify *request, int out_fd) _must_check_;
