/* Models of every architecture open with the right numbers; variants we cannot compute do not. */
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "mkmodel/mkmodel.h"
#include "model/model.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char *const archs[] = { "llama", "qwen2", "qwen3", "gemma3" };

static void build(const struct mkmodel *o, struct buf *b)
{
    struct err e;

    buf_init(b, (size_t)64 << 20);
    if (mkmodel_build(o, b, &e) != 0)
        fail_msg("%s", e.msg);
}

static int open_bytes(struct model **m, const struct buf *b, struct err *e)
{
    struct gguf *g;
    int rc = gguf_open_bytes(&g, buf_view(b), e);

    *m = NULL;
    return rc != 0 ? rc : model_from_gguf(m, g, e);
}

/* Small on purpose: 1 layer of 32 (gemma3: 6). */
static void small(struct mkmodel *o, const char *arch)
{
    mkmodel_defaults(o, arch);
    o->layers = strcmp(arch, "gemma3") == 0 ? 6 : 1;
    o->embd = o->ff = 32;
    o->heads = 2;
    o->kv_heads = 1;
    o->head_dim = 16;
    o->merges = 10;
}

static void every_architecture_opens_in_every_type(void **state)
{
    (void)state;
    for (size_t a = 0; a < COUNT(archs); a++)
        for (uint32_t t = 0; t < 64; t++) {
            struct mkmodel o;
            struct model *m;
            struct err e;
            struct buf b;

            if (!tensor_type_known(t))
                continue;
            mkmodel_defaults(&o, archs[a]);
            o.type = o.embd_type = (enum tensor_type)t;
            o.layers = 1;
            o.ff = 256;
            o.merges = 0;
            build(&o, &b);
            if (open_bytes(&m, &b, &e) != 0)
                fail_msg("%s %s: %s", archs[a], tensor_type_name((enum tensor_type)t), e.msg);
            assert_int_equal(m->layers[0].q->type, t);
            assert_int_equal(m->layers[0].attn_norm->type, TENSOR_F32);
            model_close(m);
            buf_fini(&b);
        }
}

static void numbers_are_the_file_s(void **state)
{
    struct mkmodel o;
    struct model *m;
    struct err e;
    struct buf b;

    (void)state;
    mkmodel_defaults(&o, "qwen2");
    o.pad_rows = 7;
    build(&o, &b);
    assert_int_equal(open_bytes(&m, &b, &e), 0);
    assert_true(str_eqz(m->arch, "qwen2") && str_eqz(m->name, "mkmodel tiny"));
    assert_int_equal(m->n_layers, 2);
    assert_int_equal(m->n_embd, 256);
    assert_int_equal(m->n_heads, 4);
    assert_int_equal(m->n_kv_heads, 2);
    assert_int_equal(m->head_dim, 64);
    assert_int_equal(m->rope_dim, 64);
    assert_int_equal(m->n_ff, 512);
    assert_int_equal(m->context_max, 2048);
    assert_int_equal(m->n_vocab, gguf_get(m->gguf, "tokenizer.ggml.tokens")->count);
    assert_int_equal(m->token_embd->ne[1], m->n_vocab + 7);
    assert_ptr_equal(m->output, m->token_embd);
    assert_int_equal(m->rope, ROPE_NEOX);
    assert_int_equal(m->act, ACT_SILU);
    assert_true(m->embd_scale == 1 && m->attn_scale == 0.125f && m->norm_eps == 1e-6f);
    assert_non_null(m->layers[1].q_bias);
    assert_null(m->layers[1].o_bias);
    assert_null(m->layers[1].q_norm);
    assert_int_equal(m->group_count, 1);
    assert_int_equal(m->groups[0].layers, 2);
    assert_int_equal(model_kv_bytes_per_token(m, 0), 2 * 2 * 2 * 64 * 2);
    assert_true(m->layers[0].rope_base == 1e6 && m->layers[0].rope_scale == 1);
    model_close(m);
    buf_fini(&b);
}

static void llama_pairs_neighbours_and_may_untie(void **state)
{
    struct mkmodel o;
    struct model *m;
    struct err e;
    struct buf b;

    (void)state;
    mkmodel_defaults(&o, "llama");
    build(&o, &b);
    assert_int_equal(open_bytes(&m, &b, &e), 0);
    assert_int_equal(m->rope, ROPE_NORM);
    assert_ptr_not_equal(m->output, m->token_embd);
    assert_null(m->layers[0].q_bias);
    assert_null(m->rope_freqs);
    model_close(m);
    buf_fini(&b);
}

static void gemma3_has_two_groups_of_layers(void **state)
{
    struct mkmodel o;
    struct model *m;
    struct err e;
    struct buf b;

    (void)state;
    mkmodel_defaults(&o, "gemma3");
    o.layers = 8;
    build(&o, &b);
    assert_int_equal(open_bytes(&m, &b, &e), 0);
    assert_int_equal(m->act, ACT_GELU_TANH);
    assert_true(m->embd_scale == 16);
    assert_int_equal(m->group_count, 2);
    assert_int_equal(m->groups[0].layers, 1);
    assert_int_equal(m->groups[0].window, 0);
    assert_int_equal(m->groups[1].layers, 7);
    assert_int_equal(m->groups[1].window, 32);
    for (uint32_t i = 0; i < 8; i++) {
        const struct model_layer *l = &m->layers[i];

        assert_int_equal(l->group, i != 5); /* the sixth sees all */
        assert_int_equal(l->window, i != 5 ? 32 : 0);
        assert_true(l->rope_base == (i != 5 ? 10000 : 1e6));
        assert_int_equal(l->group_index, i < 5 ? i : i == 5 ? 0 : i - 1);
        assert_non_null(l->q_norm);
        assert_non_null(l->post_attn_norm);
        assert_non_null(l->post_ffn_norm);
    }
    model_close(m);
    buf_fini(&b);

    o.window = 0; /* no windows: one group, one base */
    build(&o, &b);
    assert_int_equal(open_bytes(&m, &b, &e), 0);
    assert_int_equal(m->group_count, 1);
    assert_int_equal(m->groups[0].layers, 8);
    assert_true(m->layers[0].rope_base == 1e6);
    model_close(m);
    buf_fini(&b);
}

/* ---- keys added to or changed in a good file ---- */

/* Adds one key at the front of the metadata; the data section moves by whole alignments only. */
static void add_key(struct buf *b, const char *key, enum gguf_type type, const void *p, size_t n)
{
    struct buf out;
    uint64_t kvs, key_len = strlen(key);
    uint32_t t = (uint32_t)type;
    size_t data_at, tail_at, head_at;
    struct gguf *g;
    struct err e;

    assert_int_equal(gguf_open_bytes(&g, buf_view(b), &e), 0);
    data_at = (size_t)(gguf_tensor_at(g, 0)->data - (const uint8_t *)b->p);
    gguf_close(g);
    buf_init(&out, b->max);
    buf_add(&out, b->p, 24);
    memcpy(&kvs, b->p + 16, 8);
    kvs++;
    memcpy(out.p + 16, &kvs, 8);
    buf_add(&out, &key_len, 8);
    buf_z(&out, key);
    buf_add(&out, &t, 4);
    buf_add(&out, p, n);
    head_at = out.len;
    /* The head ends where its padding begins; padding is zero, so find out by reopening. */
    for (tail_at = data_at;; tail_at--) {
        buf_add(&out, b->p + 24, tail_at - 24);
        while (out.len % 32 != 0)
            buf_c(&out, 0);
        buf_add(&out, b->p + data_at, b->len - data_at);
        if (gguf_open_bytes(&g, buf_view(&out), &e) == 0) {
            size_t moved = (size_t)(gguf_tensor_at(g, 0)->data - (const uint8_t *)out.p);

            gguf_close(g);
            if (out.len - moved == b->len - data_at)
                break;
        }
        out.len = head_at;
        assert_true(data_at - tail_at < 32);
    }
    buf_fini(b);
    *b = out;
}

static void expect(const struct buf *b, int want, const char *says)
{
    struct model *m;
    struct err e = { 0 };
    int rc = open_bytes(&m, b, &e);

    if (rc != want || (rc != 0 && strstr(e.msg, says) == NULL))
        fail_msg("wanted %d \"%s\", got %d \"%s\"", want, says, rc, e.msg);
    model_close(m);
}

static void keys_that_change_the_computation_are_refused(void **state)
{
    static const struct {
        const char *key;
        float value;
        int rc;
    } cases[] = {
        { "llama.expert_count", 8, ERR_UNSUPPORTED },
        { "llama.attn_logit_softcapping", 50, ERR_UNSUPPORTED },
        { "llama.final_logit_softcapping", 30, ERR_UNSUPPORTED },
        { "llama.logit_scale", 0.5f, ERR_UNSUPPORTED },
        { "llama.logit_scale", 1, 0 },
        { "llama.attention.clamp_kqv", 8, ERR_UNSUPPORTED },
        { "llama.attention.clamp_kqv", 0, 0 },
        { "llama.attention.scale", -1, ERR_PARSE },
        { "llama.attention.scale", NAN, ERR_PARSE },
        { "llama.rope.freq_base_swa", 0, ERR_PARSE },
        { "llama.attention.sliding_window", 1.5f, ERR_PARSE },
        { "qwen2.expert_count", 8, 0 }, /* of another architecture */
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct mkmodel o;
        struct buf b;

        small(&o, "llama");
        build(&o, &b);
        add_key(&b, cases[i].key, GGUF_F32, &cases[i].value, 4);
        expect(&b, cases[i].rc, cases[i].key);
        buf_fini(&b);
    }
}

static void rope_scaling_is_linear_or_refused(void **state)
{
    static const struct {
        const char *type;
        int rc;
        double scale;
    } cases[] = { { "none", 0, 1 },
                  { "linear", 0, 4 },
                  { "yarn", ERR_UNSUPPORTED, 0 },
                  { "longrope", ERR_UNSUPPORTED, 0 } };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct mkmodel o;
        struct model *m;
        struct buf b, text;
        struct err e;
        uint64_t n = strlen(cases[i].type);

        small(&o, "llama");
        build(&o, &b);
        buf_init(&text, 64);
        buf_add(&text, &n, 8);
        buf_z(&text, cases[i].type);
        add_key(&b, "llama.rope.scaling.type", GGUF_STRING, text.p, text.len);
        add_key(&b, "llama.rope.scaling.factor", GGUF_F32, &(float) { 4 }, 4);
        assert_int_equal(open_bytes(&m, &b, &e), cases[i].rc);
        if (m != NULL)
            assert_true(m->layers[0].rope_scale == cases[i].scale);
        model_close(m);
        buf_fini(&text);
        buf_fini(&b);
    }
}

static void a_window_in_every_layer_is_one_group(void **state)
{
    struct mkmodel o;
    struct model *m;
    struct buf b;
    struct err e;

    (void)state;
    small(&o, "llama");
    o.layers = 2;
    build(&o, &b);
    add_key(&b, "llama.attention.sliding_window", GGUF_U32, &(uint32_t) { 64 }, 4);
    assert_int_equal(open_bytes(&m, &b, &e), 0);
    assert_int_equal(m->group_count, 1);
    assert_int_equal(m->groups[0].window, 64);
    assert_int_equal(m->layers[1].window, 64);
    assert_int_equal(m->layers[1].group, 0);
    assert_int_equal(m->layers[1].group_index, 1);
    model_close(m);
    buf_fini(&b);
}

/* Finds `what` in the head of a file and overwrites its first bytes. */
static void patch(struct buf *b, const char *what, size_t skip, const void *with, size_t n)
{
    size_t at = str_find(buf_view(b), str_of(what));

    assert_true(at != SIZE_MAX);
    memcpy(b->p + at + strlen(what) + skip, with, n);
}

static void numbers_out_of_range_are_refused(void **state)
{
    static const struct {
        const char *key;
        uint32_t value;
        int rc;
        const char *says;
    } cases[] = {
        { "llama.block_count", 0, ERR_LIMIT, "must be 1..512" },
        { "llama.block_count", 513, ERR_LIMIT, "must be 1..512" },
        { "llama.block_count", 2, ERR_PARSE, "lacks tensor blk.1.attn_norm.weight" },
        { "llama.attention.head_count", 1025, ERR_LIMIT, "must be 1..1024" },
        { "llama.attention.head_count", 3, ERR_PARSE, "attn_q.weight" },
        { "llama.attention.head_count_kv", 3, ERR_UNSUPPORTED, "2 heads of 16 over 3" },
        { "llama.attention.head_count_kv", 0, ERR_LIMIT, "head_count_kv is 0" },
        { "llama.attention.key_length", 2048, ERR_LIMIT, "must be 1..1024" },
        { "llama.attention.value_length", 8, ERR_UNSUPPORTED, "not supported" },
        { "llama.rope.dimension_count", 15, ERR_PARSE, "even" },
        { "llama.rope.dimension_count", 32, ERR_PARSE, "at most 16" },
        { "llama.embedding_length", 0xffffffff, ERR_LIMIT, "embedding_length" },
        { "llama.embedding_length", 64, ERR_PARSE, "token_embd.weight is 32x" },
        { "llama.feed_forward_length", 64, ERR_PARSE,
          "ffn_gate.weight is 32x32x1x1, expected 32x64" },
        { "llama.context_length", 0, ERR_LIMIT, "context_length" },
        { "llama.attention.layer_norm_rms_epsilon", 0, ERR_PARSE, "positive" },
        { "llama.attention.layer_norm_rms_epsilon", 0x7f800000, ERR_PARSE, "positive" },
        { "llama.attention.layer_norm_rms_epsilon", 0xbf800000, ERR_PARSE, "positive" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct mkmodel o;
        struct buf b;

        small(&o, "llama");
        build(&o, &b);
        patch(&b, cases[i].key, 4, &cases[i].value, 4);
        expect(&b, cases[i].rc, cases[i].says);
        buf_fini(&b);
    }
}

static void tensors_missing_left_over_or_misshaped_are_named(void **state)
{
    struct mkmodel o;
    struct buf b;

    (void)state;
    small(&o, "llama");
    build(&o, &b);
    patch(&b, "blk.0.ffn_up.weigh", 0, "x", 1); /* renamed: missing comes first */
    expect(&b, ERR_PARSE, "lacks tensor blk.0.ffn_up.weight");
    buf_fini(&b);

    build(&o, &b);
    patch(&b, "blk.0.attn_outpu", 0, "x", 1); /* out of the way of the search */
    patch(&b, "output.weigh", 0, "x", 1); /* optional: so it is tied, and the tensor left over */
    patch(&b, "blk.0.attn_outpu", 0, "t", 1);
    expect(&b, ERR_UNSUPPORTED, "output.weighx, which llama does not use");
    buf_fini(&b);

    build(&o, &b);
    patch(&b, "output_norm.weight", 4, &(uint64_t) { 31 }, 8);
    expect(&b, ERR_PARSE, "output_norm.weight is 31x");
    buf_fini(&b);

    build(&o, &b);
    patch(&b, "output_norm.weight", 12, &(uint32_t) { TENSOR_F16 }, 4);
    expect(&b, ERR_UNSUPPORTED, "must be F32");
    buf_fini(&b);
}

static void an_unknown_architecture_lists_the_known(void **state)
{
    struct mkmodel o;
    struct buf b;

    (void)state;
    small(&o, "llama");
    build(&o, &b);
    patch(&b, "general.architecture", 12, "mamba", 5);
    expect(&b, ERR_UNSUPPORTED,
           "\"mamba\" is not supported; these are: llama, qwen2, qwen3, gemma3");
    patch(&b, "general.architecture", 12, "m\nm\rm", 5);
    expect(&b, ERR_UNSUPPORTED, "(unprintable)");
    buf_fini(&b);
}

static void without_memory_it_says_so(void **state)
{
    struct mkmodel o;
    struct model *m;
    struct buf b;
    uint64_t n = 1;

    (void)state;
    small(&o, "gemma3");
    build(&o, &b);
    for (;; n++) {
        struct err e = { 0 };
        int rc;

        mem_fail_at(n);
        rc = open_bytes(&m, &b, &e);
        mem_fail_at(0);
        if (rc == 0)
            break;
        assert_int_equal(rc, ERR_NOMEM);
    }
    assert_true(n > 10);
    model_close(m);
    buf_fini(&b);
}

/* ---- identity ---- */

static void digest_of(const struct mkmodel *o, uint8_t out[32])
{
    struct model *m;
    struct buf b;
    struct err e;

    build(o, &b);
    assert_int_equal(open_bytes(&m, &b, &e), 0);
    memcpy(out, m->digest, 32);
    model_close(m);
    buf_fini(&b);
}

static void the_digest_tells_models_apart(void **state)
{
    uint8_t seen[8][32], again[32];
    struct mkmodel o;
    size_t n = 0;

    (void)state;
    small(&o, "gemma3");
    digest_of(&o, seen[n++]);
    digest_of(&o, again);
    assert_memory_equal(seen[0], again, 32);
    o.has_template = false; /* not a weight, not a number */
    digest_of(&o, again);
    assert_memory_equal(seen[0], again, 32);
    o.seed = 2;
    digest_of(&o, seen[n++]);
    o.window = 33;
    digest_of(&o, seen[n++]);
    o.freq_base = 5e5;
    digest_of(&o, seen[n++]);
    o.type = TENSOR_F16;
    digest_of(&o, seen[n++]);
    o.pad_rows = 1;
    digest_of(&o, seen[n++]);
    o.layers = 7;
    digest_of(&o, seen[n++]);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i; k++)
            assert_memory_not_equal(seen[i], seen[k], 32);
}

static void a_model_is_described(void **state)
{
    static const char *const says[] = {
        "gemma3: 6 layers, 32 wide",
        "tied embedding",
        "F32",
        "2 heads, 1 KV heads of 16",
        "1 layers see all, 5 the last 32 tokens",
        "base 1e+06 (windowed layers 10000)",
        "tokenizer      llama",
        "chat template  yes",
        "KV cache       0.4 KiB a token",
        "2048 tokens",
    };
    struct mkmodel o;
    struct model *m;
    struct buf b, out;
    struct err e;

    (void)state;
    small(&o, "gemma3");
    build(&o, &b);
    assert_int_equal(open_bytes(&m, &b, &e), 0);
    buf_init(&out, 65536);
    model_describe(m, &out);
    for (size_t i = 0; i < COUNT(says); i++)
        if (str_find(buf_view(&out), str_of(says[i])) == SIZE_MAX)
            fail_msg("%s is not in: %.*s", says[i], STR_ARG(buf_view(&out)));
    buf_fini(&out);
    model_close(m);
    buf_fini(&b);
}

static void a_file_without_a_name_is_called_by_its_own(void **state)
{
    struct mkmodel o;
    struct model *m;
    struct buf b;
    struct err e;

    (void)state;
    small(&o, "llama");
    build(&o, &b);
    patch(&b, "general.nam", 0, "x", 1);
    assert_int_equal(file_write("test_model.gguf", buf_view(&b), &e), 0);
    assert_int_equal(model_open(&m, "./test_model.gguf", &e), 0);
    assert_true(str_eqz(m->name, "test_model.gguf"));
    assert_string_equal(m->path, "./test_model.gguf");
    model_close(m);
    b.len -= 40; /* and cut short, it is said which file */
    assert_int_equal(file_write("test_model.gguf", buf_view(&b), &e), 0);
    assert_int_equal(model_open(&m, "./test_model.gguf", &e), ERR_PARSE);
    assert_non_null(strstr(e.msg, "./test_model.gguf: the file is cut short"));
    remove("test_model.gguf");
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_opens_in_every_type),
        cmocka_unit_test(numbers_are_the_file_s),
        cmocka_unit_test(llama_pairs_neighbours_and_may_untie),
        cmocka_unit_test(gemma3_has_two_groups_of_layers),
        cmocka_unit_test(keys_that_change_the_computation_are_refused),
        cmocka_unit_test(rope_scaling_is_linear_or_refused),
        cmocka_unit_test(a_window_in_every_layer_is_one_group),
        cmocka_unit_test(numbers_out_of_range_are_refused),
        cmocka_unit_test(tensors_missing_left_over_or_misshaped_are_named),
        cmocka_unit_test(an_unknown_architecture_lists_the_known),
        cmocka_unit_test(without_memory_it_says_so),
        cmocka_unit_test(the_digest_tells_models_apart),
        cmocka_unit_test(a_model_is_described),
        cmocka_unit_test(a_file_without_a_name_is_called_by_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
