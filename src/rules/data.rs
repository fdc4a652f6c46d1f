//! The rules of config maps, secrets and namespaces.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Rules, Violation, check::Check, meta};
use crate::{
    names,
    v1::{ConfigMap, Namespace, Secret},
};

const MAX_DATA: usize = 1024 * 1024;

impl Rules for ConfigMap {
    fn set_defaults(&mut self) {
        meta::set_defaults(self);
    }

    fn validate(&self) -> Vec<Violation> {
        meta::validate(self, names::check_dns_subdomain, |c| {
            let text = self.data.iter().map(|(key, value)| (key, value.len()));
            let binary = self.binary_data.iter().map(|(key, value)| (key, value.len()));
            check_size(c, text.clone().chain(binary.clone()));
            c.map("data", text, |c, key, _| c.ok(names::check_data_key(key)));
            c.map("binaryData", binary, |c, key, _| {
                c.ok(names::check_data_key(key));
                if self.data.contains_key(key) {
                    c.wrong("is in data too; a key can be in one of the two");
                }
            });
        })
    }

    fn validate_update(&self, old: &Self) -> Vec<Violation> {
        meta::validate_update(self, old, |c| {
            if !old.immutable {
                return;
            }
            c.field("immutable", |c| c.unchanged(&self.immutable, &true, SEALED));
            c.field("data", |c| c.unchanged(&self.data, &old.data, SEALED));
            c.field("binaryData", |c| {
                c.unchanged(&self.binary_data, &old.binary_data, SEALED);
            });
        })
    }
}

impl Rules for Secret {
    fn normalize(&mut self) {
        for (key, value) in std::mem::take(&mut self.string_data) {
            self.data.insert(key, Bytes::from(value));
        }
    }

    fn set_defaults(&mut self) {
        meta::set_defaults(self);
        if self.r#type.is_empty() {
            "Opaque".clone_into(&mut self.r#type);
        }
        self.normalize();
    }

    fn validate(&self) -> Vec<Violation> {
        meta::validate(self, names::check_dns_subdomain, |c| {
            check_size(c, sizes(&self.data));
            c.map("data", &self.data, |c, key, _| c.ok(names::check_data_key(key)));
            c.map("stringData", &self.string_data, |c, key, _| {
                c.ok(names::check_data_key(key));
            });
            c.field("type", |c| {
                c.not_empty(&self.r#type);
                c.at_most(&self.r#type, names::MAX_SUBDOMAIN);
            });
        })
    }

    fn validate_update(&self, old: &Self) -> Vec<Violation> {
        meta::validate_update(self, old, |c| {
            c.field("type", |c| {
                c.unchanged(
                    &self.r#type,
                    &old.r#type,
                    "delete the secret and create it with the other type",
                );
            });
            if !old.immutable {
                return;
            }
            c.field("immutable", |c| c.unchanged(&self.immutable, &true, SEALED));
            c.field("data", |c| c.unchanged(&self.data, &old.data, SEALED));
        })
    }
}

impl Rules for Namespace {
    fn set_defaults(&mut self) {
        meta::set_defaults(self);
        let status = self.status.get_or_insert_default();
        if status.phase.is_empty() {
            "Active".clone_into(&mut status.phase);
        }
    }

    fn validate(&self) -> Vec<Violation> {
        meta::validate(self, names::check_dns_label, |c| {
            let Some(status) = &self.status else { return };
            c.field("status", |c| {
                c.field("phase", |c| c.one_of(&status.phase, &["Active", "Terminating"]));
            });
        })
    }

    fn validate_update(&self, old: &Self) -> Vec<Violation> {
        meta::validate_update(self, old, |_| {})
    }
}

const SEALED: &str = "the object is immutable: delete it and create it anew";

fn sizes(data: &BTreeMap<String, Bytes>) -> impl Iterator<Item = (&String, usize)> {
    data.iter().map(|(key, value)| (key, value.len()))
}

fn check_size<'a>(c: &mut Check, entries: impl Iterator<Item = (&'a String, usize)>) {
    let size: usize = entries.map(|(key, size)| key.len() + size).sum();
    if size > MAX_DATA {
        c.field("data", |c| {
            c.wrong(format!(
                "keys and values must have at most {MAX_DATA} bytes together, but have {size}"
            ));
        });
    }
}
