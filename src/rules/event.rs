//! The rules of events.

use super::{Rules, Violation, meta};
use crate::{names, v1::Event};

const MAX_MESSAGE: usize = 1024;
const MAX_REASON: usize = 128;

impl Rules for Event {
    fn set_defaults(&mut self) {
        meta::set_defaults(self);
        if self.r#type.is_empty() {
            "Normal".clone_into(&mut self.r#type);
        }
        self.count = self.count.max(1);
    }

    fn validate(&self) -> Vec<Violation> {
        meta::validate(self, names::check_dns_subdomain, |c| {
            c.field("involvedObject", |c| match &self.involved_object {
                None => c.wrong("must name the object that the event is about"),
                Some(object) => {
                    c.field("kind", |c| c.not_empty(&object.kind));
                    c.field("name", |c| c.not_empty(&object.name));
                }
            });
            c.field("reason", |c| {
                c.at_most(&self.reason, MAX_REASON);
                if !is_camel_case(&self.reason) {
                    c.wrong(format!(
                        "must be one CamelCase word such as \"Scheduled\", but is {:?}",
                        self.reason
                    ));
                }
            });
            c.field("message", |c| c.at_most(&self.message, MAX_MESSAGE));
            c.field("type", |c| c.one_of(&self.r#type, &["Normal", "Warning"]));
        })
    }

    fn validate_update(&self, old: &Self) -> Vec<Violation> {
        meta::validate_update(self, old, |c| {
            c.field("involvedObject", |c| {
                c.unchanged(
                    &self.involved_object,
                    &old.involved_object,
                    "create another event",
                );
            });
        })
    }
}

fn is_camel_case(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_uppercase()) && word.chars().all(|c| c.is_ascii_alphanumeric())
}
