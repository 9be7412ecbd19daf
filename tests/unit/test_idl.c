/* The embedded interfaces: they parse, survive being formatted, and judge parameters. */

#include "proto/base/str.h"
#include "proto/idl/idl.h"
#include "tests/unit/check.h"

static IdlSet *set;

static int setup(void **state _unused_)
{
        return idl_set_new(&set);
}

static int teardown(void **state _unused_)
{
        set = idl_set_free(set);
        return 0;
}

/* Text without comments and white space: what both forms must agree in. */
static void squeeze(const char *text, size_t size, Buf *b)
{
        for (size_t i = 0; i < size; i++) {
                if (text[i] == '#') {
                        while (i < size && text[i] != '\n')
                                i++;
                        continue;
                }
                if (text[i] != ' ' && text[i] != '\n')
                        ASSERT_OK(buf_put(b, &text[i], 1));
        }
        ASSERT_OK(buf_put(b, "", 1));
}

static void texts_survive_formatting(void **state _unused_)
{
        const IdlInterface *i;
        size_t n = 0;

        for (; (i = idl_set_at(set, n)); n++) {
                Buf formatted = BUF_INIT(1 << 20), a = BUF_INIT(1 << 20), b = BUF_INIT(1 << 20);
                IdlInterface *again;
                unsigned line;

                ASSERT_OK(idl_format(i, &formatted));
                squeeze(i->text, strlen(i->text), &a);
                squeeze(buf_front(&formatted), buf_size(&formatted), &b);
                assert_string_equal(buf_front(&a), buf_front(&b));
                ASSERT_OK(idl_parse(buf_front(&formatted), buf_size(&formatted), &again, &line));
                assert_int_equal(again->n_members, i->n_members);
                again = idl_interface_free(again);
                buf_done(&formatted);
                buf_done(&a);
                buf_done(&b);
        }
        assert_int_equal(n, 8);
        assert_string_equal(idl_set_at(set, 0)->name, "io.sandboxd.Approval");
        assert_string_equal(idl_set_at(set, 7)->name, "org.varlink.service");
}

static void assert_flags(const char *method, unsigned flags)
{
        const IdlMember *m = idl_set_find_method(set, method);

        assert_non_null(m);
        if (m->flags != flags)
                fail_msg("%s has flags %#x, not %#x", method, m->flags, flags);
}

static void flags_come_from_comments(void **state _unused_)
{
        unsigned requires_more = IDL_REQUIRES_MORE | IDL_SUPPORTS_MORE;

        assert_flags("io.sandboxd.Session.List", requires_more);
        assert_flags("io.sandboxd.Session.Diff", requires_more);
        assert_flags("io.sandboxd.Session.Logs", requires_more);
        assert_flags("io.sandboxd.Session.Spawn", IDL_SUPPORTS_MORE | IDL_TAKES_FDS);
        assert_flags("io.sandboxd.Session.Exec", IDL_SUPPORTS_MORE | IDL_TAKES_FDS);
        assert_flags("io.sandboxd.Session.Create", IDL_TAKES_FDS);
        assert_flags("io.sandboxd.Session.Update", IDL_TAKES_FDS);
        assert_flags("io.sandboxd.Session.Attach", IDL_SUPPORTS_UPGRADE);
        assert_flags("io.sandboxd.Session.Copy", IDL_SUPPORTS_UPGRADE | IDL_TAKES_FDS);
        assert_flags("io.sandboxd.Session.Forward", IDL_SUPPORTS_UPGRADE);
        assert_flags("io.sandboxd.Session.Wait", 0);
        assert_flags("io.sandboxd.Audit.Query", requires_more);
        assert_flags("io.sandboxd.Audit.Export", requires_more);
        assert_flags("io.sandboxd.Audit.Verify", IDL_SUPPORTS_MORE);
        assert_flags("io.sandboxd.Events.Subscribe", requires_more);
        assert_flags("io.sandboxd.Approval.Subscribe", requires_more);
        assert_flags("io.sandboxd.Approval.List", requires_more);
        assert_flags("io.sandboxd.Approval.ListGrants", requires_more);
        assert_flags("io.sandboxd.Policy.Replay", requires_more | IDL_TAKES_FDS);
        assert_flags("io.sandboxd.Policy.Validate", IDL_TAKES_FDS);
        assert_flags("io.sandboxd.Policy.List", 0);
        assert_flags("org.varlink.service.GetInfo", 0);
        assert_null(idl_set_find_method(set, "io.sandboxd.Session.Nothing"));
        assert_null(idl_set_find_method(set, "io.sandboxd.Session.NoSuchSession"));
        assert_null(idl_set_find_method(set, "GetInfo"));
        assert_null(idl_set_find_method(set, ""));
        assert_non_null(idl_set_find(set, "io.sandboxd.Manager"));
        assert_null(idl_set_find(set, "io.sandboxd"));
}

static void assert_check(const char *method, const char *text, const char *field)
{
        const IdlMember *m = idl_set_find_method(set, method);
        char found[IDL_FIELD_SIZE];
        Json *j;
        int r;

        assert_non_null(m);
        ASSERT_OK(json_parse(text, strlen(text), 1 << 20, &j));
        r = idl_check_parameters(m, j, found);
        j = json_unref(j);
        assert_int_equal(r, field ? -EINVAL : 0);
        assert_string_equal(found, field ? field : "");
}

static void good_parameters(void **state _unused_)
{
        assert_check("io.sandboxd.Session.Create", "{\"context\":{}}", NULL);
        assert_check("io.sandboxd.Session.Create",
                     "{\"context\":{\"profile\":null,\"labels\":{\"a\":\"b\"},\"read\":[],\"lifetime\":\"detached\","
                     "\"limits\":{\"memoryMaxBytes\":1,\"swapMaxBytes\":0},\"publish\":[80,65535],"
                     "\"mounts\":[{\"source\":\"/x\",\"mode\":\"read_only\"}]},\"requestId\":\"r\"}",
                     NULL);
        assert_check("org.varlink.service.GetInfo", "{}", NULL);
}

static void bad_parameters_have_a_path(void **state _unused_)
{
        static const char create[] = "io.sandboxd.Session.Create";

        assert_check(create, "{}", "context");
        assert_check(create, "{\"context\":null}", "context");
        assert_check(create, "{\"context\":[]}", "context");
        assert_check(create, "{\"context\":{},\"x\":1}", "x");
        assert_check(create, "{\"context\":{\"y\":1}}", "context.y");
        assert_check(create, "{\"context\":{\"profile\":1}}", "context.profile");
        assert_check(create, "{\"context\":{\"noNetwork\":\"yes\"}}", "context.noNetwork");
        assert_check(create, "{\"context\":{\"noNetwork\":1}}", "context.noNetwork");
        assert_check(create, "{\"context\":{\"lifetime\":\"forever\"}}", "context.lifetime");
        assert_check(create, "{\"context\":{\"lifetime\":0}}", "context.lifetime");
        assert_check(create, "{\"context\":{\"labels\":{\"a\":1}}}", "context.labels.a");
        assert_check(create, "{\"context\":{\"labels\":[]}}", "context.labels");
        assert_check(create, "{\"context\":{\"read\":\"x\"}}", "context.read");
        assert_check(create, "{\"context\":{\"read\":[\"a\",null]}}", "context.read[1]");
        assert_check(create, "{\"context\":{\"mounts\":[{},{},{\"source\":7}]}}",
                     "context.mounts[2].source");
        assert_check(create, "{\"context\":{\"mounts\":[{\"mode\":\"x\"}]}}", "context.mounts[0].mode");
        assert_check(create, "{\"context\":{\"limits\":{\"memoryMaxBytes\":0}}}",
                     "context.limits.memoryMaxBytes");
        assert_check(create, "{\"context\":{\"limits\":{\"tasksMax\":-1}}}", "context.limits.tasksMax");
        assert_check(create, "{\"context\":{\"limits\":{\"tasksMax\":1.0}}}", "context.limits.tasksMax");
        assert_check(create, "{\"context\":{\"limits\":{\"swapMaxBytes\":-1}}}",
                     "context.limits.swapMaxBytes");
        assert_check(create, "{\"context\":{\"publish\":[80,0]}}", "context.publish[1]");
        assert_check("io.sandboxd.Audit.Stats", "{\"limit\":1001}", "limit");
        assert_check("io.sandboxd.Session.Forward", "{\"id\":\"x\",\"port\":65536}", "port");
        assert_check("io.sandboxd.Session.Exec", "{\"id\":\"x\"}", "command");
        assert_check("org.varlink.service.GetInfo", "{\"a\":null}", "a");
}

static void long_strings_only_in_policy_texts(void **state _unused_)
{
        static const char *const fields[] = { "userPolicy", "workspace" };
        static char text[JSON_STRING_MAX + 100], filler[JSON_STRING_MAX + 2];

        memset(filler, 'x', JSON_STRING_MAX + 1);
        for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
                ASSERT_OK(str_printf(text, sizeof(text), "{\"context\":{\"%s\":\"%s\"}}", fields[i],
                                     filler));
                assert_check("io.sandboxd.Session.Create", text, i == 0 ? NULL : "context.workspace");
        }
}

static void assert_fds(const char *text, size_t n_fds, const char *field)
{
        const IdlMember *m = idl_set_find_method(set, "io.sandboxd.Session.Spawn");
        char found[IDL_FIELD_SIZE];
        Json *j;

        ASSERT_OK(json_parse(text, strlen(text), JSON_STRING_MAX, &j));
        ASSERT_OK(idl_check_parameters(m, j, found));
        assert_int_equal(idl_check_fds(m, j, n_fds, found), field ? -EINVAL : 0);
        j = json_unref(j);
        assert_string_equal(found, field ? field : "");
}

static void descriptors_are_each_named_once(void **state _unused_)
{
        assert_fds("{\"context\":{},\"command\":{}}", 0, NULL);
        assert_fds("{\"context\":{},\"command\":{},\"standardInputFileDescriptor\":0}", 1, NULL);
        assert_fds("{\"context\":{},\"command\":{},\"standardInputFileDescriptor\":null}", 0, NULL);
        assert_fds("{\"context\":{},\"command\":{},\"standardInputFileDescriptor\":0}", 0,
                   "standardInputFileDescriptor");
        assert_fds("{\"context\":{},\"command\":{},\"standardInputFileDescriptor\":-1}", 1,
                   "standardInputFileDescriptor");
        assert_fds("{\"context\":{},\"command\":{},\"standardInputFileDescriptor\":64}", 8,
                   "standardInputFileDescriptor");
        assert_fds("{\"context\":{},\"command\":{},\"standardInputFileDescriptor\":0,"
                   "\"standardOutputFileDescriptor\":0}",
                   1, "standardOutputFileDescriptor");
        assert_fds("{\"context\":{},\"command\":{},\"standardInputFileDescriptor\":1}", 2,
                   "fileDescriptors");
        assert_fds("{\"context\":{\"mounts\":[{\"sourceFileDescriptor\":0},{\"sourceFileDescriptor\":1}]},"
                   "\"command\":{}}",
                   2, NULL);
        assert_fds("{\"context\":{\"mounts\":[{\"sourceFileDescriptor\":0},{\"sourceFileDescriptor\":3}]},"
                   "\"command\":{}}",
                   2, "context.mounts[1].sourceFileDescriptor");
}

static int parse(const char *text, unsigned *ret_line)
{
        IdlInterface *i;
        int r = idl_parse(text, strlen(text), &i, ret_line);

        if (r == 0)
                i = idl_interface_free(i);
        return r;
}

static void wrong_texts_are_refused(void **state _unused_)
{
        static const char *const good[] = {
                "interface a.b",
                "interface a-b.c1\n",
                "interface a.b\ntype T(a:int)",
                "interface a.b\ntype T (x, y)\nmethod M(a: ?[]T, b: [string]int) -> (c: (d: int, e: ?T))",
                "interface a.b\ntype T (next: ?T)\ntype U (t: ?[]U, f: (x, y))\nerror E ()\n",
                "# c\ninterface a.b # c\n\n# c\nmethod M () -> () # c",
        };
        static const char *const bad[] = {
                "",
                "interface",
                "interface a",
                "interface a.",
                "interface .b",
                "interface 1a.b",
                "interface a_b.c",
                "interface a.b\ntype t (a: int)",
                "interface a.b\ntype T",
                "interface a.b\ntype T (a: int,)",
                "interface a.b\ntype T (a: ??int)",
                "interface a.b\ntype T (a: Missing)",
                "interface a.b\ntype T (a: int, a: int)",
                "interface a.b\ntype T (a: int)\nerror T ()",
                "interface a.b\ntype T (a, b: int)",
                "interface a.b\ntype T (a: int, b)",
                "interface a.b\nmethod M ()",
                "interface a.b\nmethod M () -> (x, y)",
                "interface a.b\nerror E",
                "interface a.b\ntype T (a__b: int)",
                "interface a.b\ntype T (a_: int)",
                "interface a.b\nfoo X ()",
                "interface a.b\ntype T (a: [int]string)",
                "interface a.b\ntype T (a: int",
                "interface a.b\ntype T (a: )",
                "interface a.b\ntype T (a: lower)",
                "interface a.b x",
        };
        unsigned line = 0;

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                if (parse(good[i], &line) < 0)
                        fail_msg("refused in line %u: %s", line, good[i]);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                if (parse(bad[i], &line) != -EBADMSG)
                        fail_msg("accepted: %s", bad[i]);
        }
        ASSERT_ERROR(parse("interface a.b\n# x\ntype T (\n  a: ?,\n)", &line), EBADMSG);
        assert_int_equal(line, 4);
}

static void deep_types_are_refused(void **state _unused_)
{
        char text[4096];
        size_t n = (size_t) stpcpy(text, "interface a.b\ntype T (a: ") - (size_t) text;
        unsigned line;

        memset(text + n, '[', 2048);
        for (size_t i = 1; i < 2048; i += 2)
                text[n + i] = ']';
        (void) stpcpy(text + n + 2048, "int)");
        ASSERT_ERROR(parse(text, &line), EBADMSG);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(texts_survive_formatting),
                cmocka_unit_test(flags_come_from_comments),
                cmocka_unit_test(good_parameters),
                cmocka_unit_test(bad_parameters_have_a_path),
                cmocka_unit_test(long_strings_only_in_policy_texts),
                cmocka_unit_test(descriptors_are_each_named_once),
                cmocka_unit_test(wrong_texts_are_refused),
                cmocka_unit_test(deep_types_are_refused),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
