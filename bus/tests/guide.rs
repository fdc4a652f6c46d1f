//! `docs/events.md` is part of the public interface, so what it names is held to the code.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use clone8s_bus::{
    DEAD_QUEUE, DEAD_QUEUE_MESSAGES, EVENTS_EXCHANGE, METRICS_EXCHANGE, NODE_QUEUE_BYTES,
    NODE_QUEUE_MESSAGES, NODES_EXCHANGE, ORIGIN_HEADER, REASON_HEADER, node_queue,
};

#[test]
fn the_guide_to_events_names_what_the_code_uses() {
    let guide = std::fs::read_to_string("../docs/events.md").unwrap();
    let mebibytes = format!("{} MiB", NODE_QUEUE_BYTES >> 20);
    for words in [
        format!("`{EVENTS_EXCHANGE}` | topic exchange"),
        format!("`{NODES_EXCHANGE}` | direct exchange"),
        format!("`{METRICS_EXCHANGE}` | topic exchange"),
        format!("`{DEAD_QUEUE}` | quorum queue"),
        format!("`{}` | quorum queue", node_queue("<name>")),
        format!("keeps {NODE_QUEUE_MESSAGES} messages or {mebibytes}"),
        format!("keeps the last {DEAD_QUEUE_MESSAGES} messages or {mebibytes}"),
        format!("`{REASON_HEADER}`"),
        format!("`{ORIGIN_HEADER}`"),
    ] {
        assert!(guide.contains(&words), "docs/events.md does not say: {words}");
    }
}
