//! Validates, stores, lists, watches and publishes the objects of a cluster.

pub mod store;
