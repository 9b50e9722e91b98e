/* What a pod, an event, a selector and a kubeconfig say; the rest of kube/ is
 * tests/e2e/test_kube.py. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/check.h"
#include "kube/discovery.h"
#include "kube/elect.h"
#include "kube/selector.h"

static int read_pod(struct arena *a, const char *text, struct kube_pod *out)
{
    const struct json *j;
    struct err e;

    assert_int_equal(json_parse(a, str_of(text), NULL, &j, &e), 0);
    return kube_pod_read(j, out, &e);
}

static void a_pod_is_used_or_says_why_not(void **state)
{
#define READY     "\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]"
#define NOT_READY "\"conditions\":[{\"type\":\"Ready\",\"status\":\"False\"}]"
    static const struct {
        const char *text, *reason; /* reason NULL: used; "": no pod */
    } rows[] = {
        { "{\"metadata\":{\"name\":\"p\"},\"status\":{\"podIP\":\"10.0.0.1\"," READY "}}", NULL },
        { "{\"metadata\":{\"name\":\"p\"},\"status\":{\"podIP\":\"fd00::1\"," READY "}}", NULL },
        { "{\"metadata\":{\"name\":\"p\"},\"status\":{\"podIP\":\"10.0.0.1\"," NOT_READY "}}",
          "is not ready (its readiness probe)" },
        { "{\"metadata\":{\"name\":\"p\"},\"status\":{\"podIP\":\"10.0.0.1\"}}",
          "is not ready (its readiness probe)" },
        { "{\"metadata\":{\"name\":\"p\",\"deletionTimestamp\":\"2026-01-01T00:00:00Z\"},"
          "\"status\":{\"podIP\":\"10.0.0.1\"," READY "}}",
          KUBE_DELETING },
        { "{\"metadata\":{\"name\":\"p\"},\"status\":{\"phase\":\"Pending\"}}",
          "is pending: not started on a node yet" },
        { "{\"metadata\":{\"name\":\"p\"},\"status\":{\"phase\":\"Failed\",\"podIP\":\"10.0.0."
          "1\"," READY "}}",
          KUBE_ENDED },
        { "{\"metadata\":{\"name\":\"p\"}}", "has no address yet" },
        { "{\"metadata\":{\"name\":\"p\"},\"status\":{\"podIP\":\"evil.example:80/\"," READY "}}",
          "" },
        { "{\"metadata\":{\"name\":\"\"},\"status\":{}}", "" },
        { "{\"metadata\":{},\"status\":{}}", "" },
        { "[]", "" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct kube_pod pod;
        struct arena a;
        int rc;

        arena_init(&a, 1 << 20);
        rc = read_pod(&a, rows[i].text, &pod);
        assert_int_equal(rc, rows[i].reason != NULL && rows[i].reason[0] == 0 ? ERR_PARSE : 0);
        if (rc == 0 && rows[i].reason == NULL)
            assert_null(pod.reason);
        else if (rc == 0)
            assert_string_equal(pod.reason, rows[i].reason);
        arena_fini(&a);
    }
}

static void active_ports_are_a_part_of_the_target_ports(void **state)
{
    static const struct {
        const char *annotations;
        bool first, second; /* 8000, 8001 */
    } rows[] = {
        { "{}", true, true },
        { "{\"llm-d.ai/active-ports\":\"8000,8001\"}", true, true },
        { "{\"llm-d.ai/active-ports\":\" 8001 , 9000\"}", false, true },
        { "{\"inference.networking.k8s.io/active-ports\":\"8000\"}", true, false },
        { "{\"inference.networking.k8s.io/active-ports\":\"8000\",\"llm-d.ai/active-ports\":\"\"}",
          false, false },
        { "{\"llm-d.ai/active-ports\":\"x,8000,-8001,80001\"}", true, false },
        { "{\"llm-d.ai/active-ports\":\",\"}", false, false },
        { "{\"llm-d.ai/active-ports\":8000}", true, true }, /* no text: no annotation */
    };
    struct kube_pods *pods = kube_pods_new();
    char text[256];

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct kube_pod pod;
        struct arena a;

        arena_init(&a, 1 << 20);
        snprintf(text, sizeof(text), "{\"metadata\":{\"name\":\"p\",\"annotations\":%s}}",
                 rows[i].annotations);
        assert_int_equal(read_pod(&a, text, &pod), 0);
        assert_int_equal(kube_pod_has_port(&pod, 8000), rows[i].first);
        assert_int_equal(kube_pod_has_port(&pod, 8001), rows[i].second);
        (void)kube_pods_put(pods, &pod);
        arena_fini(&a);
        /* what is kept has a text of its own */
        assert_int_equal(kube_pod_has_port(kube_pods_at(pods, 0), 8000), rows[i].first);
        assert_int_equal(kube_pod_has_port(kube_pods_at(pods, 0), 8001), rows[i].second);
    }
    kube_pods_free(pods);
}

static void put(struct kube_pods *p, const char *name, const char *ip, bool changes)
{
    struct kube_pod pod = { .name = str_of(name), .ip = str_of(ip) };

    assert_int_equal(kube_pods_put(p, &pod), changes);
}

static void a_list_drops_what_it_does_not_name(void **state)
{
    struct kube_pods *p = kube_pods_new();
    char name[16];

    (void)state;
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "pod-%d", i);
        put(p, name, "10.0.0.1", true);
        put(p, name, "10.0.0.1", false);
    }
    put(p, "pod-5", "10.0.0.2", true);
    assert_int_equal(kube_pods_count(p), 100);
    assert_true(kube_pods_del(p, STR("pod-7")));
    assert_false(kube_pods_del(p, STR("pod-7")));
    kube_pods_begin(p);
    assert_int_equal(kube_pods_listed(p), 0);
    put(p, "pod-5", "10.0.0.2", false);
    put(p, "new", "10.0.0.3", true);
    assert_int_equal(kube_pods_listed(p), 2);
    assert_true(kube_pods_end(p));
    assert_int_equal(kube_pods_count(p), 2);
    assert_true(kube_pods_del(p, STR("pod-5")));
    assert_true(str_eqz(kube_pods_at(p, 0)->name, "new"));
    kube_pods_free(p);
}

static void past_the_cap_pods_are_counted(void **state)
{
    struct kube_pods *p = kube_pods_new();
    char name[16];

    (void)state;
    for (int i = 0; i < KUBE_PODS_MAX; i++) {
        snprintf(name, sizeof(name), "pod-%d", i);
        put(p, name, "10.0.0.1", true);
    }
    assert_int_equal(kube_pods_left_out(p), 0);
    put(p, "one-more", "10.0.0.1", false);
    put(p, "pod-7", "10.0.0.2", true);
    assert_int_equal(kube_pods_left_out(p), 1);
    kube_pods_begin(p);
    assert_int_equal(kube_pods_left_out(p), 0);
    kube_pods_free(p);
}

static void events_are_of_five_kinds(void **state)
{
    static const char gone[] =
        "{\"type\":\"ERROR\",\"object\":{\"code\":410,\"message\":\"too old\"}}";
    static const char *const bad[] = { "",
                                       "{}",
                                       "{\"type\":\"ADDED\"}",
                                       "{\"type\":\"OTHER\",\"object\":{}}",
                                       "{\"type\":\"ADDED\",\"object\":[]}",
                                       "{" };
    struct kube_event ev;
    struct arena a;
    struct err e;

    (void)state;
    arena_init(&a, 1 << 20);
    assert_int_equal(kube_event_parse(&a, str_of(gone), &ev, &e), 0);
    assert_int_equal(ev.change, KUBE_ERROR);
    assert_int_equal(ev.code, 410);
    assert_int_equal(
        kube_event_parse(&a,
                         STR("{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":"
                             "\"12\"}}}"),
                         &ev, &e),
        0);
    assert_int_equal(ev.change, KUBE_BOOKMARK);
    assert_true(str_eqz(ev.version, "12"));
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_int_equal(kube_event_parse(&a, str_of(bad[i]), &ev, &e), ERR_PARSE);
    arena_fini(&a);
}

static void a_lease_says_who_holds_it(void **state)
{
    static const struct {
        const char *text, *holder, *acquired, *spec; /* holder NULL: no Lease */
        uint32_t duration_s, transitions;
    } rows[] = {
        { "{\"metadata\":{\"name\":\"l\"},\"spec\":{\"holderIdentity\":\"a\","
          "\"leaseDurationSeconds\":"
          "15,\"acquireTime\":\"2026-01-01T00:00:00.000000Z\",\"leaseTransitions\":3}}",
          "a", "2026-01-01T00:00:00.000000Z",
          "{\"holderIdentity\":\"a\",\"leaseDurationSeconds\":15,\"acquireTime\":\"2026-01-01T00:"
          "00:"
          "00.000000Z\",\"leaseTransitions\":3}",
          15, 3 },
        { "{\"metadata\":{},\"spec\":{\"holderIdentity\":null}}", "", "",
          "{\"holderIdentity\":null}", 0, 0 },
        { "{\"metadata\":{}}", "", "", "{}", 0, 0 },
        /* nobody is kept waiting for years */
        { "{\"metadata\":{},\"spec\":{\"leaseDurationSeconds\":99999,\"leaseTransitions\":-1}}", "",
          "", "{\"leaseDurationSeconds\":99999,\"leaseTransitions\":-1}", 0, 0 },
        { "{\"metadata\":{},\"spec\":[]}", NULL, NULL, NULL, 0, 0 },
        { "{\"spec\":{}}", NULL, NULL, NULL, 0, 0 },
        { "[]", NULL, NULL, NULL, 0, 0 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct kube_lease lease;
        const struct json *j;
        struct arena a;
        struct err e;
        int rc;

        arena_init(&a, 1 << 20);
        assert_int_equal(json_parse(&a, str_of(rows[i].text), NULL, &j, &e), 0);
        rc = kube_lease_read(j, &lease, &e);
        assert_int_equal(rc, rows[i].holder != NULL ? 0 : ERR_PARSE);
        if (rc == 0) {
            assert_true(str_eqz(lease.holder, rows[i].holder));
            assert_int_equal(lease.acquired.n, strlen(rows[i].acquired));
            assert_true(str_eqz(lease.spec, rows[i].spec));
            assert_int_equal(lease.duration_s, rows[i].duration_s);
            assert_int_equal(lease.transitions, rows[i].transitions);
        }
        arena_fini(&a);
    }
}

static void selectors_and_ports_are_checked(void **state)
{
    static const struct {
        const char *text, *query;
    } rows[] = {
        { "app=vllm", "labelSelector=app%3Dvllm" },
        { " app == vllm ,\tllm-d.ai/role=decode ",
          "labelSelector=app%3Dvllm%2Cllm-d.ai%2Frole%3Ddecode" },
        { "app=", "labelSelector=app%3D" },
        { "app=,b", "labelSelector=app%3D%2Cb" },
        { "app", "labelSelector=app" },
        { "!app", "labelSelector=%21app" },
        { "! app , b", "labelSelector=%21app%2Cb" },
        { "app!=x", "labelSelector=app%21%3Dx" },
        { "app != x,y", "labelSelector=app%21%3Dx%2Cy" },
        { "app in (a,b)", "labelSelector=app%20in%20%28a%2Cb%29" },
        { "app in(a)", "labelSelector=app%20in%20%28a%29" },
        { "app notin ( a , b ),c=d", "labelSelector=app%20notin%20%28a%2Cb%29%2Cc%3Dd" },
        { "app in (a,)", "labelSelector=app%20in%20%28a%2C%29" }, /* or empty */
        { "app in (in,notin)", "labelSelector=app%20in%20%28in%2Cnotin%29" },
        { "app=in", "labelSelector=app%3Din" },
        { "n>5,m < 7", "labelSelector=n%3E5%2Cm%3C7" },
        { "a.b/c_d.e=F-1.x", "labelSelector=a.b%2Fc_d.e%3DF-1.x" },
        { "", NULL },
        { " ", NULL },
        { "a=b,", NULL },
        { ",a=b", NULL },
        { "a=b c", NULL },
        { "a=b=c", NULL },
        { "a=b&watch=1", NULL },
        { "a = = b", NULL },
        { "a ! = b", NULL },
        { "a!b", NULL },
        { "!a=b", NULL },
        { "!", NULL },
        { "!!a", NULL },
        { "=b", NULL },
        { "in (a)", NULL },
        { "app in", NULL },
        { "app in ()", NULL },
        { "app in (a", NULL },
        { "app in a", NULL },
        { "app in (a b)", NULL },
        { "app in ((a))", NULL },
        { "app is (a)", NULL },
        { "app exists", NULL },
        { "n>x", NULL },
        { "n>", NULL },
        { "-a=b", NULL },
        { "a=b-", NULL },
        { "A.b/c=d", NULL },
        { "/c=d", NULL },
        { "a/b/c=d", NULL },
        { "a..b/c=d", NULL },
        { "a\xc3\xbc=b", NULL },
        { "a=0123456789012345678901234567890123456789012345678901234567890123", NULL },
    };
    static const char *const bad_ports[] = {
        "", "0", "65536", "http", "80,,81", "-1", "1,2,3,4,5,6,7,8,9"
    };
    uint16_t port[KUBE_PORTS_MAX];
    uint32_t count;
    struct err e;

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct buf b;
        int rc;

        buf_init(&b, 1 << 16);
        rc = kube_selector_query(str_of(rows[i].text), &b, &e);
        assert_int_equal(rc, rows[i].query != NULL ? 0 : ERR_INVAL);
        if (rc == 0)
            assert_true(str_eqz(buf_view(&b), rows[i].query));
        buf_fini(&b);
    }
    assert_int_equal(kube_ports_parse(STR("8000, 8001,8000"), port, &count, &e), 0);
    assert_int_equal(count, 2);
    assert_int_equal(port[1], 8001);
    for (size_t i = 0; i < COUNT(bad_ports); i++)
        assert_int_equal(kube_ports_parse(str_of(bad_ports[i]), port, &count, &e), ERR_INVAL);
}

#define KUBECONFIG(SERVER, USER)                                                                   \
    "current-context: x\ncontexts:\n- name: x\n  context: {cluster: c, user: u, namespace: n}\n"   \
    "clusters:\n- name: c\n  cluster:\n    server: " SERVER "\n"                                   \
    "    certificate-authority-data: aGVsbG8=\nusers:\n- name: u\n  user: " USER "\n"

static void a_kubeconfig_says_where_and_who(void **state)
{
    static const struct {
        const char *text;
        int rc;
        const char *says;
    } bad[] = {
        { "clusters: []\n", ERR_PARSE, "current-context is missing" },
        { "current-context: y\ncontexts: []\n", ERR_PARSE, "f:1:18: there is no context" },
        { "current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\n"
          "clusters: [{name: c, cluster: {}}]\n",
          ERR_PARSE, "f:3:31: server is missing" },
        { KUBECONFIG("http://10.0.0.1:80", "{token: t}"), ERR_PARSE, "in the clear" },
        { KUBECONFIG("ftp://10.0.0.1", "{token: t}"), ERR_PARSE, "must be a https:// URL" },
        { KUBECONFIG("https://10.0.0.1", "{exec: {command: aws}}"), ERR_UNSUPPORTED,
          "kubectl create token" },
        { KUBECONFIG("https://10.0.0.1", "{client-certificate: c}"), ERR_PARSE, "belong together" },
        { KUBECONFIG("https://10.0.0.1", "{client-key-data: '%'}"), ERR_PARSE, "is no base64" },
    };
    struct kube_access at;
    char text[16] = "";
    struct err e;

    (void)state;
    assert_int_equal(kube_access_parse(STR(KUBECONFIG("https://[fd00::1]:6443/k8s/c/",
                                                      "{tokenFile: t, client-certificate: /c, "
                                                      "client-key: k}")),
                                       "/etc/f", &at, &e),
                     0);
    assert_string_equal(at.host, "fd00::1");
    assert_int_equal(at.port, 6443);
    assert_string_equal(at.prefix, "/k8s/c");
    assert_string_equal(at.namespace, "n");
    assert_string_equal(at.token_file, "/etc/t");
    assert_string_equal(at.cert_file, "/c");
    assert_string_equal(at.key_file, "/etc/k");
    assert_true(at.is_tls && !at.skip_verify && at.fd[0] >= 0);
    assert_int_equal(pread(at.fd[0], text, sizeof(text), 0), 5);
    assert_string_equal(text, "hello");
    kube_access_free(&at);
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(kube_access_parse(str_of(bad[i].text), "f", &at, &e), bad[i].rc);
        assert_non_null(strstr(e.msg, bad[i].says));
        kube_access_free(&at);
    }
}

static void put_file(const char *dir, const char *name, const char *text, char *list, size_t n)
{
    size_t len = strlen(list);
    char path[300];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    snprintf(list + len, n - len, "%s%s", len != 0 ? ":" : "", path);
}

static void of_several_kubeconfigs_the_first_word_counts(void **state)
{
    char dir[] = "/tmp/llmd-test-XXXXXX", list[1024] = "/nonexistent/config", want[300];
    struct kube_access at;
    struct err e;

    (void)state;
    assert_non_null(mkdtemp(dir));
    put_file(dir, "a", "current-context: ''\nusers: [{name: u, user: {tokenFile: t}}]\n", list,
             sizeof(list));
    list[strlen(list) + 1] = 0;
    list[strlen(list)] = ':'; /* an empty name is passed over */
    put_file(dir, "b",
             "current-context: x\n"
             "clusters: [{name: c, cluster: {server: 'https://first:1'}}]\n"
             "users: [{name: u, user: {token: second}}]\n",
             list, sizeof(list));
    put_file(dir, "c",
             "current-context: y\n"
             "contexts: [{name: x, context: {cluster: c, user: u, namespace: n}}]\n"
             "clusters: [{name: c, cluster: {server: 'https://second:2'}}]\n",
             list, sizeof(list));
    assert_int_equal(setenv("KUBECONFIG", list, 1), 0);
    assert_int_equal(kube_access_load(NULL, &at, &e), 0);
    assert_string_equal(at.host, "first");
    assert_string_equal(at.namespace, "n");
    snprintf(want, sizeof(want), "%s/t", dir);
    assert_string_equal(at.token_file, want);
    assert_null(at.token);
    kube_access_free(&at);

    /* a flag names one file, whatever is in its name */
    assert_int_equal(kube_access_load(list, &at, &e), ERR_IO);
    kube_access_free(&at);
    assert_int_equal(setenv("KUBECONFIG", "/nonexistent/a:/nonexistent/b", 1), 0);
    assert_int_equal(kube_access_load(NULL, &at, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "no such file"));
    kube_access_free(&at);
    unsetenv("KUBECONFIG");

    /* at home, but not in a pod */
    snprintf(want, sizeof(want), "%s/.kube", dir);
    assert_int_equal(mkdir(want, 0700), 0);
    list[0] = 0;
    put_file(want, "config", KUBECONFIG("https://home", "{token: t}"), list, sizeof(list));
    setenv("HOME", dir, 1);
    unsetenv("KUBERNETES_SERVICE_HOST");
    assert_int_equal(kube_access_load(NULL, &at, &e), 0);
    assert_string_equal(at.host, "home");
    kube_access_free(&at);
    setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1", 1);
    assert_int_equal(kube_access_load(NULL, &at, &e), ERR_IO); /* no account is mounted here */
    assert_string_equal(at.host, "10.0.0.1");
    kube_access_free(&at);
    for (const char *p = "abc"; *p != 0; p++) {
        snprintf(want, sizeof(want), "%s/%c", dir, *p);
        unlink(want);
    }
    unlink(list);
    snprintf(want, sizeof(want), "%s/.kube", dir);
    rmdir(want);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pod_is_used_or_says_why_not),
        cmocka_unit_test(a_list_drops_what_it_does_not_name),
        cmocka_unit_test(active_ports_are_a_part_of_the_target_ports),
        cmocka_unit_test(past_the_cap_pods_are_counted),
        cmocka_unit_test(events_are_of_five_kinds),
        cmocka_unit_test(a_lease_says_who_holds_it),
        cmocka_unit_test(selectors_and_ports_are_checked),
        cmocka_unit_test(a_kubeconfig_says_where_and_who),
        cmocka_unit_test(of_several_kubeconfigs_the_first_word_counts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
