//! Words that other crates define, as schemas of the contract.

use std::borrow::Cow;

use jobs::{EventKind, Level, WebhookEvent};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// A type of the documentation alone, which has the words of another.
macro_rules! words {
    ($name:ident, $words:expr) => {
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                one_of(&$words)
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    };
}

words!(EventType, EventKind::ALL.map(EventKind::as_str));
words!(EventLevel, Level::ALL.map(Level::as_str));
words!(WebhookEventType, WebhookEvent::ALL.map(WebhookEvent::as_str));
words!(AttemptOutcome, ["succeeded", "failed", "cancelled", "retried", "released", "worker_lost"]);

fn one_of(words: &[&str]) -> RefOr<Schema> {
    RefOr::T(Schema::Object(
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.iter().copied())).build(),
    ))
}
