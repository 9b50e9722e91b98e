/* The loop: timers, the mailbox from many threads, put-off work, signals. */
// SPDX-License-Identifier: Apache-2.0
#include "net_test.h"
#include "net/loop_priv.h"
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#define THREADS 4
#define POSTS   2000

static uint32_t seen[THREADS], out_of_order, total;

static void arrived(void *ctx)
{
    uintptr_t v = (uintptr_t)ctx;
    uint32_t from = (uint32_t)(v >> 32), i = (uint32_t)v;

    out_of_order += seen[from] != i;
    seen[from] = i + 1;
    total++;
}

static void *post_many(void *arg)
{
    for (uint32_t i = 0; i < POSTS; i++)
        loop_post(loop, arrived, (void *)((uintptr_t)arg << 32 | i));
    return NULL;
}

static void posts_arrive_all_and_in_order_per_sender(void **state)
{
    pthread_t t[THREADS];

    (void)state;
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, post_many, (void *)i), 0);
    WAIT(total == THREADS * POSTS);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(out_of_order, 0);
}

static int again;

static void post_again(void *ctx)
{
    if (++again < 1000)
        loop_post(loop, post_again, ctx);
}

static void a_post_may_post(void **state)
{
    (void)state;
    loop_post(loop, post_again, NULL);
    WAIT(again == 1000);
}

static struct loop_timer *self;
static int fired;

static void fire_and_free(void *ctx)
{
    (void)ctx;
    if (++fired == 3) {
        loop_timer_free(self);
        self = NULL;
    }
}

static void a_timer_repeats_and_frees_itself(void **state)
{
    (void)state;
    self = loop_timer_new(loop, fire_and_free, NULL);
    loop_timer_arm(self, 1, 1);
    WAIT(self == NULL);
    run_ms(10);
    assert_int_equal(fired, 3);
    loop_timer_free(NULL);
}

static void set_flag(void *ctx)
{
    *(bool *)ctx = true;
}

static void a_timer_is_not_early_after_a_long_set_up(void **state)
{
    bool done = false;
    struct loop_timer *t = loop_timer_new(loop, set_flag, &done);
    uint64_t begun;

    (void)state;
    clock_sleep_ms(30); /* the loop's clock stands still meanwhile */
    begun = clock_ms();
    loop_timer_arm(t, 20, 0);
    WAIT(done);
    assert_true(clock_ms() - begun >= 19);
    loop_timer_free(t);
}

static void a_disarmed_timer_is_silent(void **state)
{
    bool done = false;
    struct loop_timer *t = loop_timer_new(loop, set_flag, &done);

    (void)state;
    loop_timer_arm(t, 1, 0);
    loop_timer_disarm(t);
    run_ms(10);
    assert_false(done);
    loop_timer_arm(t, 1, 0); /* left armed: loop_free takes it along */
}

static void signals_reach_the_loop(void **state)
{
    bool got = false;
    struct err e;

    (void)state;
    assert_int_equal(loop_signal(loop, SIGUSR1, set_flag, &got, &e), 0);
    kill(getpid(), SIGUSR1);
    WAIT(got);
    assert_int_equal(loop_signal(loop, 9999, set_flag, &got, &e), ERR_INVAL);
    kill(getpid(), SIGPIPE); /* ignored since loop_new: the process lives on */
}

static struct loop_task task;
static int rounds;

static void task_again(void *ctx)
{
    (void)ctx;
    if (++rounds < 50)
        loop_task_run_soon(loop, &task);
}

static void put_off_work_runs_without_any_other_event(void **state)
{
    uint64_t begun = clock_ms();

    (void)state;
    loop_task_init(&task, task_again, NULL);
    loop_task_run_soon(loop, &task);
    loop_task_run_soon(loop, &task); /* waits already */
    WAIT(rounds == 50);
    assert_true(clock_ms() - begun < 1000); /* no round waited for a timer */
    loop_task_run_soon(loop, &task);
    loop_task_cancel(&task);
    run_ms(5);
    assert_int_equal(rounds, 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(posts_arrive_all_and_in_order_per_sender, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_post_may_post, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_timer_repeats_and_frees_itself, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_timer_is_not_early_after_a_long_set_up, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_disarmed_timer_is_silent, set_up, tear_down),
        cmocka_unit_test_setup_teardown(signals_reach_the_loop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(put_off_work_runs_without_any_other_event, set_up,
                                        tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
