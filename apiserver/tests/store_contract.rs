//! What every Store promises, run on each of them, and what only one of them can be put through.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod store_contract {
    mod embedded_file;
    mod etcd_outages;
    pub(crate) mod histories;
    pub(crate) mod subject;
    pub(crate) mod suite;
}

use store_contract::{histories, subject::Subject, suite};

macro_rules! every_claim {
    ($run:ident) => {
        $run! {
            suite::a_key_that_was_never_written_reads_as_nothing,
            suite::a_write_is_read_back_at_its_revision,
            suite::a_put_that_needs_absence_creates_once,
            suite::a_put_at_a_revision_needs_that_very_revision,
            suite::a_put_while_another_key_is_unchanged_needs_that_too,
            suite::a_delete_while_other_keys_are_unchanged_needs_them_too,
            suite::the_size_is_at_the_newest_revision,
            suite::a_delete_keeps_its_precondition_and_needs_the_key,
            suite::a_delete_leaves_its_record_or_neither_is_done,
            suite::a_refused_write_changes_nothing,
            suite::of_racing_writers_with_one_precondition_one_wins,
            suite::puts_at_once_are_writes_one_after_the_other,
            suite::puts_at_once_see_what_those_before_them_wrote,
            suite::increments_under_preconditions_lose_none,
            suite::a_list_has_the_keys_of_its_prefix_in_order,
            suite::pages_of_one_revision_are_consistent_while_others_write,
            suite::a_list_at_an_earlier_revision_shows_that_state,
            suite::the_future_is_refused,
            suite::values_up_to_the_limit_are_kept_and_larger_ones_are_refused,
            suite::a_watch_gives_each_write_once_in_order_with_what_it_replaced,
            suite::a_watch_from_an_earlier_revision_catches_up_and_goes_on,
            suite::a_catch_up_larger_than_any_message_arrives_whole,
            suite::a_watch_tells_its_progress_past_the_writes_of_others,
            suite::many_watches_see_the_same_order,
            histories::random_histories_agree_with_the_model,
        }
    };
}

macro_rules! on_embedded {
    ($($suite:ident :: $claim:ident),* $(,)?) => {
        mod embedded {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $claim() {
                $suite::$claim(&Subject::embedded()).await;
            })*
        }
    };
}

macro_rules! on_etcd {
    ($($suite:ident :: $claim:ident),* $(,)?) => {
        mod etcd {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $claim() {
                $suite::$claim(&Subject::etcd().await).await;
            })*
        }
    };
}

every_claim!(on_embedded);
every_claim!(on_etcd);

#[tokio::test]
async fn what_is_compacted_says_so_embedded() {
    suite::what_is_compacted_says_so(&Subject::embedded()).await;
}

#[tokio::test]
async fn what_is_compacted_says_so_etcd() {
    // Not the shared one: the other tests need their history.
    suite::what_is_compacted_says_so(&Subject::own_etcd().await).await;
}
