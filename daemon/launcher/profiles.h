#pragma once

/* The profiles on disk, gathered unread: a child checks them, workers read them. */

#include "daemon/launcher/launcher.h"

/* A bundle of both folders' profiles, the shipped ones first, each folder's by name, and of the ceiling and
 * the additions of the configuration folder. < 0: *ret_fault says
 * which file, and what is wrong with it. */
int profiles_gather(const Config *config, int *ret_fd, PrivDiagnostic *ret_fault) _must_check_;

#define DIAGNOSTIC_FAILURE 2U /* as policy has it */

/* A failure about a file, for people. */
void fault_set(PrivDiagnostic *to, const char *file, const char *message);
