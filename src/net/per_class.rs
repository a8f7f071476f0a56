//! One of something for each class of messages.

use serde::{Deserialize, Serialize};

use crate::types::MessageClass;

/// One value for each [`MessageClass`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerClass<T> {
    /// Of [`MessageClass::Votes`].
    pub votes: T,
    /// Of [`MessageClass::Control`].
    pub control: T,
    /// Of [`MessageClass::Bulk`].
    pub bulk: T,
}

impl<T> PerClass<T> {
    /// Makes one for each class.
    pub fn from_fn(mut make: impl FnMut(MessageClass) -> T) -> Self {
        Self { votes: make(MessageClass::Votes), control: make(MessageClass::Control), bulk: make(MessageClass::Bulk) }
    }

    /// The one of a class.
    #[must_use]
    pub fn get(&self, class: MessageClass) -> &T {
        match class {
            MessageClass::Votes => &self.votes,
            MessageClass::Control => &self.control,
            MessageClass::Bulk => &self.bulk,
        }
    }
}
