#include "proto/idl/privsep.h"

#include <errno.h>

static const PrivRule rules[] = {
#define MESSAGE(ch, nm, snd, ph, bmin, bmax, fmin, fmax) \
        [PRIV_##nm] = { .name = #nm,                     \
                        .channel = CHANNEL_##ch,         \
                        .sender = ROLE_##snd,            \
                        .phase = PHASE_##ph,             \
                        .body_min = (bmin),              \
                        .body_max = (bmax),              \
                        .fds_min = (fmin),               \
                        .fds_max = (fmax) },
#include "proto/idl/privsep.def"
#undef MESSAGE
};
ASSERT_TABLE(rules, _PRIV_MESSAGE_MAX);

static const char *const entries[] = {
        [ENTRY_NONE] = "none",       [ENTRY_CONNECT] = "connect", [ENTRY_ABSOLUTE] = "absolute",
        [ENTRY_SOCKS4] = "socks4",   [ENTRY_SOCKS5] = "socks5",   [ENTRY_TRANSPARENT] = "transparent",
        [ENTRY_DNS] = "dns",         [ENTRY_UDP] = "udp",         [ENTRY_FORWARD] = "forward",
        [ENTRY_PUBLISH] = "publish", [ENTRY_ICMP] = "icmp",
};
ASSERT_TABLE(entries, _ENTRY_MAX);

static const char *const protocols[] = {
        [PROTOCOL_ANY] = "any", [PROTOCOL_HTTP] = "http", [PROTOCOL_TLS] = "tls",   [PROTOCOL_TCP] = "tcp",
        [PROTOCOL_UDP] = "udp", [PROTOCOL_DNS] = "dns",   [PROTOCOL_ICMP] = "icmp",
};
ASSERT_TABLE(protocols, _PROTOCOL_MAX);

static const char *const file_operations[] = {
        [FILE_OPEN] = "open",     [FILE_LIST] = "list",     [FILE_STAT] = "stat",
        [FILE_LOOKUP] = "lookup", [FILE_ACCESS] = "access", [FILE_CHANGE] = "change",
};
ASSERT_TABLE(file_operations, _FILE_OPERATION_MAX);

static const char *const end_reasons[] = {
        [END_EXITED] = "exited",
        [END_SIGNAL] = "signal",
        [END_TIMEOUT] = "timeout",
        [END_RUNTIME] = "runtime",
        [END_IDLE] = "idle",
        [END_OOM] = "oom",
        [END_OUTPUT_LIMIT] = "output-limit",
        [END_TERMINATED] = "terminated",
        [END_CLIENT_GONE] = "client-gone",
        [END_DAEMON_RESTART] = "daemon-restart",
        [END_SETUP_FAILED] = "setup-failed",
};
ASSERT_TABLE(end_reasons, _END_REASON_MAX);

static const char *const decision_reasons[] = {
        [REASON_RULE] = "rule",
        [REASON_DEFAULT] = "default",
        [REASON_NO_APPROVER] = "no-approver",
        [REASON_MALFORMED] = "malformed",
        [REASON_ADDRESS] = "address",
        [REASON_AUDIT] = "audit",
        [REASON_LIMIT] = "limit",
        [REASON_NO_NETWORK] = "no-network",
        [REASON_PATH] = "path",
        [REASON_MAX_CONNECTIONS] = "max-connections",
        [REASON_PROTOCOL] = "protocol",
        [REASON_OWNER] = "owner",
};
ASSERT_TABLE(decision_reasons, _REASON_MAX);

static const char *const close_reasons[] = {
        [CLOSE_DONE] = "done",
        [CLOSE_CLIENT] = "client",
        [CLOSE_SERVER] = "server",
        [CLOSE_RESOLVE] = "resolve",
        [CLOSE_TIMEOUT] = "timeout",
        [CLOSE_REFUSED] = "refused",
        [CLOSE_UNREACHABLE] = "unreachable",
        [CLOSE_ERROR] = "error",
        [CLOSE_IDLE] = "idle",
        [CLOSE_EGRESS_GONE] = "egress-gone",
        [CLOSE_SESSION_ENDED] = "session-ended",
        [CLOSE_POLICY] = "policy",
        [CLOSE_DAEMON_RESTART] = "daemon-restart",
        [CLOSE_UNUSED] = "unused",
        [CLOSE_EXPIRED] = "expired",
        [CLOSE_MAX_UPLOAD] = "max-upload",
        [CLOSE_MAX_DOWNLOAD] = "max-download",
        [CLOSE_PROXY] = "proxy",
};
ASSERT_TABLE(close_reasons, _CLOSE_REASON_MAX);

static const char *const verdicts[] = {
        [VERDICT_DENY] = "deny",
        [VERDICT_ASK] = "ask",
        [VERDICT_ALLOW] = "allow",
};

static const char *const audit_kinds[] = {
        [AUDIT_KIND_SESSION] = "session",
        [AUDIT_KIND_NET] = "net",
        [AUDIT_KIND_DNS] = "dns",
        [AUDIT_KIND_FILE] = "file",
        [AUDIT_KIND_CREDENTIAL] = "credential",
        [AUDIT_KIND_GIT] = "git",
        [AUDIT_KIND_APPROVAL] = "approval",
        [AUDIT_KIND_POLICY] = "policy",
        [AUDIT_KIND_LIMIT] = "limit",
        [AUDIT_KIND_ADMIN] = "admin",
};
ASSERT_TABLE(audit_kinds, _AUDIT_KIND_MAX);

#define LOOKUP(table, v) ((v) < ELEMENTSOF(table) ? (table)[v] : NULL)

static int name_to_number(const char *const *table, size_t n, const char *s)
{
        for (size_t i = 0; i < n; i++) {
                if (table[i] && strcmp(table[i], s) == 0)
                        return (int) i;
        }
        return -EINVAL;
}

const char *entry_to_string(uint32_t v)
{
        return LOOKUP(entries, v);
}

const char *protocol_to_string(uint32_t v)
{
        return LOOKUP(protocols, v);
}

const char *file_operation_to_string(uint32_t v)
{
        return LOOKUP(file_operations, v);
}

const char *end_reason_to_string(uint32_t v)
{
        return LOOKUP(end_reasons, v);
}

const char *decision_reason_to_string(uint32_t v)
{
        return LOOKUP(decision_reasons, v);
}

const char *close_reason_to_string(uint32_t v)
{
        return LOOKUP(close_reasons, v);
}

const char *verdict_to_string(uint32_t v)
{
        return LOOKUP(verdicts, v);
}

const char *audit_kind_to_string(uint32_t v)
{
        return LOOKUP(audit_kinds, v);
}

int audit_kind_from_string(const char *s)
{
        return name_to_number(audit_kinds, ELEMENTSOF(audit_kinds), s);
}

int end_reason_from_string(const char *s)
{
        return s ? name_to_number(end_reasons, ELEMENTSOF(end_reasons), s) : -EINVAL;
}

int verdict_from_string(const char *s)
{
        return name_to_number(verdicts, ELEMENTSOF(verdicts), s);
}

const PrivRule *priv_rule(uint32_t message)
{
        return message < _PRIV_MESSAGE_MAX ? &rules[message] : NULL;
}
