//! A pod's priority, from the class that it names or from the default one.

use clone8s::{
    object::Object as _,
    rules::{DEFAULT_PREEMPTION_POLICY, SYSTEM_CLASSES, Violation},
    v1::{Pod, PriorityClass},
};

struct Class {
    name: String,
    value: i32,
    preemption_policy: String,
}

/// Writes the priority into the pod. A pod keeps for its life the one that it was created with.
pub(super) fn resolve(pod: &mut Pod, old: Option<&Pod>, classes: &[PriorityClass]) -> Vec<Violation> {
    let spec = pod.spec.get_or_insert_default();
    if let Some(old) = old.and_then(|old| old.spec.as_ref())
        && [old.priority_class_name.as_str(), ""].contains(&spec.priority_class_name.as_str())
    {
        spec.priority_class_name.clone_from(&old.priority_class_name);
        spec.priority = old.priority;
        spec.preemption_policy.clone_from(&old.preemption_policy);
        return Vec::new();
    }
    let wrong = |field: &str, description: String| {
        vec![Violation {
            field: format!("spec.{field}"),
            description,
        }]
    };
    if old.is_some() {
        let description = "cannot be changed: delete the pod and create it anew".to_owned();
        return wrong("priorityClassName", description);
    }
    let Some(class) = find(&spec.priority_class_name, classes) else {
        return match (spec.priority_class_name.as_str(), spec.priority) {
            ("", None | Some(0)) => Vec::new(),
            ("", Some(asked)) => wrong("priority", format!("is {asked}, but without a class it is 0")),
            (name, _) => wrong(
                "priorityClassName",
                format!("there is no priority class {name:?}"),
            ),
        };
    };
    if let Some(asked) = spec.priority.filter(|asked| *asked != class.value) {
        let description = format!("is {asked}, but its class gives {}: leave it out", class.value);
        return wrong("priority", description);
    }
    let asked = &spec.preemption_policy;
    if !asked.is_empty() && *asked != class.preemption_policy {
        let description = format!(
            "is {asked:?}, but its class gives {:?}: leave it out",
            class.preemption_policy
        );
        return wrong("preemptionPolicy", description);
    }
    spec.priority_class_name = class.name;
    spec.priority = Some(class.value);
    spec.preemption_policy = class.preemption_policy;
    Vec::new()
}

/// The class of a name, or the default one for "".
fn find(name: &str, classes: &[PriorityClass]) -> Option<Class> {
    if let Some((name, value)) = SYSTEM_CLASSES.iter().find(|(system, _)| *system == name) {
        return Some(Class {
            name: (*name).to_owned(),
            value: *value,
            preemption_policy: DEFAULT_PREEMPTION_POLICY.to_owned(),
        });
    }
    let found = if name.is_empty() {
        let defaults = classes.iter().filter(|class| class.global_default);
        defaults.min_by_key(|class| class.value)
    } else {
        classes.iter().find(|class| class.name() == name)
    };
    found.map(|class| Class {
        name: class.name().to_owned(),
        value: class.value,
        preemption_policy: class.preemption_policy.clone(),
    })
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{ObjectMeta, PodSpec};

    use super::*;

    fn class(name: &str, value: i32, global_default: bool) -> PriorityClass {
        PriorityClass {
            metadata: Some(ObjectMeta {
                name: name.into(),
                ..ObjectMeta::default()
            }),
            value,
            global_default,
            preemption_policy: "Never".into(),
            ..PriorityClass::default()
        }
    }

    fn pod(class: &str) -> Pod {
        Pod {
            spec: Some(PodSpec {
                priority_class_name: class.into(),
                ..PodSpec::default()
            }),
            ..Pod::default()
        }
    }

    fn resolved(mut pod: Pod, classes: &[PriorityClass]) -> (String, Option<i32>, String) {
        assert_eq!(resolve(&mut pod, None, classes), []);
        let spec = pod.spec.unwrap();
        (spec.priority_class_name, spec.priority, spec.preemption_policy)
    }

    #[test]
    fn a_pod_gets_the_priority_of_its_class_or_of_the_default() {
        let classes = [
            class("high", 100, false),
            class("usual", 7, true),
            class("other", 9, true),
        ];
        assert_eq!(
            resolved(pod("high"), &classes),
            ("high".into(), Some(100), "Never".into())
        );
        assert_eq!(
            resolved(pod(""), &classes),
            ("usual".into(), Some(7), "Never".into())
        );
        assert_eq!(resolved(pod(""), &[]), (String::new(), None, String::new()));
        assert_eq!(resolved(pod("system-node-critical"), &[]).1, Some(2_000_001_000));
    }

    #[test]
    fn a_class_that_is_not_there_and_a_priority_that_is_not_the_classs_are_refused() {
        let refused = resolve(&mut pod("nowhere"), None, &[]);
        assert_eq!(refused[0].field, "spec.priorityClassName");
        let mut own = pod("high");
        own.spec.as_mut().unwrap().priority = Some(5);
        let refused = resolve(&mut own, None, &[class("high", 100, false)]);
        assert_eq!(refused[0].field, "spec.priority");
    }

    #[test]
    fn an_update_keeps_the_priority_and_cannot_change_the_class() {
        let mut old = pod("high");
        resolve(&mut old, None, &[class("high", 100, false)]);
        let mut new = pod("");
        assert_eq!(resolve(&mut new, Some(&old), &[]), []);
        assert_eq!(new, old);
        let refused = resolve(&mut pod("other"), Some(&old), &[class("other", 1, false)]);
        assert_eq!(refused[0].field, "spec.priorityClassName");
    }
}
