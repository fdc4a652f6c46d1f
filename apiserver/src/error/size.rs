//! How much an error may say. It travels in headers, of which many clients take 8 KiB and see no error at all where there
//! is more; and it repeats what it was sent, which may be megabytes.

use std::borrow::Cow;

use clone8s::rules::Violation;

/// Of the message, which travels twice.
const MESSAGE: usize = 1024;
/// Of all fields of the details, which grow by a third on the way.
const DETAILS: usize = 3072;
/// Of one text in the details.
const TEXT: usize = 1024;

pub(super) fn message(text: &str) -> Cow<'_, str> {
    shortened(text, MESSAGE)
}

pub(super) fn text(text: &str) -> Cow<'_, str> {
    shortened(text, TEXT)
}

/// As many as fit, the first in any case; the last one says how many more there are.
pub(super) fn violations(all: &[Violation]) -> Vec<Violation> {
    let mut left = DETAILS;
    let mut said = Vec::new();
    for (index, violation) in all.iter().enumerate() {
        let field = text(&violation.field).into_owned();
        let description = text(&violation.description).into_owned();
        let size = field.len() + description.len();
        if size > left && index > 0 {
            said.push(Violation {
                field,
                description: format!(
                    "is wrong too, as are {} more that are not told",
                    all.len() - index - 1
                ),
            });
            break;
        }
        left = left.saturating_sub(size);
        said.push(Violation { field, description });
    }
    said
}

fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let kept = &text[..text.floor_char_boundary(most)];
    Cow::Owned(format!("{kept}… ({} bytes more)", text.len() - kept.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violation(field: &str, description: &str) -> Violation {
        Violation {
            field: field.to_owned(),
            description: description.to_owned(),
        }
    }

    #[test]
    fn what_is_short_is_said_as_it_is() {
        let all = [violation("a", "is empty"), violation("b", "is empty")];
        assert_eq!(violations(&all), all);
        assert_eq!(message("is empty"), "is empty");
    }

    #[test]
    fn what_is_long_is_cut_where_a_letter_ends_and_says_so() {
        let long = "ä".repeat(MESSAGE);
        let said = message(&long);
        assert_eq!(said, format!("{}… (1024 bytes more)", "ä".repeat(MESSAGE / 2)));
    }

    #[test]
    fn of_many_violations_some_are_said_and_the_rest_is_counted() {
        let all: Vec<_> = (0..100)
            .map(|number| violation(&format!("metadata.labels[{number}]"), &"x".repeat(100)))
            .collect();
        let said = violations(&all);
        let (last, first) = said.split_last().unwrap();
        assert_eq!(first, &all[..first.len()]);
        assert!(first.len() > 20);
        let more = 100 - said.len();
        assert_eq!(last.field, all[first.len()].field);
        assert_eq!(
            last.description,
            format!("is wrong too, as are {more} more that are not told")
        );
    }
}
