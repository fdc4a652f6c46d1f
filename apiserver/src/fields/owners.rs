//! Who has named which fields of an object: [`ManagedFields`] of its metadata, read and written.

use clone8s::v1::{ManagedFields, ObjectMeta};
use pbjson_types::Timestamp;

use super::{set::FieldSet, tree::Difference};
use crate::error::ApiError;

/// Managers that one object may have. Of more that update it, the first are forgotten.
const MOST: usize = 16;
const LONGEST_NAME: usize = 128;

/// Whose fields an update changes who does not say so, where somebody else's are known.
const UNNAMED: &str = "unnamed";

/// Who writes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    name: String,
    operation: Operation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Says all that the manager wants, each time.
    Apply,
    /// Changes something.
    Update,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

impl Manager {
    /// None for an empty name.
    pub(crate) fn parse(name: &str, operation: Operation) -> Result<Option<Self>, ApiError> {
        if name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(ApiError::field(
                "the request",
                "field_manager",
                format!("must be at most {LONGEST_NAME} letters"),
            ));
        }
        Ok((!name.is_empty()).then(|| Self {
            name: name.to_owned(),
            operation,
        }))
    }

    pub(super) fn unnamed() -> Self {
        Self {
            name: UNNAMED.to_owned(),
            operation: Operation::Update,
        }
    }
}

/// A field that is not the writer's to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) field: String,
    /// Whose it is.
    pub(crate) manager: String,
}

#[derive(Debug)]
struct Owner {
    manager: String,
    operation: String,
    time: Option<Timestamp>,
    fields: FieldSet,
}

impl Owner {
    fn new(manager: &Manager) -> Self {
        Self {
            manager: manager.name.clone(),
            operation: manager.operation.word().to_owned(),
            time: None,
            fields: FieldSet::default(),
        }
    }

    fn is(&self, manager: &Manager) -> bool {
        self.manager == manager.name && self.operation == manager.operation.word()
    }
}

/// The managers of an object.
#[derive(Debug, Default)]
pub(super) struct Owners(Vec<Owner>);

impl Owners {
    /// What cannot be read names nothing.
    pub(super) fn of(meta: Option<&ObjectMeta>) -> Self {
        let managed = meta.map_or(&[][..], |meta| &meta.managed_fields);
        Self(
            managed
                .iter()
                .map(|managed| Owner {
                    manager: managed.manager.clone(),
                    operation: managed.operation.clone(),
                    time: managed.time,
                    fields: FieldSet::parse(&managed.fields).unwrap_or_default(),
                })
                .collect(),
        )
    }

    /// What a manager has named by applying.
    pub(super) fn applied_by(&self, manager: &Manager) -> FieldSet {
        let own = self.0.iter().find(|owner| owner.is(manager));
        own.map(|owner| owner.fields.clone()).unwrap_or_default()
    }

    /// What all but this way of writing have named.
    pub(super) fn beside(&self, manager: &Manager) -> FieldSet {
        let mut fields = FieldSet::default();
        for owner in self.0.iter().filter(|owner| !owner.is(manager)) {
            fields.add(&owner.fields);
        }
        fields
    }

    /// Which of the changed fields belong to managers of other names.
    pub(super) fn conflicts(&self, manager: &Manager, changed: &FieldSet) -> Vec<Conflict> {
        let others = self.0.iter().filter(|owner| owner.manager != manager.name);
        others
            .flat_map(|owner| {
                let fields = changed.common(&owner.fields);
                fields.into_iter().map(|field| Conflict {
                    field,
                    manager: owner.manager.clone(),
                })
            })
            .collect()
    }

    /// Who changes a field has it from then on, and who applies has what it names.
    pub(super) fn record(
        &mut self,
        manager: &Manager,
        applied: Option<FieldSet>,
        difference: &Difference,
        now: Timestamp,
    ) {
        let changed = difference.all();
        if applied.is_none() && changed.is_empty() {
            return;
        }
        for owner in self.0.iter_mut().filter(|owner| !owner.is(manager)) {
            owner.fields.remove(&changed);
            // What the same manager has set by an update is its to take away from now on by naming it no more.
            if let Some(applied) = applied.as_ref().filter(|_| owner.manager == manager.name) {
                owner.fields.remove(applied);
            }
        }
        let position = self.0.iter().position(|owner| owner.is(manager));
        let at = position.unwrap_or_else(|| {
            self.0.push(Owner::new(manager));
            self.0.len() - 1
        });
        let own = &mut self.0[at];
        let fields = applied.unwrap_or_else(|| {
            let mut fields = own.fields.clone();
            fields.remove(&difference.gone);
            fields.add(&difference.set);
            fields
        });
        if own.fields != fields || own.time.is_none() {
            own.fields = fields;
            own.time = Some(now);
        }
        self.0.retain(|owner| !owner.fields.is_empty());
        self.forget_beyond(MOST);
    }

    /// Rather those who update than those who apply: these are to find what they named.
    fn forget_beyond(&mut self, most: usize) {
        while self.0.len() > most {
            let update = Operation::Update.word();
            let first = self.0.iter().position(|owner| owner.operation == update);
            self.0.remove(first.unwrap_or(0));
        }
    }

    pub(super) fn written(&self) -> Vec<ManagedFields> {
        self.0
            .iter()
            .map(|owner| ManagedFields {
                manager: owner.manager.clone(),
                operation: owner.operation.clone(),
                time: owner.time,
                fields: owner.fields.to_string(),
            })
            .collect()
    }
}
