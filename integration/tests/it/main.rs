//! The parts together: real programs on real servers. One binary, so that its tests share a broker and a registry.
#![allow(clippy::unwrap_used)]

mod api;
mod bad_input;
mod bad_nodes;
mod cli;
mod clients;
mod configuration;
mod devices;
mod evictions;
mod harness;
mod images;
mod joining;
mod mirrors;
mod namespaces;
mod order;
mod outages;
mod outbox;
mod permissions;
mod pod_cgroups;
mod pod_streams;
mod probes;
mod registration;
mod resize;
mod robustness;
mod scheduling;
mod security;
mod soak;
mod sources;
mod store_moves;
mod traces;
mod up;
mod volumes;
mod walk_through;
