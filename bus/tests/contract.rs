//! What every EventBus promises, run on each of them.

mod contract {
    mod broker_outages;
    mod frames;
    pub(crate) mod suite;
    mod users;
}

use clone8s_bus::{
    amqp::{AmqpBus, AmqpConfig},
    local::LocalBus,
};
use clone8s_integration::RabbitMq;
use contract::suite;

macro_rules! on_local {
    ($($claim:ident),* $(,)?) => {
        mod local {
            use super::*;
            $(#[tokio::test]
            async fn $claim() {
                suite::$claim(&LocalBus::new()).await;
            })*
        }
    };
}

macro_rules! on_amqp {
    ($($claim:ident),* $(,)?) => {
        mod amqp {
            use super::*;
            $(#[tokio::test]
            async fn $claim() {
                let broker = RabbitMq::shared().await;
                let bus = AmqpBus::connect(&AmqpConfig::new(broker.vhost())).expect("a valid address");
                suite::$claim(&bus).await;
            })*
        }
    };
}

macro_rules! every_claim {
    ($run:ident) => {
        $run! {
            a_message_arrives_as_it_was_sent,
            a_node_queue_keeps_messages_while_nobody_listens,
            what_was_not_acknowledged_comes_back_in_order,
            what_was_acknowledged_does_not_come_back,
            a_rejected_message_becomes_a_dead_letter_and_blocks_nothing,
            messages_to_one_key_arrive_in_the_order_of_publishing,
            no_more_than_the_prefetch_is_outstanding,
            a_node_gets_only_its_own_messages,
            two_subscribers_of_one_node_share_its_messages,
            a_pattern_selects_events,
            a_message_to_a_node_that_never_listened_is_unroutable,
            an_unknown_exchange_is_refused_by_name,
            a_cancelled_wait_loses_nothing,
        }
    };
}

every_claim!(on_local);
every_claim!(on_amqp);
